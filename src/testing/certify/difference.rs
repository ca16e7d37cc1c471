//! Compares two sheets.

use std::fmt;

use super::sheet::{Sheet, Standing};

/// A check whose standing differs between two sheets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SheetDifference {
    /// The name of the check.
    pub id: String,
    /// Its standing in the earlier sheet; `None` if the check is not in it.
    pub before: Option<Standing>,
    /// Its standing in the later sheet; `None` if the check is not in it.
    pub after: Option<Standing>,
}

impl fmt::Display for SheetDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |standing: Option<Standing>| standing.map_or("absent", Standing::as_str);
        write!(f, "{}: {}, was {}", self.id, text(self.after), text(self.before))
    }
}

impl Sheet {
    /// Returns the checks whose standing is not what it was in `earlier`, for example before an upgrade of
    /// the server. Versions and evidence are not compared.
    #[must_use]
    pub fn differences_from(&self, earlier: &Self) -> Vec<SheetDifference> {
        let changed = self.entries.iter().map(|entry| SheetDifference {
            id: entry.id.clone(),
            before: earlier.standing(&entry.id),
            after: Some(entry.standing),
        });
        let gone = earlier.entries.iter().filter(|entry| self.entry(&entry.id).is_none());
        let gone = gone.map(|entry| SheetDifference {
            id: entry.id.clone(),
            before: Some(entry.standing),
            after: None,
        });
        changed.chain(gone).filter(|difference| difference.before != difference.after).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::certify::SheetEntry;

    fn entry(id: &str, standing: Standing, expected: Option<Standing>) -> SheetEntry {
        let (id, promise, evidence) = (id.to_owned(), String::from("it works"), String::from("it did"));
        SheetEntry { id, promise, standing, expected, evidence }
    }

    fn sheet(entries: Vec<SheetEntry>) -> Sheet {
        Sheet { engine: String::from("SQLite"), server: String::from("SQLite 3"), nodes: 1, entries }
    }

    #[test]
    fn what_contradicts_the_engine_is_a_finding() {
        use Standing as S;

        for standing in S::ALL {
            let is_held = standing == S::Held;
            for (expected, is_finding) in
                [(None, false), (Some(S::Held), !is_held), (Some(S::NotHeld), is_held)]
            {
                let sheet = sheet(vec![entry("locks.update", standing, expected)]);
                assert_eq!(sheet.findings().len(), usize::from(is_finding), "{standing} {expected:?}");
            }
        }
    }

    #[test]
    fn sheets_differ_in_standings_and_in_checks() {
        let earlier = sheet(vec![
            entry("a", Standing::Held, None),
            entry("b", Standing::Held, None),
            entry("c", Standing::NotOffered, None),
        ]);
        let mut later = sheet(vec![
            entry("b", Standing::NotHeld, None),
            entry("c", Standing::NotOffered, None),
            entry("d", Standing::Held, None),
        ]);
        later.server = String::from("another version");
        let differences: Vec<_> = later.differences_from(&earlier).iter().map(ToString::to_string).collect();
        assert_eq!(differences, ["b: not held, was held", "d: held, was absent", "a: absent, was held"]);
        assert_eq!(earlier.differences_from(&earlier), []);
    }
}
