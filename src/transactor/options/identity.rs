//! The identity of the unit that a run belongs to.

use super::Options;
use crate::digest::digest;
use crate::error::RunLabel;

impl Options {
    /// Returns a hash of the unit's name and of the location that started it, which all its runs share.
    pub(in crate::transactor) fn unit(&self) -> Option<u64> {
        let location = self.location.map(|location| (location.file(), location.line(), location.column()));
        (location.is_some() || self.name.is_some()).then(|| digest(&(self.name, location)))
    }

    /// Returns the label of the run in its errors, if the unit has a name.
    pub(in crate::transactor) fn label(&self) -> Option<RunLabel> {
        self.name.map(|name| RunLabel { name, location: self.location })
    }
}
