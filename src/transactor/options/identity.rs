//! Which unit a run is of.

use super::Options;
use crate::digest::digest;
use crate::error::RunLabel;

impl Options {
    /// What tells the runs of one unit from those of others: where they are started, and their name.
    pub(in crate::transactor) fn unit(&self) -> Option<u64> {
        let place = self.location.map(|place| (place.file(), place.line(), place.column()));
        (place.is_some() || self.name.is_some()).then(|| digest(&(self.name, place)))
    }

    /// The run as its errors call it, where it has a name.
    pub(in crate::transactor) fn label(&self) -> Option<RunLabel> {
        self.name.map(|name| RunLabel { name, location: self.location })
    }
}
