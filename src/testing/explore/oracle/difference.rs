//! Shows the outcome of a schedule beside that of a serial order.

use std::fmt;

use super::compared::{ComparedTable, TextRow};
use super::ends::ClientEnd;

/// The width of each side, in characters.
const WIDTH: usize = 54;
/// How many equal rows of a table are shown.
const MAX_EQUAL_ROWS: usize = 5;
/// How many different rows of a table are shown.
const MAX_DIFFERENT_ROWS: usize = 20;

/// What a schedule left in the tables and what its clients returned, beside the nearest serial order.
///
/// Its `Display` shows them side by side, row by row. Differences are marked with `≠`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialDifference {
    order: Vec<String>,
    sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    title: String,
    lines: Vec<ComparedLine>,
    /// How many equal and different lines are not shown.
    omitted: [usize; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ComparedLine {
    found: String,
    serial: String,
    differs: bool,
}

impl SerialDifference {
    pub(super) const fn new(order: Vec<String>) -> Self {
        Self { order, sections: Vec::new() }
    }

    /// Returns the names of the clients in the nearest serial order. Clients that count as not having run are
    /// left out.
    #[must_use]
    pub fn order(&self) -> &[String] {
        &self.order
    }

    pub(super) fn add_table(&mut self, table: &ComparedTable, found: &[TextRow], serial: &[TextRow]) {
        let mut section = Section { title: table.name.clone(), lines: Vec::new(), omitted: [0, 0] };
        let (only_found, only_serial) = differing_rows(found, serial);
        let mut rest = only_found.clone();
        let equal = found.iter().filter(|row| match rest.iter().position(|other| other == *row) {
            Some(at) => {
                rest.remove(at);
                false
            }
            None => true,
        });
        let show = |row: &TextRow| {
            let values = row.iter().zip(&table.columns);
            values.map(|(value, column)| format!("{} = {value}", column.name)).collect::<Vec<_>>().join(", ")
        };
        for row in equal {
            section.add(ComparedLine { found: show(row), serial: show(row), differs: false });
        }
        for (found, serial) in paired(only_found, only_serial) {
            let [found, serial] = [found, serial].map(|row| row.as_ref().map(show).unwrap_or_default());
            section.add(ComparedLine { found, serial, differs: true });
        }
        self.sections.push(section);
    }

    pub(super) fn add_end(
        &mut self,
        client: &str,
        found: Option<&ClientEnd>,
        serial: Option<&ClientEnd>,
        differs: bool,
    ) {
        let show = |end: Option<&ClientEnd>| match end {
            Some(ClientEnd::Returned(value)) => value.clone(),
            Some(ClientEnd::NotRun(error)) => format!("not run: {error}"),
            Some(ClientEnd::Unknown(error)) => format!("unknown: {error}"),
            None => String::from("not run"),
        };
        let mut section = Section { title: format!("{client} returned"), lines: Vec::new(), omitted: [0, 0] };
        section.add(ComparedLine { found: show(found), serial: show(serial), differs });
        self.sections.push(section);
    }
}

impl Section {
    fn add(&mut self, line: ComparedLine) {
        let max = if line.differs { MAX_DIFFERENT_ROWS } else { MAX_EQUAL_ROWS };
        if self.lines.iter().filter(|other| other.differs == line.differs).count() < max {
            self.lines.push(line);
        } else {
            self.omitted[usize::from(line.differs)] += 1;
        }
    }
}

/// The rows that only one side has. Both sides are sorted.
pub(super) fn differing_rows(found: &[TextRow], serial: &[TextRow]) -> (Vec<TextRow>, Vec<TextRow>) {
    let mut only_serial = serial.to_vec();
    let is_different = |row: &&TextRow| match only_serial.iter().position(|other| other == *row) {
        Some(at) => {
            only_serial.remove(at);
            false
        }
        None => true,
    };
    let only_found = found.iter().filter(is_different).cloned().collect();
    (only_found, only_serial)
}

/// Pairs each row with the one on the other side that is most like it.
fn paired(found: Vec<TextRow>, mut serial: Vec<TextRow>) -> Vec<(Option<TextRow>, Option<TextRow>)> {
    let equal_values =
        |one: &TextRow, other: &TextRow| one.iter().zip(other).filter(|(one, other)| one == other).count();
    let mut pairs = Vec::new();
    for row in found {
        let likeness = |at: &usize| (equal_values(&row, &serial[*at]), std::cmp::Reverse(*at));
        let partner = (0..serial.len()).max_by_key(likeness).map(|at| serial.remove(at));
        pairs.push((Some(row), partner));
    }
    pairs.extend(serial.into_iter().map(|row| (None, Some(row))));
    pairs
}

impl fmt::Display for SerialDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.order.is_empty() { String::from("no unit") } else { self.order.join(", then ") };
        write_line(f, ' ', "this schedule", &order)?;
        writeln!(f, "    {}─┼─{}", "─".repeat(WIDTH), "─".repeat(WIDTH))?;
        for section in &self.sections {
            write_line(f, ' ', &section.title, &section.title)?;
            for line in &section.lines {
                let sides = [&line.found, &line.serial].map(|text| format!("  {text}"));
                write_line(f, if line.differs { '≠' } else { ' ' }, &sides[0], &sides[1])?;
            }
            let [equal, different] = section.omitted;
            if equal > 0 {
                writeln!(f, "      and {equal} more equal rows")?;
            }
            if different > 0 {
                writeln!(f, "      and {different} more different rows")?;
            }
        }
        Ok(())
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, mark: char, found: &str, serial: &str) -> fmt::Result {
    let options = textwrap::Options::new(WIDTH).subsequent_indent("    ");
    let [found, serial] = [found, serial].map(|text| textwrap::wrap(text, &options));
    for i in 0..found.len().max(serial.len()) {
        let [found, serial] = [&found, &serial].map(|lines| lines.get(i).map_or("", |line| line));
        let mark = if i == 0 { mark } else { ' ' };
        writeln!(f, "{}", format!("  {mark} {found:<WIDTH$} │ {serial}").trim_end())?;
    }
    Ok(())
}
