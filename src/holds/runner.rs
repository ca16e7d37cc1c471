//! What all handles of a column share.

use super::settings::HoldSettings;
use super::single_statement::SingleHoldStatement;
use super::{HoldKey, HoldTransactor};
use crate::backend::Backend;
use crate::events::{Event, HoldEvent};
use crate::transactor::Options;

/// The settings of a column, and how its holds are stored.
pub(super) struct Runner<DB: Backend, K> {
    pub(super) db: HoldTransactor<DB>,
    pub(super) settings: HoldSettings,
    pub(super) single_statement: SingleHoldStatement<DB, K>,
}

impl<DB: Backend, K: HoldKey<DB>> Runner<DB, K> {
    pub(super) fn new(db: HoldTransactor<DB>, settings: HoldSettings) -> Self {
        let db = db.options(settings.options.or(&Options::new().named("holds")));
        let single_statement = SingleHoldStatement::new(&settings);
        Self { db, settings, single_statement }
    }

    pub(super) fn notify(&self, event: HoldEvent<'_>) {
        self.db.notify(&Event::Hold { column: &self.settings.name, event });
    }

    pub(super) fn report(&self, held: usize, refused: usize) {
        if held > 0 {
            self.notify(HoldEvent::Held { holds: held });
        }
        if refused > 0 {
            self.notify(HoldEvent::Refused { calls: refused });
        }
    }
}
