//! Compares the tables of the guide with the observed behaviour.

use std::fmt::Write as _;

const CHAPTER: &str = include_str!("../../src/guide/anomalies.md");

/// The first row is the heading, the first cell of each row names it.
pub(crate) type Table = Vec<Vec<String>>;

/// The table whose heading begins with this title.
fn of_the_guide(title: &str) -> Table {
    let is_row = |line: &&str| line.starts_with('|');
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    CHAPTER
        .lines()
        .skip_while(|line| !line.starts_with(&format!("| {title} |")))
        .take_while(is_row)
        .filter(|line| !line.starts_with("|---"))
        .map(cells)
        .collect()
}

/// Fails, and prints the table to paste, unless the guide has the observed outcomes; omitted columns are not
/// compared.
pub(crate) fn assert_is_in_the_guide(seen: &Table, left_out: &[&str]) {
    let title = &seen[0][0];
    let mut written = of_the_guide(title);
    let heading = written.first().cloned().unwrap_or_default();
    for row in &mut written {
        let mut columns = heading.iter();
        row.retain(|_| columns.next().is_none_or(|name| !left_out.contains(&name.as_str())));
    }
    let differences: Vec<_> = seen
        .iter()
        .flat_map(|row| row.iter().zip(&seen[0]).skip(1).map(move |(cell, level)| (&row[0], level, cell)))
        .map(|(name, level, cell)| (name, level, cell, find(&written, name, level).unwrap_or("nothing")))
        .filter(|(_, _, cell, says)| cell != says)
        .map(|(name, level, cell, says)| format!("{name}, {level}: saw {cell:?}, the guide says {says:?}"))
        .collect();
    assert!(
        *seen == written,
        "src/guide/anomalies.md does not say what {title} did.\n{}\nThis is what it did:\n\n{}",
        differences.join("\n"),
        markdown(seen)
    );
}

fn find<'a>(table: &'a Table, name: &str, level: &str) -> Option<&'a str> {
    let column = table.first()?.iter().position(|heading| heading == level)?;
    table.iter().find(|row| row[0] == name)?.get(column).map(String::as_str)
}

fn markdown(table: &Table) -> String {
    let mut text = String::new();
    for (i, row) in table.iter().enumerate() {
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if i == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
        }
    }
    text
}
