//! The identity of the unit that a run belongs to.

use std::hash::{Hash, Hasher};
use std::panic::Location;

use super::Options;
use crate::error::RunLabel;

/// The unit's name, and the location that started it, which all its runs share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transactor) struct UnitIdentity {
    name: Option<&'static str>,
    location: Option<&'static Location<'static>>,
}

impl Hash for UnitIdentity {
    /// Hashes numbers only. They tell nearly all units apart, and every run hashes them.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.location.map(|location| (location.line(), location.column())).hash(state);
        self.name.map(str::len).hash(state);
    }
}

#[cfg(test)]
impl UnitIdentity {
    pub(in crate::transactor) const fn named(name: &'static str) -> Self {
        Self { name: Some(name), location: None }
    }
}

impl Options {
    /// Returns the identity of the unit; `None` if it has neither a name nor a location.
    pub(in crate::transactor) fn unit(&self) -> Option<UnitIdentity> {
        let Self { name, location, .. } = *self;
        (location.is_some() || name.is_some()).then_some(UnitIdentity { name, location })
    }

    /// Returns the label of the run in its errors, if the unit has a name.
    pub(in crate::transactor) fn label(&self) -> Option<RunLabel> {
        self.name.map(|name| RunLabel { name, location: self.location })
    }
}
