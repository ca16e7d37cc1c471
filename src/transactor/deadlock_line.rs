//! A line for units that have deadlocked with each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::tx::RightOfWay;

/// A deadlock that took less than this to be found costs little: its victim simply runs again, side by side
/// with others. MySQL and MariaDB look for deadlocks at once, PostgreSQL after its `deadlock_timeout`, a
/// second by default.
pub(super) const COSTLY: Duration = Duration::from_millis(50);

/// Lets the victims of costly deadlocks run again one at a time, those of each unit in a line of its own.
/// While several wait, the other runs of their unit give way: they roll back at their next statement, and
/// stand in line behind them.
///
/// # Why?
///
/// Units that lock the same rows in different orders deadlock again and again, and each deadlock holds up all
/// of them until the server looks for it. Of sixty units that each update ten rows in an order of their own,
/// not one may be done after ten seconds. One at a time, each of them takes milliseconds.
///
/// # Why only then?
///
/// The order in which a unit locks its rows is a property of its code, so units are told apart by where they
/// are started. While deadlocks are rare, most runs of a unit never wait in this line.
///
/// A line is kept once it exists: there are no more of them than places in the program that start units.
#[derive(Debug, Clone, Default)]
pub(super) struct DeadlockLine(Arc<Mutex<HashMap<u64, Arc<Line>>>>);

#[derive(Debug)]
struct Line {
    turn: Arc<Semaphore>,
    way: RightOfWay,
}

/// One run of a unit, at its line; dropping it lets the next one go.
#[derive(Debug)]
pub(super) struct Turn {
    line: Arc<Line>,
    is_victim: bool,
    waits: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl DeadlockLine {
    /// Joins the line of this unit. Only the victim of a deadlock has to wait, or who comes behind a crowd of
    /// victims.
    pub(super) fn join(&self, unit: u64, is_victim: bool) -> Turn {
        let new = || Arc::new(Line { turn: Arc::new(Semaphore::new(1)), way: RightOfWay::default() });
        let line = self.lines().entry(unit).or_insert_with(new).clone();
        let waits = is_victim || line.way.is_taken();
        if is_victim {
            line.way.add_victim();
        }
        let permit = if waits { line.turn.clone().try_acquire_owned().ok() } else { None };
        Turn { line, is_victim, waits, permit }
    }

    /// Nothing panics while it is held.
    fn lines(&self) -> MutexGuard<'_, HashMap<u64, Arc<Line>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Whether others have to be waited for.
    pub(super) const fn is_to_come(&self) -> bool {
        self.waits && self.permit.is_none()
    }

    /// Waits for those in front, first come, first served.
    ///
    /// Cancellation: the line closes up.
    pub(super) async fn come(&mut self) {
        // Nothing closes the semaphore.
        self.permit = self.line.turn.clone().acquire_owned().await.ok();
    }

    /// To whom a run without a turn gives way.
    pub(super) fn gives_way_to(&self) -> Option<RightOfWay> {
        self.permit.is_none().then(|| self.line.way.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_victim {
            self.line.way.remove_victim();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn victims_of_one_unit_run_one_at_a_time() {
        let line = DeadlockLine::default();
        let (first, mut second) = (line.join(1, true), line.join(1, true));
        assert!(!first.is_to_come() && second.is_to_come());
        assert!(!line.join(2, true).is_to_come(), "another unit");
        assert!(second.come().now_or_never().is_none());
        drop(first);
        assert!(second.come().now_or_never().is_some());
        assert!(second.gives_way_to().is_none());
    }

    #[test]
    fn others_give_way_to_a_crowd_of_victims_only() {
        let line = DeadlockLine::default();
        let runs = line.join(1, false);
        let gives_way = || runs.gives_way_to().is_some_and(|way| way.is_taken());
        assert!(!runs.is_to_come() && !gives_way());
        let first = line.join(1, true);
        assert!(!line.join(1, false).is_to_come() && !gives_way(), "one is no crowd");
        let second = line.join(1, true);
        let behind = line.join(1, false);
        assert!(behind.is_to_come() && gives_way() && !line.join(2, false).is_to_come());
        drop((first, second));
        assert!(!line.join(1, false).is_to_come() && !gives_way(), "those who came behind victims are none");
    }
}
