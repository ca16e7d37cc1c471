//! A place in the pool's own line.

use std::future::{Future, pending};
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

use super::known::Known;
use super::outage;
use crate::backend::Backend;

/// How long a connection that the pool tests or opens is waited for when its run has gone.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// So many wake-ups are more than it takes to test a connection: the pool is opening one.
const WAKES_OF_A_TEST: u32 = 2;

/// Waits for a connection of the pool's, and knows whether the pool has called.
///
/// Until then it can be left without a trace. Afterwards sqlx tests a connection or opens one, and would close it if it
/// were left then: so that is finished in the background. The pool's line tells nobody how far it is, but it wakes up only
/// whom it calls.
///
/// Where the pool opens a connection and the server does not let it, sqlx sleeps longer each time. It is asked anew as soon as
/// the server is [back](outage::is_over).
pub(super) struct InLine<DB: Backend> {
    /// None when it is done.
    acquiring: Option<BoxFuture<'static, Result<PoolConnection<DB>, sqlx::Error>>>,
    pool: Pool<DB>,
    known: Known,
    called: Arc<Called>,
    joined: bool,
    outage: Option<BoxFuture<'static, bool>>,
    runtime: Handle,
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

impl<DB: Backend> InLine<DB> {
    /// Must be called inside of a Tokio runtime.
    pub(super) fn new(pool: &Pool<DB>, known: &Known) -> Self {
        Self {
            acquiring: Some(Box::pin(pool.acquire())),
            pool: pool.clone(),
            known: known.clone(),
            called: Arc::default(),
            joined: false,
            outage: None,
            runtime: Handle::current(),
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
        if acquired.is_ready() {
            self.acquiring = None;
        } else if !std::mem::replace(&mut self.joined, true) {
            // Nobody is called by joining the line, even where that asks to be polled once more. But where a connection is
            // idle, or the pool may grow, there is no line: it tests or opens one at once.
            let opens = self.pool.size() > size;
            self.called.wakes.store(0, Ordering::Release);
            self.called.opens.store(opens, Ordering::Release);
            self.called.yes.store(opens || idle > 0 || self.pool.num_idle() != idle, Ordering::Release);
        }
        acquired
    }

    /// Whether the pool should be asked anew.
    fn outage_is_over(&mut self, context: &mut Context<'_>) -> bool {
        if DB::SESSION.is_none() || !self.is_called() || !self.called.is_opening() {
            return false;
        }
        let (pool, known) = (&self.pool, &self.known);
        let outage =
            self.outage.get_or_insert_with(|| Box::pin(outage::is_over(pool.clone(), known.clone())));
        match outage.as_mut().poll(context) {
            Poll::Pending => false,
            Poll::Ready(is_over) => {
                // What is done must not be polled again.
                self.outage = Some(Box::pin(pending()));
                is_over
            }
        }
    }
}

impl<DB: Backend> Future for InLine<DB> {
    type Output = Result<PoolConnection<DB>, sqlx::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let acquired = self.acquired(context);
            if acquired.is_ready() || !self.outage_is_over(context) {
                return acquired;
            }
            // Without the place in the pool that it holds there might be none for the next one.
            self.acquiring = None;
            *self = Self::new(&self.pool, &self.known);
        }
    }
}

impl<DB: Backend> Drop for InLine<DB> {
    fn drop(&mut self) {
        let is_tested_or_opened = self.is_called() && self.outage.is_none();
        if let Some(acquiring) = self.acquiring.take().filter(|_| is_tested_or_opened) {
            self.runtime.spawn(timeout(LEFT_ALONE, acquiring));
        }
    }
}
