//! When an attempt that has come through the gate may go on.

use crate::backend::Backend;
use crate::gate::GatePermit;
use crate::intercept::Interceptors;
use crate::isolation::{Begin, Isolation};
use crate::row_lock::RowLock;
use crate::strategy::Plan;
use crate::transactor::deadline::Timer;
use crate::transactor::retry::still_in_line;
use crate::transactor::tries::AttemptOutcome;

/// Where an attempt waits for the one before it at the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GateStage {
    /// Before it opens its transaction.
    Outside,
    /// With its transaction open, before it reads anything.
    Inside,
    /// In the database, for the rows that it locks.
    AtTheRow,
}

impl GateStage {
    /// As late as is safe, so that the database waits for nobody.
    ///
    /// `opens_bare` is false where the opening already reads or writes, or may not be followed by a pause.
    pub(super) fn of<DB: Backend>(plan: &Plan, opens_bare: bool) -> Self {
        let has_row_locks = DB::lock_clause(RowLock::NO_KEY_UPDATE).is_some();
        // A snapshot would be older than the row that was waited for.
        let sees_what_it_waited_for =
            matches!(plan.isolation, Isolation::ReadUncommitted | Isolation::ReadCommitted);
        let begins_by_locking = match plan.begin {
            Some(begin) => begin != Begin::Deferred,
            None => plan.row_lock.is_some(),
        };
        if has_row_locks && plan.row_lock.is_some() && sees_what_it_waited_for {
            Self::AtTheRow
        } else if !opens_bare || (begins_by_locking && !has_row_locks) {
            Self::Outside
        } else {
            Self::Inside
        }
    }

    /// Waits where this turn is waited for; answers the outcome of the attempt, unless it may go on.
    pub(super) async fn wait<T>(
        self,
        here: Self,
        place: Option<&mut GatePermit>,
        interceptors: &Interceptors,
        timer: &mut Timer,
    ) -> Option<AttemptOutcome<T>> {
        let place = place.filter(|_| self == here)?;
        match timer.at_gate(interceptors.while_at_gate(place.admitted())).await {
            Some(()) => None,
            None => Some(AttemptOutcome::out_of_time("at the gate", still_in_line())),
        }
    }
}

#[cfg(all(test, feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod tests {
    use sqlx::{MySql, Postgres, Sqlite};

    use super::*;

    const PLAIN: Plan = Plan::new(Isolation::ReadCommitted);
    const LOCKING: Plan = PLAIN.locking(RowLock::NO_KEY_UPDATE);

    #[test]
    fn who_locks_rows_waits_for_them() {
        for opens_bare in [true, false] {
            assert_eq!(GateStage::of::<Postgres>(&LOCKING, opens_bare), GateStage::AtTheRow);
            assert_eq!(GateStage::of::<MySql>(&LOCKING, opens_bare), GateStage::AtTheRow);
        }
    }

    #[test]
    fn a_snapshot_is_taken_when_it_is_the_turn() {
        for isolation in [Isolation::RepeatableRead, Isolation::Serializable] {
            let plan = Plan::new(isolation);
            assert_eq!(GateStage::of::<Postgres>(&plan, true), GateStage::Inside);
            assert_eq!(GateStage::of::<Postgres>(&plan, false), GateStage::Outside);
            assert_eq!(GateStage::of::<Postgres>(&plan.locking(RowLock::UPDATE), true), GateStage::Inside);
        }
    }

    #[test]
    fn nobody_holds_the_lock_of_a_whole_database_while_waiting() {
        assert_eq!(GateStage::of::<Sqlite>(&LOCKING, true), GateStage::Outside);
        assert_eq!(GateStage::of::<Sqlite>(&PLAIN, true), GateStage::Inside);
        assert_eq!(GateStage::of::<Sqlite>(&PLAIN, false), GateStage::Outside);
        let immediate = Plan { begin: Some(Begin::Immediate), ..PLAIN };
        assert_eq!(GateStage::of::<Sqlite>(&immediate, true), GateStage::Outside);
        let deferred = Plan { begin: Some(Begin::Deferred), ..LOCKING };
        assert_eq!(GateStage::of::<Sqlite>(&deferred, true), GateStage::Inside);
    }
}
