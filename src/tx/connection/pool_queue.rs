//! A place in the pool's own line.

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
use super::outage::{self, Probe};
use crate::backend::Backend;

/// How long a connection that the pool tests is waited for when its run has gone. One that is silent was idle
/// for so long that the network has lost it.
const TEST_LIMIT: Duration = Duration::from_secs(1);

/// So many wake-ups are more than it takes to test a connection: the pool is opening one.
const WAKES_OF_A_TEST: u32 = 2;

/// Waits for a connection of the pool's, and knows whether the pool has called.
///
/// Until then it can be left without a marker. Afterwards sqlx tests a connection or opens one, and would
/// close it if it were left then: so that is finished in the background. The pool's line tells nobody how far
/// it is, but it wakes up only whom it calls.
///
/// Where the pool opens a connection and the server does not let it, sqlx sleeps longer each time. It is
/// asked anew as soon as the server is [back](outage::is_over).
///
/// # Why is a connection opened for a run that has gone?
///
/// Runs that are given up sooner than the server opens a session would never have a connection, and each of
/// them would leave the server a session that it has yet to begin.
pub(super) struct PoolWaiter<DB: Backend> {
    /// None when it is done.
    acquiring: Option<BoxFuture<'static, Result<PoolConnection<DB>, sqlx::Error>>>,
    pool: Pool<DB>,
    called: Arc<Called>,
    joined: bool,
    outage: Option<Probe>,
    runtime: Handle,
    /// Its run has gone.
    is_left: bool,
}

#[derive(Default)]
struct Called {
    yes: AtomicBool,
    wakes: AtomicU32,
    opens: AtomicBool,
    waiting: AtomicWaker,
}

impl Called {
    fn is_opening(&self) -> bool {
        self.opens.load(Ordering::Acquire) || self.wakes.load(Ordering::Acquire) > WAKES_OF_A_TEST
    }
}

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.yes.store(true, Ordering::Release);
        self.wakes.fetch_add(1, Ordering::AcqRel);
        self.waiting.wake();
    }
}

impl<DB: Backend> PoolWaiter<DB> {
    /// Must be called inside of a Tokio runtime.
    pub(super) fn new(pool: &Pool<DB>) -> Self {
        Self {
            acquiring: Some(Box::pin(pool.acquire())),
            pool: pool.clone(),
            called: Arc::default(),
            joined: false,
            outage: None,
            runtime: Handle::current(),
            is_left: false,
        }
    }

    pub(super) fn is_called(&self) -> bool {
        self.called.yes.load(Ordering::Acquire)
    }

    fn acquired(&mut self, context: &mut Context<'_>) -> Poll<Result<PoolConnection<DB>, sqlx::Error>> {
        let Some(acquiring) = &mut self.acquiring else { return Poll::Pending };
        self.called.waiting.register(context.waker());
        let waker = Waker::from(self.called.clone());
        let (size, idle) = (self.pool.size(), self.pool.num_idle());
        let acquired = acquiring.as_mut().poll(&mut Context::from_waker(&waker));
        // Another task may have the pool grow at the same time. To take that for one's own does no harm.
        let opens = self.pool.size() > size;
        self.called.opens.fetch_or(opens, Ordering::AcqRel);
        if acquired.is_ready() {
            self.acquiring = None;
        } else if !std::mem::replace(&mut self.joined, true) {
            // Nobody is called by joining the line, even where that asks to be polled once more. But where a
            // connection is idle, or the pool may grow, there is no line: it tests or opens one at once.
            self.called.wakes.store(0, Ordering::Release);
            self.called.yes.store(opens || idle > 0 || self.pool.num_idle() != idle, Ordering::Release);
        }
        acquired
    }

    /// The same place, for nobody.
    fn rest(&mut self, acquiring: BoxFuture<'static, Result<PoolConnection<DB>, sqlx::Error>>) -> Self {
        Self {
            acquiring: Some(acquiring),
            pool: self.pool.clone(),
            called: self.called.clone(),
            joined: self.joined,
            outage: self.outage.take(),
            runtime: self.runtime.clone(),
            is_left: true,
        }
    }

    /// Whether the pool should be asked anew.
    fn outage_is_over(&mut self, context: &mut Context<'_>) -> bool {
        if DB::SESSION_ID_QUERY.is_none() || !self.is_called() || !self.called.is_opening() {
            return false;
        }
        loop {
            let outage = self.outage.get_or_insert_with(|| outage::is_over(&self.pool));
            match Pin::new(outage).poll(context) {
                Poll::Pending => return false,
                // What is done must not be polled again.
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
            // Without the place in the pool that it holds there might be none for the next one.
            self.acquiring = None;
            if self.is_left {
                return Poll::Ready(Err(sqlx::Error::PoolTimedOut));
            }
            *self = Self::new(&self.pool);
        }
    }
}

impl<DB: Backend> Drop for PoolWaiter<DB> {
    fn drop(&mut self) {
        if self.is_left || !self.is_called() {
            return;
        }
        if let Some(acquiring) = self.acquiring.take() {
            let rest = self.rest(acquiring);
            self.runtime.spawn(finish(rest));
        }
    }
}

/// Waits for a connection that is for nobody, and so goes to the pool.
async fn finish<DB: Backend>(mut rest: PoolWaiter<DB>) {
    // Only now is it known what the pool does for one that it called in its last moment.
    if timeout(TEST_LIMIT, &mut rest).await.is_err() && rest.called.is_opening() {
        let _ = timeout(SERVER_LIMIT, rest).await;
    }
}
