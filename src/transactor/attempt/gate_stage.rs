//! How far an attempt gets before it waits for its turn at the gate.

use crate::backend::Backend;
use crate::gate::GatePermit;
use crate::isolation::{Begin, Isolation};
use crate::strategy::Plan;
use crate::transactor::deadline::Timer;
use crate::transactor::options::Options;
use crate::transactor::retryable::AttemptOutcome;
use crate::transactor::waiting::waiting_at_gate;

/// The stage at which an attempt waits for the previous attempt with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GateStage {
    /// Before it opens its transaction.
    Outside,
    /// With its transaction open, before it reads anything.
    Inside,
    /// In the database, when it requests the row locks.
    AtTheRow,
}

impl GateStage {
    /// Returns the latest stage at which waiting is safe, so that the database is idle as little as
    /// possible.
    ///
    /// `opens_bare` is false if opening the transaction already reads or writes, or if it must not be
    /// followed by a pause.
    pub(super) fn of<DB: Backend>(plan: &Plan, opens_bare: bool) -> Self {
        let has_row_locks = DB::HAS_ROW_LOCKS;
        // A snapshot would be older than the row that the attempt waited for.
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

    /// Waits for the turn at the gate, if `here` is the stage at which the attempt waits. Fails with the
    /// outcome of the attempt if the deadline passes first.
    pub(super) async fn wait<T>(
        self,
        here: Self,
        permit: Option<&mut GatePermit>,
        options: &Options,
        timer: &mut Timer,
    ) -> Result<(), AttemptOutcome<T>> {
        let Some(permit) = permit.filter(|_| self == here) else { return Ok(()) };
        // Boxed, because in place it would enlarge the future of every run.
        let admitted = Box::pin(options.interceptors().while_at_gate(permit.admitted()));
        match timer.at_gate(admitted).await {
            Some(()) => Ok(()),
            None => Err(AttemptOutcome::out_of_time("at the gate", waiting_at_gate())),
        }
    }
}

#[cfg(all(test, feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod tests {
    use sqlx::{MySql, Postgres, Sqlite};

    use super::*;
    use crate::row_lock::RowLock;

    const PLAIN: Plan = Plan::new(Isolation::ReadCommitted);
    const LOCKING: Plan = PLAIN.locking(RowLock::NO_KEY_UPDATE);

    #[test]
    fn a_locking_plan_waits_at_the_row_not_at_the_gate() {
        for opens_bare in [true, false] {
            assert_eq!(GateStage::of::<Postgres>(&LOCKING, opens_bare), GateStage::AtTheRow);
            assert_eq!(GateStage::of::<MySql>(&LOCKING, opens_bare), GateStage::AtTheRow);
        }
    }

    #[test]
    fn a_snapshot_is_taken_after_the_turn_at_the_gate() {
        for isolation in [Isolation::RepeatableRead, Isolation::Serializable] {
            let plan = Plan::new(isolation);
            assert_eq!(GateStage::of::<Postgres>(&plan, true), GateStage::Inside);
            assert_eq!(GateStage::of::<Postgres>(&plan, false), GateStage::Outside);
            assert_eq!(GateStage::of::<Postgres>(&plan.locking(RowLock::UPDATE), true), GateStage::Inside);
        }
    }

    #[test]
    fn the_lock_of_a_whole_database_is_not_held_at_the_gate() {
        assert_eq!(GateStage::of::<Sqlite>(&LOCKING, true), GateStage::Outside);
        assert_eq!(GateStage::of::<Sqlite>(&PLAIN, true), GateStage::Inside);
        assert_eq!(GateStage::of::<Sqlite>(&PLAIN, false), GateStage::Outside);
        let immediate = Plan { begin: Some(Begin::Immediate), ..PLAIN };
        assert_eq!(GateStage::of::<Sqlite>(&immediate, true), GateStage::Outside);
        let deferred = Plan { begin: Some(Begin::Deferred), ..LOCKING };
        assert_eq!(GateStage::of::<Sqlite>(&deferred, true), GateStage::Inside);
    }
}
