//! Which unit of this process is, or was a moment ago, at work in which of the server's sessions.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use super::RunClock;
use crate::deadlock::{DeadlockParty, DeadlockReport, DeadlockUnit};

/// A session of a server: the pool that it is reached through, and its number.
pub(crate) type SessionId = (usize, i64);

/// How many sessions are remembered before those are forgotten that nobody is in.
const SESSIONS_KEPT: usize = 1024;

/// Who was in a session. Two of them: by the time that the victim of a deadlock hears of it, the other side
/// may have committed and given its session to somebody else.
#[derive(Default)]
struct Guests {
    last: Option<Guest>,
    one_before: Option<Guest>,
}

struct Guest {
    unit: DeadlockUnit,
    run: Weak<RunClock>,
    until: Option<Instant>,
}

fn sessions() -> MutexGuard<'static, HashMap<SessionId, Guests>> {
    static SESSIONS: LazyLock<Mutex<HashMap<SessionId, Guests>>> = LazyLock::new(Mutex::default);
    SESSIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A transaction of this run is open in this session.
pub(super) fn entered(session: SessionId, run: &Arc<RunClock>) {
    let guest = Guest { unit: run.unit(), run: Arc::downgrade(run), until: None };
    let mut sessions = sessions();
    if sessions.len() >= SESSIONS_KEPT {
        sessions.retain(|_, guests| guests.last.as_ref().is_some_and(|last| last.run.strong_count() > 0));
    }
    let guests = sessions.entry(session).or_default();
    guests.one_before = guests.last.replace(guest);
}

/// It has ended.
pub(super) fn left(session: SessionId) {
    if let Some(last) = sessions().get_mut(&session).and_then(|guests| guests.last.as_mut()) {
        last.until = Some(Instant::now());
    }
}

/// Says which units of this process the parties of a deadlock are. The first party is this run, which asked
/// for its lock at this time.
pub(super) fn name(report: &mut DeadlockReport, pool: usize, asked: Instant, run: &RunClock) {
    if report.parties.is_empty() {
        report.parties.push(DeadlockParty::default());
    }
    let sessions = sessions();
    let mut parties = report.parties.iter_mut();
    if let Some(victim) = parties.next() {
        (victim.unit, victim.statements) = (Some(run.unit()), run.statements());
    }
    for party in parties {
        let guests = party.session.and_then(|session| sessions.get(&(pool, session)));
        let Some(guest) = guests.and_then(|guests| guests.at(asked)) else { continue };
        party.unit = Some(guest.unit);
        // Unless it has gone on to another attempt.
        if let Some(other) = guest.run.upgrade().filter(|other| other.unit() == guest.unit) {
            party.statements = other.statements();
        }
    }
}

impl Guests {
    /// Who was there at this time, or came soon after.
    fn at(&self, time: Instant) -> Option<&Guest> {
        let stayed = |guest: &&Guest| guest.until.is_none_or(|until| until >= time);
        self.one_before.as_ref().filter(stayed).or(self.last.as_ref())
    }
}
