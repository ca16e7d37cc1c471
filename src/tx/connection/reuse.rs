//! Connections that go from one run to the next without passing the pool.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use scopeguard::ScopeGuard;
use sqlx::Pool;
use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::task::yield_now;

use super::engine::KnownEngine;
use super::known::Known;
use super::pool_queue::PoolWaiter;
use super::{OpenConnection, ROLLBACK};
use crate::backend::{Backend, Engine};
use crate::strategy::OwnLockLimit;

/// So many runs may share a connection before it passes by the pool.
const MAX_RUNS: u32 = 32;

/// After this time it passes by the pool, however few they were.
const MAX_REUSE_TIME: Duration = Duration::from_millis(50);

/// So many turns other tasks are given before a connection that nobody waits for goes back to the pool:
/// whoever was just answered gets to its next run. [`Deltas`](crate::Deltas) needs two of them to gather what
/// its callers want next.
const TURNS: u32 = 4;

/// Hands connections on: to the run that has waited longest, or else to the next one that begins right away.
///
/// # What for?
///
/// The pool tests each connection that comes back, in a task of its own: a round trip, in which nobody has
/// the connection. Whoever wants one meanwhile waits, and is given it tested once more. After a run that
/// ended well, right before another one, both tests ask what is known.
///
/// # Why not for ever?
///
/// The pool has other users, who wait in its line and nowhere else, and it ends connections that have lived
/// long enough. What has served [`MAX_RUNS`] or has been away for [`MAX_REUSE_TIME`] goes by it: the first bound is
/// for short runs, whose others are used to waiting little, and leaves a thirty-second of the tests; the
/// second one for long ones, which a round trip does not matter to.
///
/// # Why does nobody wait here alone?
///
/// Who waits stands in the pool's line as well, as without all this: a connection that comes back from
/// somebody else is not missed, and whoever asks the pool finds everybody in the order in which they came.
pub(crate) struct ConnectionReuse<DB: Backend> {
    /// None where each connection has to pass by the pool.
    shared: Option<Arc<Mutex<IdleConnections<DB>>>>,
    engine: KnownEngine,
    known: Known,
}

struct IdleConnections<DB: Backend> {
    waiting: VecDeque<Sender<Returning<DB>>>,
    /// What nobody waited for, for a moment.
    left: Vec<(u64, Returning<DB>)>,
    next_ticket: u64,
}

/// A connection after a clean end: dropped, it goes back to the pool.
type Returning<DB> = ScopeGuard<OpenConnection<DB>, fn(OpenConnection<DB>)>;

impl<DB: Backend> ConnectionReuse<DB> {
    /// IdleConnections by those it is cloned for.
    pub(crate) fn on() -> Self {
        let shared = IdleConnections { waiting: VecDeque::new(), left: Vec::new(), next_ticket: 0 };
        Self {
            shared: Some(Arc::new(Mutex::new(shared))),
            engine: KnownEngine::default(),
            known: Known::default(),
        }
    }

    /// Every connection comes from the pool, with whatever it does to connections, and goes back to it.
    pub(crate) fn off() -> Self {
        Self { shared: None, engine: KnownEngine::default(), known: Known::default() }
    }

    /// What was last heard of the sessions of the pool.
    pub(super) const fn known(&self) -> &Known {
        &self.known
    }

    /// The limit for lock waits that a session of this pool had of its own.
    pub(crate) fn own_lock_limit(&self) -> OwnLockLimit {
        OwnLockLimit::Likely(self.known.lock_timeout())
    }

    pub(super) fn engine(&self) -> Option<Engine> {
        self.engine.get()
    }

    pub(super) fn learn(&self, engine: Engine) {
        self.engine.set(engine);
    }

    pub(super) const fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Gives a connection on after a clean end.
    pub(super) fn pass_on(&self, mut held: OpenConnection<DB>) {
        held.runs += 1;
        self.pass(scopeguard::guard(held, give_back));
    }

    fn pass(&self, mut returning: Returning<DB>) {
        let Some(shared) = self.shared.as_ref().filter(|_| returning.may_be_reused()) else { return };
        let runtime = returning.runtime.clone();
        let mut locked = lock(shared);
        while let Some(longest) = locked.waiting.pop_front() {
            match longest.send(returning) {
                Ok(()) => return,
                Err(unwanted) => returning = unwanted,
            }
        }
        let ticket = locked.next_ticket;
        locked.next_ticket += 1;
        locked.left.push((ticket, returning));
        drop(locked);
        // A runtime that is gone drops the task without having polled it.
        let tidying = scopeguard::guard(shared.clone(), move |shared| drop(remove(&shared, ticket)));
        runtime.spawn(async move {
            for _ in 0..TURNS {
                if !is_left(&tidying, ticket) {
                    return;
                }
                yield_now().await;
            }
        });
    }

    /// What was left a moment ago.
    pub(super) fn take(&self) -> Option<OpenConnection<DB>> {
        let shared = self.shared.as_ref()?;
        loop {
            let (_, left) = lock(shared).left.pop()?;
            if left.may_be_reused() {
                return Some(taken(left));
            }
        }
    }

    /// Waits for whichever connection comes first.
    ///
    /// Cancellation: one that was handed on already goes back to the pool.
    pub(super) async fn wait(&self, pool: &Pool<DB>) -> Result<OpenConnection<DB>, sqlx::Error> {
        let (mut in_line, mut handed) = (PoolWaiter::new(pool), None);
        poll_fn(|context| {
            let acquired = Pin::new(&mut in_line).poll(context);
            if acquired.is_ready() || in_line.is_called() {
                self.leave(handed.take());
                return acquired.map_ok(|connection| OpenConnection::new(connection, pool));
            }
            if handed.is_none() {
                handed = self.join();
            }
            match handed.as_mut().map(|handed| Pin::new(handed).poll(context)) {
                Some(Poll::Ready(Ok(returning))) => Poll::Ready(Ok(taken(returning))),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Stands in line, unless something is left.
    fn join(&self) -> Option<Receiver<Returning<DB>>> {
        let shared = self.shared.as_ref()?;
        let (sender, receiver) = oneshot::channel();
        let mut locked = lock(shared);
        match locked.left.pop() {
            Some((_, left)) => drop(sender.send(left)),
            None => {
                // Those who have left.
                while locked.waiting.pop_front_if(|longest| longest.is_closed()).is_some() {}
                locked.waiting.push_back(sender);
            }
        }
        Some(receiver)
    }

    /// Has got one from the pool: what was handed on meanwhile is the next one's.
    fn leave(&self, handed: Option<Receiver<Returning<DB>>>) {
        let Some(mut handed) = handed else { return };
        handed.close();
        if let Ok(returning) = handed.try_recv() {
            self.pass(returning);
        }
    }
}

impl<DB: Backend> OpenConnection<DB> {
    /// Whether the next run may have it before the pool does.
    fn may_be_reused(&self) -> bool {
        self.runs < MAX_RUNS && self.since.elapsed() < MAX_REUSE_TIME && !self.pool.is_closed()
    }
}

fn taken<DB: Backend>(returning: Returning<DB>) -> OpenConnection<DB> {
    let held = ScopeGuard::into_inner(returning);
    OpenConnection { runtime: Handle::current(), reset: ROLLBACK, ..held }
}

fn give_back<DB: Backend>(held: OpenConnection<DB>) {
    let _inside = held.runtime.enter();
    drop(held.connection);
}

fn remove<DB: Backend>(shared: &Mutex<IdleConnections<DB>>, ticket: u64) -> Option<Returning<DB>> {
    let mut locked = lock(shared);
    let place = locked.left.iter().position(|(left, _)| *left == ticket)?;
    Some(locked.left.swap_remove(place).1)
}

fn is_left<DB: Backend>(shared: &Mutex<IdleConnections<DB>>, ticket: u64) -> bool {
    lock(shared).left.iter().any(|(left, _)| *left == ticket)
}

/// Nothing panics while it is held.
fn lock<DB: Backend>(shared: &Mutex<IdleConnections<DB>>) -> MutexGuard<'_, IdleConnections<DB>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

// Not derived: that would ask for `DB: Clone`.
impl<DB: Backend> Clone for ConnectionReuse<DB> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), engine: self.engine.clone(), known: self.known.clone() }
    }
}
