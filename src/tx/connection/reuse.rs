//! Reuse of connections between runs, without returning them to the pool.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use scopeguard::ScopeGuard;
use sqlx::Pool;
use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::task::{AbortHandle, yield_now};

use super::pool_queue::PoolWaiter;
use super::server_cache::ServerCache;
use super::{GuardedConnection, OpenConnection, ROLLBACK};
use crate::backend::Backend;

/// How many runs a connection serves before it returns to the pool.
const MAX_RUNS: u32 = 32;

/// How long a connection is reused before it returns to the pool.
const MAX_REUSE_TIME: Duration = Duration::from_millis(50);

/// How often the task yields before an idle connection returns to the pool, so that the caller of the last
/// run can start its next one. [`Deltas`](crate::Deltas) needs two yields to collect the next batch.
const MAX_YIELDS: u32 = 4;

/// Reuses a connection for the next run instead of returning it to the pool.
///
/// sqlx's pool pings every connection twice: in a background task when it is released, and again when it is
/// acquired. Between two runs of the same transactor both pings are redundant, because the first run has just
/// ended cleanly on that connection. Reuse saves two round trips per run under load. A released connection is
/// passed to the run that has waited longest, or to the next run if that begins right away.
///
/// # Limits
///
/// A connection returns to the pool after [`MAX_RUNS`] or [`MAX_REUSE_TIME`], whichever comes first, so that
/// other users of the pool are not starved and the pool's `max_lifetime` still applies. The first limit
/// applies to short runs, which then pay for the pings once in 32 runs. The second applies to long runs, for
/// which a round trip does not matter.
///
/// # Waiting
///
/// A run that waits for a connection also waits in the pool's queue. It therefore does not miss a connection
/// that another user of the pool releases, and the pool serves all its users in the order of arrival.
pub(crate) struct ConnectionReuse<DB: Backend> {
    /// `None` if every connection has to go through the pool.
    shared: Option<Arc<Mutex<IdleConnections<DB>>>>,
    server: ServerCache,
}

struct IdleConnections<DB: Backend> {
    waiting: VecDeque<Sender<Released<DB>>>,
    /// Idle connections, each with its ticket. A keeper returns each to the pool if no run takes it.
    idle: Vec<(u64, Released<DB>)>,
    next_ticket: u64,
    /// One for each runtime that has released a connection, because another runtime may be at rest.
    keepers: Vec<Keeper>,
}

/// A background task that returns idle connections to the pool. It waits between releases, because a task for
/// each release would cost several times as much as waking this one.
struct Keeper {
    runtime: Id,
    released: Arc<Notify>,
    task: AbortHandle,
}

/// A connection after a clean end. Dropping it returns it to the pool.
type Released<DB> = GuardedConnection<DB>;

impl<DB: Backend> ConnectionReuse<DB> {
    /// Reuses connections between the runs of all clones of this value.
    pub(crate) fn on() -> Self {
        let shared = IdleConnections {
            waiting: VecDeque::new(),
            idle: Vec::new(),
            next_ticket: 0,
            keepers: Vec::new(),
        };
        Self { shared: Some(Arc::new(Mutex::new(shared))), server: ServerCache::default() }
    }

    /// Acquires every connection from the pool and returns it there.
    pub(crate) fn off() -> Self {
        Self { shared: None, server: ServerCache::default() }
    }

    pub(super) const fn server(&self) -> &ServerCache {
        &self.server
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Passes a connection on after a clean end.
    pub(super) fn release(&self, mut open: Box<OpenConnection<DB>>) {
        open.runs += 1;
        self.pass_on(scopeguard::guard(open, return_to_pool));
    }

    fn pass_on(&self, mut released: Released<DB>) {
        let Some(shared) = self.shared.as_ref().filter(|_| released.may_be_reused()) else { return };
        let runtime = released.runtime.clone();
        let mut locked = lock(shared);
        while let Some(longest) = locked.waiting.pop_front() {
            match longest.send(released) {
                Ok(()) => return,
                Err(unsent) => released = unsent,
            }
        }
        let ticket = locked.next_ticket;
        locked.next_ticket += 1;
        locked.idle.push((ticket, released));
        if !locked.keepers.iter().any(|keeper| keeper.wake(&runtime)) {
            drop(locked);
            // A runtime that has shut down drops the task at once, which locks the connections.
            let keeper = Keeper::start(&runtime, shared);
            let mut locked = lock(shared);
            locked.keepers.retain(|keeper| !keeper.task.is_finished());
            locked.keepers.push(keeper);
        }
    }

    /// Takes an idle connection, if there is one.
    pub(super) fn take(&self) -> Option<Box<OpenConnection<DB>>> {
        let shared = self.shared.as_ref()?;
        loop {
            let (_, released) = lock(shared).idle.pop()?;
            if released.may_be_reused() {
                return Some(taken(released));
            }
        }
    }

    /// Waits for the first connection, from the pool or from another run.
    ///
    /// Cancellation: a connection that another run has already passed on returns to the pool.
    pub(super) async fn wait(&self, pool: &Pool<DB>) -> Result<Box<OpenConnection<DB>>, sqlx::Error> {
        let (mut in_pool, mut in_reuse) = (PoolWaiter::new(pool), None);
        poll_fn(|context| {
            let acquired = Pin::new(&mut in_pool).poll(context);
            if acquired.is_ready() || in_pool.is_served() {
                self.leave(in_reuse.take());
                return acquired.map_ok(|connection| OpenConnection::new(connection, pool));
            }
            if in_reuse.is_none() {
                in_reuse = self.join();
            }
            match in_reuse.as_mut().map(|receiver| Pin::new(receiver).poll(context)) {
                Some(Poll::Ready(Ok(released))) => Poll::Ready(Ok(taken(released))),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Joins the queue for released connections. If a connection is idle, it is in the channel already.
    fn join(&self) -> Option<Receiver<Released<DB>>> {
        let shared = self.shared.as_ref()?;
        let (sender, receiver) = oneshot::channel();
        let mut locked = lock(shared);
        match locked.idle.pop() {
            Some((_, released)) => drop(sender.send(released)),
            None => {
                // Runs that have stopped waiting.
                while locked.waiting.pop_front_if(|longest| longest.is_closed()).is_some() {}
                locked.waiting.push_back(sender);
            }
        }
        Some(receiver)
    }

    /// Leaves the queue. A connection that was passed on meanwhile is passed to the next run.
    fn leave(&self, receiver: Option<Receiver<Released<DB>>>) {
        let Some(mut receiver) = receiver else { return };
        receiver.close();
        if let Ok(released) = receiver.try_recv() {
            self.pass_on(released);
        }
    }
}

impl<DB: Backend> OpenConnection<DB> {
    /// Returns whether the next run may take the connection before it returns to the pool.
    fn may_be_reused(&self) -> bool {
        self.runs < MAX_RUNS && self.since.elapsed() < MAX_REUSE_TIME && !self.pool.is_closed()
    }
}

fn taken<DB: Backend>(released: Released<DB>) -> Box<OpenConnection<DB>> {
    let mut open = ScopeGuard::into_inner(released);
    (open.runtime, open.reset) = (Handle::current(), ROLLBACK);
    open
}

#[expect(clippy::boxed_local, reason = "sessions hold boxed connections")]
fn return_to_pool<DB: Backend>(open: Box<OpenConnection<DB>>) {
    let _entered = open.runtime.enter();
    drop(open.connection);
}

impl Keeper {
    fn start<DB: Backend>(runtime: &Handle, shared: &Arc<Mutex<IdleConnections<DB>>>) -> Self {
        let released = Arc::new(Notify::new());
        released.notify_one();
        // Also if the task is dropped with its runtime, before or after it was first polled.
        let shared =
            scopeguard::guard(Arc::downgrade(shared), |shared| drop(remove_before(&shared, u64::MAX)));
        let task = runtime.spawn(keep(shared, released.clone())).abort_handle();
        Self { runtime: runtime.id(), released, task }
    }

    /// Wakes the task after a release. Returns `false` if it does not run in this runtime.
    fn wake(&self, runtime: &Handle) -> bool {
        let runs = self.runtime == runtime.id() && !self.task.is_finished();
        if runs {
            self.released.notify_one();
        }
        runs
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns idle connections to the pool, each after some yields.
async fn keep<DB: Backend>(
    shared: impl Deref<Target = Weak<Mutex<IdleConnections<DB>>>>,
    released: Arc<Notify>,
) {
    loop {
        released.notified().await;
        while let Some(end) = end_of_idle(&shared) {
            for _ in 0..MAX_YIELDS {
                if !is_idle_before(&shared, end) {
                    break;
                }
                yield_now().await;
            }
            drop(remove_before(&shared, end));
        }
    }
}

/// Returns the ticket behind those of all idle connections; `None` if no connection is idle.
fn end_of_idle<DB: Backend>(shared: &Weak<Mutex<IdleConnections<DB>>>) -> Option<u64> {
    let shared = shared.upgrade()?;
    let locked = lock(&shared);
    (!locked.idle.is_empty()).then_some(locked.next_ticket)
}

/// Returns whether a connection with a ticket below `end` is idle.
fn is_idle_before<DB: Backend>(shared: &Weak<Mutex<IdleConnections<DB>>>, end: u64) -> bool {
    shared.upgrade().is_some_and(|shared| lock(&shared).idle.iter().any(|(ticket, _)| *ticket < end))
}

/// Removes the idle connections with tickets below `end`.
fn remove_before<DB: Backend>(
    shared: &Weak<Mutex<IdleConnections<DB>>>,
    end: u64,
) -> Vec<(u64, Released<DB>)> {
    let Some(shared) = shared.upgrade() else { return Vec::new() };
    lock(&shared).idle.extract_if(.., |(ticket, _)| *ticket < end).collect()
}

fn lock<DB: Backend>(shared: &Mutex<IdleConnections<DB>>) -> MutexGuard<'_, IdleConnections<DB>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

// Not derived, because that would require `DB: Clone`.
impl<DB: Backend> Clone for ConnectionReuse<DB> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), server: self.server.clone() }
    }
}
