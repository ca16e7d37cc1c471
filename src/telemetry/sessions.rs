//! Registry of the server sessions that this process uses, so that deadlock reports can name its units.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use super::attempt_log::AttemptLog;
use crate::deadlock::{DeadlockParty, DeadlockReport, DeadlockUnit};

/// A server session: the identity of the pool, and the session's number on the server.
pub(crate) type SessionId = (usize, i64);

/// Above this number of sessions, those without a running attempt are removed.
const MAX_SESSIONS: usize = 1024;

/// The last two attempts in a session. By the time the victim of a deadlock receives its error, the other
/// transaction may have committed and another attempt may be using its session.
#[derive(Default)]
struct SessionUse {
    current: Option<UsedBy>,
    previous: Option<UsedBy>,
}

struct UsedBy {
    unit: DeadlockUnit,
    attempt: Weak<AttemptLog>,
    /// When its transaction ended.
    until: Option<Instant>,
}

fn sessions() -> MutexGuard<'static, HashMap<SessionId, SessionUse>> {
    static SESSIONS: LazyLock<Mutex<HashMap<SessionId, SessionUse>>> = LazyLock::new(Mutex::default);
    SESSIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that `attempt` has opened a transaction in `session`.
pub(super) fn enter(session: SessionId, attempt: &Arc<AttemptLog>) {
    let used_by = UsedBy { unit: attempt.unit(), attempt: Arc::downgrade(attempt), until: None };
    let mut sessions = sessions();
    if sessions.len() >= MAX_SESSIONS {
        let is_running = |used: &UsedBy| used.attempt.strong_count() > 0;
        sessions.retain(|_, session| session.current.as_ref().is_some_and(is_running));
    }
    let session = sessions.entry(session).or_default();
    session.previous = session.current.replace(used_by);
}

/// Records that the transaction in `session` has ended.
pub(super) fn leave(session: SessionId) {
    if let Some(current) = sessions().get_mut(&session).and_then(|session| session.current.as_mut()) {
        current.until = Some(Instant::now());
    }
}

/// Fills in the units of this process in a deadlock report, `victim` as the first party. `requested` is when
/// the victim requested the lock.
pub(super) fn name_parties(
    report: &mut DeadlockReport,
    pool: usize,
    requested: Instant,
    victim: &AttemptLog,
) {
    if report.parties.is_empty() {
        report.parties.push(DeadlockParty::default());
    }
    let sessions = sessions();
    let mut parties = report.parties.iter_mut();
    if let Some(first) = parties.next() {
        (first.unit, first.statements) = (Some(victim.unit()), victim.statements());
    }
    for party in parties {
        let session = party.session.and_then(|session| sessions.get(&(pool, session)));
        let Some(used_by) = session.and_then(|session| session.used_at(requested)) else { continue };
        party.unit = Some(used_by.unit);
        if let Some(attempt) = used_by.attempt.upgrade() {
            party.statements = attempt.statements();
        }
    }
}

impl SessionUse {
    /// Returns the attempt that used the session at `time`, or the next one after it.
    fn used_at(&self, time: Instant) -> Option<&UsedBy> {
        let still_open = |used: &&UsedBy| used.until.is_none_or(|until| until >= time);
        self.previous.as_ref().filter(still_open).or(self.current.as_ref())
    }
}
