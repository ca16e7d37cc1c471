//! A unit's permit, from its arrival at the gate until its attempt ends.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::keys::{KeyQueues, KeyTable};

/// A unit inside of the gate, or waiting in front of it. Dropping the permit admits the next unit.
pub(crate) struct GatePermit {
    /// Whether other units were at the key when this one arrived.
    pub(crate) queued: bool,
    // Fields are dropped in this order: the permits first, because dropping the membership may remove the
    // queues.
    running: Ticket,
    room: Option<OwnedSemaphorePermit>,
    total: Option<OwnedSemaphorePermit>,
    entrance: Ticket,
    member: Membership,
}

impl GatePermit {
    /// Joins the queues of a key. Returns `None` if `max_units` are there already.
    pub(super) fn join(
        keys: &Arc<KeyTable>,
        key: u64,
        width: usize,
        max_units: usize,
        context: &mut Context<'_>,
    ) -> Option<Box<Self>> {
        let mut locked = keys.lock();
        let queues = locked.entry(key).or_insert_with(|| KeyQueues::new(width));
        if queues.units >= max_units {
            return None;
        }
        let queued = queues.units > 0;
        queues.units += 1;
        let [entrance, running] =
            [&queues.entrance, &queues.running].map(|semaphore| Ticket::draw(semaphore, context));
        let member = Membership { key, keys: keys.clone(), room: queues.room.clone() };
        Some(Box::new(Self { queued, running, room: None, total: None, entrance, member }))
    }

    /// Waits until the unit is inside.
    pub(super) async fn enter(mut self: Box<Self>) -> Box<Self> {
        self.entrance.granted().await;
        self.room = self.member.room.clone().acquire_owned().await.ok();
        if let Some(total) = &self.member.keys.total {
            self.total = total.clone().acquire_owned().await.ok();
        }
        self.entrance = Ticket::Granted { _permit: None };
        self
    }

    /// Waits until the units that arrived earlier have ended.
    pub(crate) async fn admitted(&mut self) {
        self.running.granted().await;
    }
}

/// A permit of a semaphore, or a position in its queue.
enum Ticket {
    Waiting(BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>),
    Granted { _permit: Option<OwnedSemaphorePermit> },
}

impl Ticket {
    fn draw(semaphore: &Arc<Semaphore>, context: &mut Context<'_>) -> Self {
        let mut permit: BoxFuture<'static, _> = Box::pin(semaphore.clone().acquire_owned());
        match permit.as_mut().poll(context) {
            Poll::Ready(permit) => Self::of(permit),
            Poll::Pending => Self::Waiting(permit),
        }
    }

    async fn granted(&mut self) {
        if let Self::Waiting(permit) = self {
            *self = Self::of(permit.await);
        }
    }

    /// The semaphores are never closed; a closed one would not limit anything.
    fn of(permit: Result<OwnedSemaphorePermit, AcquireError>) -> Self {
        Self::Granted { _permit: permit.ok() }
    }
}

/// Counts a unit at its key.
struct Membership {
    key: u64,
    keys: Arc<KeyTable>,
    room: Arc<Semaphore>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.keys.remove_unit(self.key);
    }
}
