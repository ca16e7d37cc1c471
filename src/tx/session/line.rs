//! A place in the pool's own line.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_core::future::BoxFuture;
use futures_util::task::AtomicWaker;
use sqlx::Pool;
use sqlx::pool::PoolConnection;

use crate::backend::Backend;

/// Waits for a connection of the pool's, and knows whether the pool has called.
///
/// Until then it can be left without a trace. Afterwards sqlx tests a connection or opens one, and whoever leaves then has
/// it closed. The pool's line tells nobody how far it is, but it wakes up only whom it calls.
pub(super) struct InLine<DB: Backend> {
    acquiring: BoxFuture<'static, Result<PoolConnection<DB>, sqlx::Error>>,
    pool: Pool<DB>,
    called: Arc<Called>,
    joined: bool,
}

#[derive(Default)]
struct Called {
    yes: AtomicBool,
    waiting: AtomicWaker,
}

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.yes.store(true, Ordering::Release);
        self.waiting.wake();
    }
}

impl<DB: Backend> InLine<DB> {
    pub(super) fn new(pool: &Pool<DB>) -> Self {
        let acquiring = Box::pin(pool.acquire());
        Self { acquiring, pool: pool.clone(), called: Arc::default(), joined: false }
    }

    pub(super) fn is_called(&self) -> bool {
        self.called.yes.load(Ordering::Acquire)
    }
}

impl<DB: Backend> Future for InLine<DB> {
    type Output = Result<PoolConnection<DB>, sqlx::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.called.waiting.register(context.waker());
        let waker = Waker::from(self.called.clone());
        let size = self.pool.size();
        let acquired = self.acquiring.as_mut().poll(&mut Context::from_waker(&waker));
        if !std::mem::replace(&mut self.joined, true) {
            // Nobody is called by joining the line, even where that asks to be polled once more. But where the pool may
            // grow, there is no line, and it opens a connection at once.
            self.called.yes.store(self.pool.size() > size, Ordering::Release);
        }
        acquired
    }
}
