//! Waiting in line, in this process, in front of the pool.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::digest::digest;
use crate::failure::{Failure, FailureKind};

/// So many are let in for each that is at work, itself included.
const INSIDE: usize = 3;

/// As many as there can be at work.
const MAX_WIDTH: usize = Semaphore::MAX_PERMITS / INSIDE;

/// Below this many keys the table is not worth making smaller.
const FEW_KEYS: usize = 64;

/// A line for each contended thing, in front of the pool: who waits in it holds neither a connection nor a
/// lock.
///
/// A run that names a key ([`TransactorExt::on_key`](crate::TransactorExt::on_key)) takes its place at the
/// gate before each attempt, as far as its strategy wants that ([`Plan::gated`](crate::Plan::gated)), and
/// gives it back when the attempt has ended. First come, first served. KeyTable that nobody is at cost no memory.
///
/// Every transactor has a gate of its own, which its clones share;
/// [`PoolTransactor::gate`](crate::PoolTransactor::gate) gives several transactors one in common, as two
/// strategies on the same rows want it.
///
/// ```
/// # use atomically::{Error, Gate, Optimistic, Pessimistic, TransactorExt as _};
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
/// let gate = Gate::new().queue(1_000);
/// let shop = Optimistic::default().on(&pool).gate(&gate);
/// let office = Pessimistic::default().on(&pool).gate(&gate);
/// shop.on_key(("event", 7))
///     .run(async |tx| {
///         sqlx::query("UPDATE event SET seats = seats - 1 WHERE id = 7").execute(&mut *tx).await?;
///         Ok::<_, Error>(())
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// # Default
///
/// - width: 1 for each key; two more have their transactions open and wait
/// - total: no limit
/// - queue: 10 000 for each key
///
/// # Why in front of the pool?
///
/// Units that wait for a row in the database hold a connection each. Sixteen of them empty a pool of sixteen,
/// and everybody else waits for a row that is none of theirs. Units that do not wait, but try and fail, hold
/// the connection and throw its work away.
///
/// # Why are the next two let in early?
///
/// While one is at work, the next ones open their transactions. If they lock the row, they wait in the
/// database, which hands it over without a round trip; if not, they wait here for the other's end, and begin
/// to read then. The database is never without work: to open and to ask for the row takes as long as to
/// change it and to commit, so one would at times come too late. More would only hold more connections. They
/// wait without a transaction where it would hold a lock as soon as it is open, which is so on SQLite under
/// [`Pessimistic`](crate::Pessimistic); in a pool of one or two connections; and while all connections of the
/// pool are in use, because the one at work may be waiting for one of them.
///
/// # When to leave it out
///
/// On SQLite under [`Pessimistic`](crate::Pessimistic) and [`Atomic`](crate::Atomic), unless the order of
/// arrival matters. There is one writer at a time in any case, and a unit that waits for it costs the others
/// nothing but its connection; what the gate adds is the order, which SQLite's own busy handler does not
/// keep, at about a third of the throughput. Under [`Optimistic`](crate::Optimistic) and
/// [`Serializable`](crate::Serializable), where units would fail and try again, 64 tasks on one row get on
/// nearly twice as fast with a gate, there as elsewhere. With few tasks there is nothing to win anywhere.
///
/// # What it does not do
///
/// It knows nothing of other processes, and nothing rests on it: what keeps updates from getting lost is the
/// strategy, gate or no gate. With several processes there are as many contenders for a row as there are
/// processes, instead of as many as there are tasks.
///
/// A unit that runs another one, on another pool, at the same gate and under the same key waits for itself
/// until its deadline.
#[derive(Clone, Default)]
pub struct Gate {
    bounds: Bounds,
    lines: Arc<KeyTable>,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    width: usize,
    total: Option<usize>,
    queue: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { width: 1, total: None, queue: 10_000 }
    }
}

/// Who is at the gate.
#[derive(Default)]
struct KeyTable {
    by_key: Mutex<HashMap<u64, Line>>,
    total: Option<Arc<Semaphore>>,
}

/// Those at one key.
///
/// Fair: permits are given out in the order in which they were asked for.
struct Line {
    /// For the one who is next to come in: nobody gets room, or a part of the total, before those in front of
    /// them.
    door: Arc<Semaphore>,
    /// For those at work, and for those whose transaction may be open already.
    room: Arc<Semaphore>,
    /// For those at work, as far as the database does not see to it that it is one at a time.
    work: Arc<Semaphore>,
    /// How many there are, inside or waiting.
    length: usize,
}

impl Line {
    fn new(width: usize) -> Self {
        let [door, room, work] = [1, INSIDE * width, width].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { door, room, work, length: 0 }
    }
}

impl Gate {
    /// A gate that nobody is at.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many units are at work at once for each key, while twice as many wait with their transactions
    /// open; 0 counts as 1.
    ///
    /// More than one makes sense where units do much before they come to what they contend for.
    #[must_use]
    pub fn width(self, width: usize) -> Self {
        Self::bounded(Bounds { width: width.clamp(1, MAX_WIDTH), ..self.bounds })
    }

    /// How many attempts hold a connection at once, for all keys together; 0 counts as 1.
    ///
    /// Fewer than the pool has connections leaves some to those who name no key, however many keys are
    /// contended.
    #[must_use]
    pub fn total(self, total: usize) -> Self {
        Self::bounded(Bounds { total: Some(total.clamp(1, MAX_WIDTH)), ..self.bounds })
    }

    /// How many may wait for each key. Whoever comes then is told
    /// [`Overloaded`](crate::ErrorKind::Overloaded) at once.
    #[must_use]
    pub fn queue(self, queue: usize) -> Self {
        Self::bounded(Bounds { queue, ..self.bounds })
    }

    fn bounded(bounds: Bounds) -> Self {
        let total = bounds.total.map(|total| Arc::new(Semaphore::new(total)));
        Self { bounds, lines: Arc::new(KeyTable { by_key: Mutex::default(), total }) }
    }

    /// How many are at this key: inside, or waiting.
    #[must_use]
    pub fn at(&self, key: impl Hash) -> usize {
        self.lines.at(digest(&key))
    }

    /// How many keys somebody is at.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.lines.lock().len()
    }

    /// Waits for a place.
    ///
    /// Cancellation: the line closes up.
    pub(crate) async fn enter(&self, key: u64) -> Result<GatePermit, Failure> {
        let (mut place, room) = poll_fn(|context| Poll::Ready(self.line_up(key, context))).await?;
        place.door.called().await;
        place.room = room.acquire_owned().await.ok();
        if let Some(total) = &self.lines.total {
            place.total = total.clone().acquire_owned().await.ok();
        }
        place.door = Ticket::Called { _permit: None };
        Ok(place)
    }

    /// Both tickets are drawn at once, so that one order holds for all that is waited for.
    fn line_up(&self, key: u64, context: &mut Context<'_>) -> Result<(GatePermit, Arc<Semaphore>), Failure> {
        let Bounds { width, queue, .. } = self.bounds;
        let mut lines = self.lines.lock();
        let line = lines.entry(key).or_insert_with(|| Line::new(width));
        if line.length >= queue.saturating_add(INSIDE * width) {
            let message = format!("{queue} units of work are waiting for the same key already");
            return Err(Failure::new(FailureKind::Overloaded, message).retryable(true));
        }
        let queued = line.length > 0;
        line.length += 1;
        let [door, work] = [&line.door, &line.work].map(|semaphore| Ticket::draw(semaphore, context));
        let membership = Membership { key, lines: self.lines.clone() };
        Ok((GatePermit { queued, work, room: None, total: None, door, _seat: membership }, line.room.clone()))
    }
}

impl KeyTable {
    fn at(&self, key: u64) -> usize {
        self.lock().get(&key).map_or(0, |line| line.length)
    }

    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Line>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place inside, or on the way there; dropping it lets the next one in.
pub(crate) struct GatePermit {
    /// Whether others were at the key before.
    pub(crate) queued: bool,
    // Given back before the membership is: the line may be gone with it.
    work: Ticket,
    room: Option<OwnedSemaphorePermit>,
    total: Option<OwnedSemaphorePermit>,
    door: Ticket,
    _seat: Membership,
}

impl GatePermit {
    /// Waits until those who came before are done.
    pub(crate) async fn admitted(&mut self) {
        self.work.called().await;
    }
}

/// A permit, or a place in the line for one.
enum Ticket {
    Waiting(BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>),
    Called { _permit: Option<OwnedSemaphorePermit> },
}

impl Ticket {
    fn draw(semaphore: &Arc<Semaphore>, context: &mut Context<'_>) -> Self {
        let mut permit: BoxFuture<'static, _> = Box::pin(semaphore.clone().acquire_owned());
        match permit.as_mut().poll(context) {
            Poll::Ready(permit) => Self::of(permit),
            Poll::Pending => Self::Waiting(permit),
        }
    }

    async fn called(&mut self) {
        if let Self::Waiting(permit) = self {
            *self = Self::of(permit.await);
        }
    }

    /// Nobody closes a line; if one were closed, there would be nothing to wait for.
    fn of(permit: Result<OwnedSemaphorePermit, AcquireError>) -> Self {
        Self::Called { _permit: permit.ok() }
    }
}

/// Being counted at a key.
struct Membership {
    key: u64,
    lines: Arc<KeyTable>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        if let Entry::Occupied(mut entry) = lines.entry(self.key) {
            entry.get_mut().length -= 1;
            if entry.get().length == 0 {
                entry.remove();
            }
        }
        if lines.capacity() > FEW_KEYS && lines.len() < lines.capacity() / 4 {
            let room = lines.len() * 2;
            lines.shrink_to(room.max(FEW_KEYS / 2));
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("bounds", &self.bounds).field("keys", &self.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::FutureExt as _;

    use super::*;
    use crate::failure::FailureKind;

    const KEY: u64 = 7;

    /// Takes a place that must be free.
    fn now(gate: &Gate, key: u64) -> GatePermit {
        gate.enter(key).now_or_never().expect("a free place").expect("not full")
    }

    /// Whether it may go to work.
    fn works(place: &mut GatePermit) -> bool {
        place.admitted().now_or_never().is_some()
    }

    #[test]
    fn one_is_at_work_and_two_more_are_inside() {
        let gate = Gate::new();
        let (mut first, mut second, _third) = (now(&gate, KEY), now(&gate, KEY), now(&gate, KEY));
        assert!((first.queued, second.queued) == (false, true));
        assert!(works(&mut first));
        assert!(!works(&mut second), "the first is at work");
        assert!(gate.enter(KEY).now_or_never().is_none(), "there is no room for a fourth");
        drop(first);
        assert!(now(&gate, KEY).queued);
    }

    #[test]
    fn width_is_for_those_at_work() {
        let gate = Gate::new().width(3);
        let mut places: Vec<_> = (0..9).map(|_| now(&gate, KEY)).collect();
        assert_eq!(places.iter_mut().filter_map(|place| works(place).then_some(())).count(), 3);
        assert!(gate.enter(KEY).now_or_never().is_none());
    }

    #[test]
    fn keys_do_not_wait_for_each_other_below_the_total() {
        let gate = Gate::new().total(2);
        let first = now(&gate, 1);
        let _second = now(&gate, 2);
        assert!(gate.enter(3).now_or_never().is_none(), "two are inside");
        drop(first);
        now(&gate, 3);
    }

    #[tokio::test]
    async fn first_come_first_served_and_those_who_leave_are_passed_over() {
        let gate = Gate::new();
        let mut inside = vec![now(&gate, KEY), now(&gate, KEY), now(&gate, KEY)];
        let mut waiting: Vec<_> = (0..20).map(|i| (i, Box::pin(gate.enter(KEY)))).collect();
        for (_, entering) in &mut waiting {
            assert!(entering.now_or_never().is_none());
        }
        assert_eq!(gate.lines.at(KEY), 23);
        waiting.retain(|(i, _)| i % 3 != 0);
        assert_eq!(gate.lines.at(KEY), 16, "who has left is not counted");
        for (i, entering) in waiting {
            assert!(works(&mut inside[0]), "who came before {i} is next");
            assert!(!works(&mut inside[1]));
            inside.remove(0);
            inside.push(
                entering.now_or_never().unwrap_or_else(|| panic!("{i} was overtaken")).expect("not full"),
            );
        }
    }

    /// Else one could hold a part of the total and wait for the other's work, who waits for the total.
    #[tokio::test]
    async fn nobody_gets_a_part_of_the_total_before_those_in_front() {
        let gate = Gate::new().total(1);
        let first = now(&gate, KEY);
        let mut line: Vec<_> = (0..4).map(|_| Box::pin(gate.enter(KEY))).collect();
        for entering in &mut line {
            assert!(entering.now_or_never().is_none());
        }
        // Two leave at once, and whom that makes room for is polled in the wrong order.
        drop(line.drain(..2));
        for entering in line.iter_mut().rev() {
            assert!(entering.now_or_never().is_none());
        }
        drop(first);
        assert!((&mut line[1]).now_or_never().is_none(), "it was overtaken");
        let place = (&mut line[0]).now_or_never().expect("its turn");
        assert!(works(&mut place.expect("not full")));
    }

    #[test]
    fn a_full_line_says_so_at_once() {
        let gate = Gate::new().queue(2);
        let _inside = [now(&gate, KEY), now(&gate, KEY), now(&gate, KEY)];
        let mut waiting = [Box::pin(gate.enter(KEY)), Box::pin(gate.enter(KEY))];
        for entering in &mut waiting {
            assert!(entering.now_or_never().is_none());
        }
        let refused = gate.enter(KEY).now_or_never().expect("at once").err().expect("it is full");
        assert_eq!(refused.kind(), FailureKind::Overloaded);
        now(&gate, KEY + 1);
        drop(waiting);
        assert!(gate.enter(KEY).now_or_never().is_none(), "there is room in the line again");
    }

    #[test]
    fn idle_keys_cost_nothing() {
        let gate = Gate::new();
        let places: Vec<_> = (0..100_000).map(|key| now(&gate, key)).collect();
        assert_eq!(gate.keys(), 100_000);
        drop(places);
        assert_eq!(gate.keys(), 0);
        let room = gate.lines.lock().capacity();
        assert!(room <= FEW_KEYS, "room for {room} keys is kept");
    }

    #[test]
    fn clones_are_one_gate() {
        let gate = Gate::new();
        let _inside = [now(&gate, KEY), now(&gate, KEY), now(&gate.clone(), KEY)];
        assert!(gate.enter(KEY).now_or_never().is_none());
    }
}
