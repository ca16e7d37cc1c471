//! Waits in the queue of the pool itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::task::AtomicWaker;
use sqlx::Pool;
use sqlx::pool::PoolConnection;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::abandoned::SERVER_LIMIT;
use super::opening_count::OpeningPermit;
use super::outage::{self, OutageCheck};
use crate::backend::Backend;
use crate::boxed::boxed;
use crate::tx::identity;

/// How long to wait for the pool's ping of a connection whose run was dropped. A connection that does not
/// answer by then has been idle for so long that the network has lost it.
const PING_LIMIT: Duration = Duration::from_secs(1);

/// The pool's ping wakes the waiter at most this often. Further wake-ups mean that the pool opens a
/// connection.
const MAX_WAKES_OF_PING: u32 = 2;

/// Waits for a connection of the pool, and detects when the pool begins to serve this wait.
///
/// Until then the wait can be dropped without consequences. Afterwards sqlx pings or opens a connection,
/// which it would close if the wait were dropped, so the wait is finished in the background instead. sqlx
/// does not expose its queue, but it wakes only the waiter that it serves.
///
/// While the server refuses the pool's connection attempts, sqlx sleeps longer after each of them. The wait
/// starts again as soon as the server is [back](outage::check).
///
/// # Why is a connection opened for a run that was dropped?
///
/// Otherwise, runs whose deadline is shorter than the time that the server takes to open a session would
/// never get a connection, and each of them would leave another session for the server to start.
pub(super) struct PoolWaiter<DB: Backend> {
    /// `None` once it has completed.
    acquiring: Option<BoxFuture<'static, Result<PoolConnection<DB>, sqlx::Error>>>,
    pool: Pool<DB>,
    progress: Arc<PoolProgress>,
    /// Whether it has been polled, and is therefore in the pool's queue.
    joined: bool,
    /// Set while the pool opens a connection for this wait.
    opening: Option<OpeningPermit>,
    outage: Option<OutageCheck>,
    runtime: Handle,
    /// Whether the run was dropped.
    is_abandoned: bool,
}

/// What the wake-ups show about the pool's progress.
#[derive(Default)]
struct PoolProgress {
    is_served: AtomicBool,
    wakes: AtomicU32,
    opens: AtomicBool,
    waiting: AtomicWaker,
}

impl PoolProgress {
    /// Returns whether the pool is opening a connection.
    fn is_opening(&self) -> bool {
        self.opens.load(Ordering::Acquire) || self.wakes.load(Ordering::Acquire) > MAX_WAKES_OF_PING
    }
}

impl Wake for PoolProgress {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_served.store(true, Ordering::Release);
        self.wakes.fetch_add(1, Ordering::AcqRel);
        self.waiting.wake();
    }
}

impl<DB: Backend> PoolWaiter<DB> {
    /// Must be called inside of a Tokio runtime.
    pub(super) fn new(pool: &Pool<DB>) -> Self {
        Self {
            acquiring: Some(acquiring(pool.clone())),
            pool: pool.clone(),
            progress: Arc::default(),
            joined: false,
            opening: None,
            outage: None,
            runtime: Handle::current(),
            is_abandoned: false,
        }
    }

    pub(super) fn is_served(&self) -> bool {
        self.progress.is_served.load(Ordering::Acquire)
    }

    fn acquired(&mut self, context: &mut Context<'_>) -> Poll<Result<PoolConnection<DB>, sqlx::Error>> {
        let Some(acquiring) = &mut self.acquiring else { return Poll::Pending };
        self.progress.waiting.register(context.waker());
        let waker = Waker::from(self.progress.clone());
        let (size, idle) = (self.pool.size(), self.pool.num_idle());
        let acquired = acquiring.as_mut().poll(&mut Context::from_waker(&waker));
        // Another task may make the pool grow at the same time. Mistaking its growth for this wait's is
        // harmless.
        let opens = self.pool.size() > size;
        self.progress.opens.fetch_or(opens, Ordering::AcqRel);
        if acquired.is_ready() {
            (self.acquiring, self.opening) = (None, None);
        } else if !std::mem::replace(&mut self.joined, true) {
            // Joining the queue may wake the waiter without serving it. But if a connection is idle, or the
            // pool may grow, there is no queue: the pool pings or opens a connection at once.
            self.progress.wakes.store(0, Ordering::Release);
            self.progress
                .is_served
                .store(opens || idle > 0 || self.pool.num_idle() != idle, Ordering::Release);
        }
        if acquired.is_pending() && self.opening.is_none() && self.is_served() && self.progress.is_opening() {
            self.opening = Some(OpeningPermit::new(identity(&self.pool)));
        }
        acquired
    }

    /// Takes over the wait after its run was dropped.
    fn rest(&mut self, acquiring: BoxFuture<'static, Result<PoolConnection<DB>, sqlx::Error>>) -> Self {
        Self {
            acquiring: Some(acquiring),
            pool: self.pool.clone(),
            progress: self.progress.clone(),
            joined: self.joined,
            opening: self.opening.take(),
            outage: self.outage.take(),
            runtime: self.runtime.clone(),
            is_abandoned: true,
        }
    }

    /// Returns whether the wait should start again, because the pool sleeps after an outage that is over.
    fn outage_is_over(&mut self, context: &mut Context<'_>) -> bool {
        if DB::SESSION_ID_QUERY.is_none() || !self.is_served() || !self.progress.is_opening() {
            return false;
        }
        loop {
            let outage = self.outage.get_or_insert_with(|| outage::check(&self.pool));
            match Pin::new(outage).poll(context) {
                Poll::Pending => return false,
                // A completed future must not be polled again.
                Poll::Ready(is_over) => {
                    self.outage = None;
                    if is_over {
                        return true;
                    }
                }
            }
        }
    }
}

impl<DB: Backend> Future for PoolWaiter<DB> {
    type Output = Result<PoolConnection<DB>, sqlx::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let acquired = self.acquired(context);
            if acquired.is_ready() || !self.outage_is_over(context) {
                return acquired;
            }
            // Dropped before a new wait begins, because it might hold the pool's last permit.
            self.acquiring = None;
            if self.is_abandoned {
                return Poll::Ready(Err(sqlx::Error::PoolTimedOut));
            }
            *self = Self::new(&self.pool);
        }
    }
}

impl<DB: Backend> Drop for PoolWaiter<DB> {
    fn drop(&mut self) {
        if self.is_abandoned || !self.is_served() {
            return;
        }
        if let Some(acquiring) = self.acquiring.take() {
            let rest = self.rest(acquiring);
            self.runtime.spawn(finish(rest));
        }
    }
}

/// Acquires a connection. The pool's own future is large.
fn acquiring<DB: Backend>(pool: Pool<DB>) -> BoxFuture<'static, Result<PoolConnection<DB>, sqlx::Error>> {
    boxed(|| async move { pool.acquire().await })
}

/// Waits for a connection that then returns to the pool.
async fn finish<DB: Backend>(mut rest: PoolWaiter<DB>) {
    // If the pool began to serve the wait just before the drop, only now does it become known whether it
    // pings or opens a connection.
    if timeout(PING_LIMIT, &mut rest).await.is_err() && rest.progress.is_opening() {
        let _ = timeout(SERVER_LIMIT, rest).await;
    }
}
