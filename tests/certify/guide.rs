//! The tables in the guide's chapters on engines say what the sheets say.

use std::collections::BTreeMap;

use crate::sheets::snapshot;

/// The chapters with the snapshots of their sheets.
const CHAPTERS: [(&str, &str); 7] = [
    ("postgresql", "postgresql"),
    ("pgbouncer", "pgbouncer"),
    ("mysql", "mysql_9"),
    ("mariadb", "mariadb"),
    ("galera", "galera"),
    ("group_replication", "group_replication_9"),
    ("sqlite", "sqlite"),
];

type Cells = BTreeMap<String, String>;

/// The last cell of each row, by the id in the first one.
fn of_the_chapter(text: &str) -> Cells {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let id = cells.next().expect("an id").trim_matches('`').to_owned();
        (id, cells.next_back().expect("a cell").to_owned())
    };
    rows.map(row).collect()
}

/// What the cell of each check must begin with. The checks of an isolation level share a row.
fn of_the_sheet(sheet: &str) -> Cells {
    let mut levels: BTreeMap<String, Vec<(&str, &str)>> = BTreeMap::new();
    let mut cells = Cells::new();
    for (id, standing) in sheet.lines().filter_map(|line| line.split_once(": ")) {
        match id.rsplit_once('.') {
            Some((level, anomaly)) if id.starts_with("isolation.") => {
                levels.entry(level.to_owned()).or_default().push((anomaly, standing));
            }
            _ => _ = cells.insert(id.to_owned(), word(standing).to_owned()),
        }
    }
    for (level, anomalies) in levels {
        let possible: Vec<&str> = anomalies
            .iter()
            .filter(|(_, standing)| *standing != "held")
            .map(|(anomaly, _)| *anomaly)
            .collect();
        let cell = if possible.is_empty() {
            String::from("holds")
        } else if anomalies.iter().all(|(_, standing)| *standing == "not offered") {
            String::from("not offered")
        } else {
            format!("does not hold: {}", possible.join(", "))
        };
        cells.insert(level, cell);
    }
    cells
}

fn word(standing: &str) -> &str {
    match standing {
        "held" => "holds",
        "not held" => "does not hold",
        other => other,
    }
}

/// Where a promise is not kept, the chapter may say with what it holds.
fn says(cell: &str, expected: &str) -> bool {
    cell == expected || expected != "holds" && cell.starts_with("holds with ")
}

#[test]
fn the_tables_of_the_guide_are_those_of_the_sheets() {
    for (name, sheet) in CHAPTERS {
        let file = format!("{}/src/guide/engines/{name}.md", env!("CARGO_MANIFEST_DIR"));
        let chapter = std::fs::read_to_string(file).expect("a chapter");
        let (written, seen) = (of_the_chapter(&chapter), of_the_sheet(&snapshot(sheet)));
        assert!(seen.len() > 25, "{name} has no sheet");
        let ids: (Vec<_>, Vec<_>) = (written.keys().collect(), seen.keys().collect());
        assert_eq!(ids.0, ids.1, "the chapter {name} has other checks than the sheet");
        for (id, expected) in seen {
            let cell = &written[&id];
            assert!(says(cell, &expected), "{name}, {id}: the chapter says {cell:?}, the sheet {expected:?}");
        }
    }
}

/// PostgreSQL 18 has no chapter of its own.
#[test]
fn the_sheet_of_postgresql_18_is_that_of_15() {
    let (new, old) = (snapshot("postgresql_18"), snapshot("postgresql"));
    assert_eq!(new, old);
}
