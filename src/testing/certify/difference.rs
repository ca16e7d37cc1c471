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
