//! Calls that share a commit: the answers are those of calls that ran one after another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atomically::{
    Atomic, DeltaOutcome, Deltas, Error, ErrorKind, Key, Options, Pessimistic, TransactorExt as _, Tx,
};
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::task::{JoinHandle, JoinSet};

use super::increments::{counter, value};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestBackend, TestPool, eventually};

use DeltaOutcome::{Applied, NotFound, Refused};

type Answer = Result<DeltaOutcome, Error>;

/// Long enough for the busiest machine: what is tested is what is answered, not when.
fn patient() -> Options {
    Options::new().attempts(10_000).deadline(Duration::from_secs(240))
}

/// Has each batch lock its rows first, and commit by a COMMIT, also where one statement would do.
fn step_by_step() -> Options {
    Options::new().lock_timeout(Duration::from_secs(240))
}

fn deltas<DB: TestBackend>(pool: &Pool<DB>) -> Deltas<DB, i64>
where
    i64: Key<DB>,
{
    Deltas::on(pool, "counter", "id", "value").options(patient())
}

async fn add_rows<DB: TestBackend>(pool: &Pool<DB>, ids: std::ops::RangeInclusive<i64>) {
    for id in ids {
        let insert = DB::sql("INSERT INTO counter VALUES (?, 0, 0)");
        DB::pool_execute(pool, insert, &[id]).await.expect("a row");
    }
}

async fn set<DB: TestBackend>(pool: &Pool<DB>, value: i64) {
    DB::pool_execute(pool, DB::sql("UPDATE counter SET value = ?"), &[value]).await.expect("a value");
}

async fn values<DB: TestBackend>(pool: &Pool<DB>, ids: &[i64]) -> Vec<i64> {
    let mut values = Vec::new();
    for id in ids {
        let select = DB::sql("SELECT value FROM counter WHERE id = ?");
        values.push(DB::pool_fetch(pool, select, &[*id]).await.expect("a row"));
    }
    values
}

fn ok(answers: Vec<Answer>) -> Vec<DeltaOutcome> {
    answers.into_iter().map(|answer| answer.expect("a commit")).collect()
}

/// A flight that has departed with one call, which adds 0, and waits for what somebody else has locked. Whatever is asked
/// for from now on waits for the next flight, and shares it.
struct Jam<DB: TestBackend> {
    blocker: DB::Connection,
    first: JoinHandle<Answer>,
}

impl<DB: TestBackend> Jam<DB>
where
    i64: Key<DB>,
{
    /// The pool has one connection.
    async fn new(url: &str, pool: &Pool<DB>, deltas: &Deltas<DB, i64>) -> Self {
        Self::held_by(DB::blocker(url).await, pool, deltas).await
    }

    /// The same, of a row that need not have room for another number.
    async fn unchanged(url: &str, pool: &Pool<DB>, deltas: &Deltas<DB, i64>) -> Self {
        let blocker = DB::another(url).await.acquire().await.expect("a connection");
        let mut blocker = blocker.detach();
        let hold = "BEGIN; UPDATE counter SET value = value WHERE id = 1";
        DB::raw(&mut blocker, hold).await.expect("the lock");
        Self::held_by(blocker, pool, deltas).await
    }

    async fn held_by(blocker: DB::Connection, pool: &Pool<DB>, deltas: &Deltas<DB, i64>) -> Self {
        eventually(1, async || pool.num_idle()).await;
        let deltas = deltas.clone();
        let first = tokio::spawn(async move { deltas.add(1, 0).await });
        // The flight has left the queue before it takes the connection.
        eventually(0, async || pool.num_idle()).await;
        Self { blocker, first }
    }

    async fn end(mut self) -> Answer {
        DB::raw(&mut self.blocker, "ROLLBACK").await.expect("the lock is given back");
        self.first.await.expect("no panic")
    }
}

/// Polls all calls once, in this order, which is the order of their arrival; then lets the jam end.
async fn behind<DB: TestBackend>(
    jam: Jam<DB>,
    calls: impl IntoIterator<Item = impl Future<Output = Answer>>,
) -> (Answer, Vec<Answer>)
where
    i64: Key<DB>,
{
    let mut calls = join_all(calls);
    assert!((&mut calls).now_or_never().is_none(), "nobody can have been answered");
    join(jam.end(), calls).await
}

pub(crate) async fn each_call_is_answered_with_what_became_of_it<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(2).await;
    let stock = deltas(&pool).at_least(0).at_most(10);
    assert_eq!(stock.add(1, 7).await.expect("a commit"), Applied { value: 7 });
    assert_eq!(stock.add(1, -8).await.expect("a commit"), Refused { value: 7 });
    assert_eq!(stock.add(1, 4).await.expect("a commit"), Refused { value: 7 });
    assert_eq!(stock.add(1, 3).await.expect("a commit"), Applied { value: 10 });
    assert_eq!(stock.add(1, -10).await.expect("a commit"), Applied { value: 0 });
    assert_eq!(stock.add(1, 0).await.expect("a commit"), Applied { value: 0 });
    assert_eq!(stock.add(99, 1).await.expect("a commit"), NotFound);

    // What an integer can hold is a bound like any other.
    let unbounded = deltas(&pool);
    assert_eq!(unbounded.add(1, i64::MAX).await.expect("a commit"), Applied { value: i64::MAX });
    assert_eq!(unbounded.add(1, 1).await.expect("a commit"), Refused { value: i64::MAX });
    assert_eq!(unbounded.add(2, i64::MIN).await.expect("a commit"), Applied { value: i64::MIN });
    assert_eq!(unbounded.add(2, -1).await.expect("a commit"), Refused { value: i64::MIN });
    assert_eq!(values(&pool, &[1, 2]).await, [i64::MAX, i64::MIN]);
}

/// The row may not hold 11 to 900: alone, the first of each pair would be refused by the database.
pub(crate) async fn calls_behind_a_flight_share_the_next_one<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = DB::pool(1).await;
    let create = "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL CHECK (value NOT BETWEEN 11 AND 900))";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO counter VALUES (1, 8), (2, 9)"), &[])
        .await
        .expect("two rows");
    let stock = deltas(&pool).at_least(0).flights(1);
    let alone = stock.add(1, 5).await.expect_err("alone, it is refused");
    assert_eq!(alone.kind(), ErrorKind::Constraint);

    let jam = Jam::new(&pool.url, &pool, &stock).await;
    let calls = [(1, 5), (2, 100), (1, -5), (2, -100), (1, -9), (1, -8), (3, 1)];
    let (_, answers) = behind(jam, calls.map(|(id, delta)| stock.add(id, delta))).await;
    let expected = [
        Applied { value: 13 },
        Applied { value: 109 },
        Applied { value: 8 },
        Applied { value: 9 },
        Refused { value: 8 },
        Applied { value: 0 },
        NotFound,
    ];
    assert_eq!(ok(answers), expected);
    assert_eq!(values(&pool, &[1, 2]).await, [0, 9]);
}

pub(crate) async fn what_the_database_refuses_is_told_to_the_calls_it_is_about<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = DB::pool(1).await;
    let create = "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL CHECK (value NOT BETWEEN 11 AND 900))";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO counter VALUES (1, 0), (2, 0), (3, 0)"), &[])
        .await
        .expect("three rows");
    let stock = deltas(&pool).at_least(0).flights(1);
    let jam = Jam::new(&pool.url, &pool, &stock).await;
    let calls = [(1, 1), (2, 2), (3, 11), (2, 3), (3, 4), (1, 20), (1, 5)];
    let (_, answers) = behind(jam, calls.map(|(id, delta)| stock.add(id, delta))).await;
    let seen: Vec<_> = answers.into_iter().map(|answer| answer.map_err(|error| error.kind())).collect();
    let expected = [
        Ok(Applied { value: 1 }),
        Ok(Applied { value: 2 }),
        Err(ErrorKind::Constraint),
        Ok(Applied { value: 5 }),
        Ok(Applied { value: 4 }),
        Err(ErrorKind::Constraint),
        Ok(Applied { value: 6 }),
    ];
    assert_eq!(seen, expected);
    assert_eq!(values(&pool, &[1, 2, 3]).await, [6, 5, 4]);
}

/// What goes into one statement: one key, a power of two and what is between, and more than one statement takes.
pub(crate) async fn any_number_of_keys_is_changed_once_each<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    add_rows(&pool, 3..=600).await;
    let watcher = DB::another(&pool.url).await;
    let stock = deltas(&pool);
    for count in [1, 2, 3, 5, 8, 255, 256, 257, 600] {
        let jam = Jam::new(&pool.url, &pool, &stock).await;
        let before = values(&watcher, &[1, count]).await;
        let (_, answers) = behind(jam, (1..=count).rev().map(|id| stock.add(id, id))).await;
        assert!(ok(answers).iter().all(|answer| matches!(answer, Applied { .. })), "{count}");
        let after = values(&pool, &[1, count]).await;
        assert_eq!(after, [before[0] + 1, before[1] + count], "{count}");
    }
    let rows = DB::sql("SELECT COUNT(*) FROM counter WHERE value < id");
    assert_eq!(DB::pool_fetch(&pool, rows, &[]).await.expect("a count"), 0);
}

/// What a row may hold, as far as is known: a caller that was dropped leaves two possibilities.
type Model = BTreeMap<i64, BTreeSet<i64>>;

const FLOOR: i64 = -20;
const CEILING: i64 = 20;

fn next(value: i64, delta: i64) -> (i64, DeltaOutcome) {
    match value + delta {
        sum if (FLOOR..=CEILING).contains(&sum) => (sum, Applied { value: sum }),
        _ => (value, Refused { value }),
    }
}

/// One call in the order of its arrival, and its answer; `None` for one whose caller was dropped.
fn explain(model: &mut Model, key: i64, delta: i64, answer: Option<DeltaOutcome>) {
    let Some(possible) = model.get_mut(&key) else {
        assert!(matches!(answer, None | Some(NotFound)), "{key} {delta}: {answer:?}");
        return;
    };
    let before = possible.clone();
    *possible = match answer {
        None => before.iter().flat_map(|value| [*value, next(*value, delta).0]).collect(),
        Some(answer) => {
            let fits = before.iter().map(|value| next(*value, delta)).filter(|(_, said)| *said == answer);
            fits.map(|(value, _)| value).collect()
        }
    };
    assert!(!possible.is_empty(), "{key}: {delta:+} was answered {answer:?}, and it held one of {before:?}");
}

/// Chance that can be had again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Random calls, in random groups, some of them dropped: the answers are those of calls that ran one after another, on each
/// key in the order of their arrival.
pub(crate) async fn the_answers_are_those_of_a_serial_order<DB: TestBackend>()
where
    i64: Key<DB>,
{
    const KEYS: i64 = 7;
    let pool = counter::<DB>(4).await;
    add_rows(&pool, 3..=KEYS - 1).await;
    let (mut refused, mut dropped, mut applied) = (0, 0, 0);
    for seed in 0..12 {
        let mut dice = Dice(seed);
        set(&pool, 0).await;
        let mut model: Model = (1..KEYS).map(|key| (key, BTreeSet::from([0]))).collect();
        let stock = deltas(&pool).at_least(FLOOR).at_most(CEILING).flights(1 + dice.below(3) as usize);
        let mut calls = Vec::new();
        let mut answers: Vec<Option<DeltaOutcome>> = Vec::new();
        let mut pending = FuturesUnordered::new();
        while calls.len() < 400 {
            for _ in 0..=dice.below(30) {
                let (key, delta) = (1 + dice.below(KEYS as u64) as i64, dice.below(31) as i64 - 15);
                let (number, stock) = (calls.len(), stock.clone());
                let mut call =
                    Box::pin(async move { (number, stock.add(key, delta).await.expect("a commit")) });
                calls.push((key, delta));
                answers.push(None);
                // Its arrival.
                match (&mut call).now_or_never() {
                    Some((_, answer)) => answers[number] = Some(answer),
                    None if dice.below(10) == 0 => dropped += 1,
                    None => pending.push(call),
                }
            }
            for _ in 0..dice.below(40) {
                let Some((number, answer)) = pending.next().await else { break };
                answers[number] = Some(answer);
            }
        }
        while let Some((number, answer)) = pending.next().await {
            answers[number] = Some(answer);
        }
        drop(pending);
        for ((key, delta), answer) in calls.into_iter().zip(answers) {
            explain(&mut model, key, delta, answer);
            refused += u32::from(matches!(answer, Some(Refused { .. })));
            applied += u32::from(matches!(answer, Some(Applied { .. })));
        }
        for (key, possible) in model {
            let held = values(&pool, &[key]).await[0];
            assert!(possible.contains(&held), "{key} holds {held}, which is none of {possible:?}");
        }
    }
    assert!(refused > 100 && applied > 1000 && dropped > 100, "{refused}, {applied}, {dropped}: too tame");
}

/// 64 tasks, two coalescers that know nothing of each other, and a stranger with plain SQL, all on the same two rows.
pub(crate) async fn nothing_is_lost_among_others_on_the_same_rows<DB: TestBackend>()
where
    i64: Key<DB>,
{
    const TASKS: i64 = 64;
    const ROUNDS: i64 = 30;
    const STOCK: i64 = 500;
    const GIFTS: i64 = 20;
    let pool = counter::<DB>(2).await;
    set(&pool, STOCK).await;
    let other = DB::another(&pool.url).await;
    let shops = [deltas(&pool).at_least(0), deltas(&other).at_least(0)];
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let stock = shops[task as usize % 2].clone();
        tasks.spawn(async move {
            let (mut taken, mut refused) = ([0, 0], 0);
            for round in 0..ROUNDS {
                let id = 1 + (task + round) % 2;
                match stock.add(id, -1).await.expect("a commit") {
                    Applied { value } => {
                        assert!(value >= 0, "the floor was crossed: {value}");
                        taken[id as usize - 1] += 1;
                    }
                    Refused { value } => {
                        assert_eq!(value, 0);
                        refused += 1;
                    }
                    NotFound => panic!("the row is there"),
                }
            }
            (taken, refused)
        });
    }
    let stranger = DB::another(&pool.url).await;
    for _ in 0..GIFTS {
        let gift = DB::sql("UPDATE counter SET value = value + 1 WHERE id = 1");
        DB::pool_execute(&stranger, gift, &[]).await.expect("a gift");
    }
    let (mut taken, mut refused) = ([0, 0], 0);
    while let Some(task) = tasks.join_next().await {
        let (one, no) = task.expect("no panic");
        taken = [taken[0] + one[0], taken[1] + one[1]];
        refused += no;
    }
    let left = values(&pool, &[1, 2]).await;
    assert_eq!([taken[0] + left[0], taken[1] + left[1]], [STOCK + GIFTS, STOCK]);
    assert_eq!(taken[0] + taken[1] + refused, TASKS * ROUNDS);
    assert!(refused > 0, "the floor was never reached, so nothing was shown");
}

/// 256 tasks on one row: every value is handed out once.
pub(crate) async fn each_value_is_handed_out_once<DB: TestBackend>()
where
    i64: Key<DB>,
{
    const TASKS: i64 = 256;
    const ROUNDS: i64 = 10;
    let pool = counter::<DB>(2).await;
    let numbers = deltas(&pool);
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let numbers = numbers.clone();
        tasks.spawn(async move {
            let mut got = Vec::new();
            for _ in 0..ROUNDS {
                let Applied { value } = numbers.add(1, 1).await.expect("a commit") else { panic!("refused") };
                got.push(value);
            }
            assert!(got.is_sorted(), "{got:?}");
            got
        });
    }
    let mut all: Vec<i64> = tasks.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (1..=TASKS * ROUNDS).collect::<Vec<_>>());
}

/// Also the one whose call set the flight off. What was not written yet is not stored.
pub(crate) async fn a_dropped_caller_takes_only_its_own_call_along<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool).flights(1);
    let jam = Jam::new(&pool.url, &pool, &stock).await;
    let mut calls: Vec<_> = (0..9).map(|n| Box::pin(stock.add(1, 1 << n))).collect();
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    jam.first.abort();
    let kept: Vec<_> =
        calls.into_iter().enumerate().filter(|(n, _)| n % 3 == 1).map(|(_, call)| call).collect();
    let mut blocker = jam.blocker;
    DB::raw(&mut blocker, "ROLLBACK").await.expect("the lock is given back");
    let expected = [2, 2 + 16, 2 + 16 + 128].map(|value| Applied { value });
    assert_eq!(ok(join_all(kept).await), expected);
    assert_eq!(value(&pool).await, 146);
}

/// The batch has the call already, and has not got its locks.
pub(crate) async fn a_caller_that_is_dropped_in_flight_has_stored_nothing<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool).options(step_by_step()).flights(1);
    eventually(1, async || pool.num_idle()).await;
    let mut blocker = DB::blocker(&pool.url).await;
    let (mut first, mut second) = (Box::pin(stock.add(1, 1)), Box::pin(stock.add(1, 10)));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    eventually(0, async || pool.num_idle()).await;
    drop(first);
    DB::raw(&mut blocker, "ROLLBACK").await.expect("the lock is given back");
    assert_eq!(second.await.expect("a commit"), Applied { value: 10 });
}

/// Calls that share a flight have deadlines of their own: the flight goes on for the last of them, without its locks, while
/// the others give up.
pub(crate) async fn a_deadline_is_kept_and_nothing_is_stored<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    eventually(1, async || pool.num_idle()).await;
    let mut blocker = DB::blocker(&pool.url).await;
    let hasty = deltas(&pool).options(Options::new().deadline(Duration::from_millis(300)));
    let staggered = (0..6).map(async |n| {
        tokio::time::sleep(Duration::from_millis(60 * n)).await;
        hasty.add(1, 1).await
    });
    for error in join_all(staggered).await {
        let error = error.expect_err("somebody has it");
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    }
    DB::raw(&mut blocker, "ROLLBACK").await.expect("the lock is given back");
    assert_eq!(hasty.options(patient()).add(1, 1).await.expect("a commit"), Applied { value: 1 });
    assert_eq!(value(&pool).await, 1);
}

pub(crate) async fn a_full_queue_says_so_at_once<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool).capacity(2).flights(1);
    let jam = Jam::new(&pool.url, &pool, &stock).await;
    let (mut one, mut two) = (Box::pin(stock.add(1, 1)), Box::pin(stock.add(1, 10)));
    assert!((&mut one).now_or_never().is_none() && (&mut two).now_or_never().is_none());
    let full = stock.add(1, 100).now_or_never().expect("at once").expect_err("two wait already");
    assert_eq!(full.kind(), ErrorKind::Overloaded, "{full:?}");
    assert!(full.is_overloaded() && full.to_string().contains("2 calls"), "{full}");

    // Who gives up leaves room.
    drop(one);
    let (_, answers) = behind(jam, [two, Box::pin(stock.add(1, 1000))]).await;
    assert_eq!(ok(answers), [Applied { value: 10 }, Applied { value: 1010 }]);
}

/// It would wait for a connection, or for a lock, that only its own end gives back.
pub(crate) async fn a_call_inside_of_a_unit_is_refused<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool);
    let error = Pessimistic::default()
        .on(&pool)
        .run(async |_: &mut Tx<DB>| stock.add(1, 1).await.map(drop))
        .await
        .expect_err("it would wait for itself");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(value(&pool).await, 0);
}

pub(crate) async fn a_closed_pool_is_told_to_every_caller<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool);
    pool.close().await;
    for answer in join_all((0..4).map(|n| stock.add(n, 1))).await {
        let error = answer.expect_err("there is no database");
        assert!(error.to_string().contains("closed"), "{error}");
    }
}

/// Only the calls on the rows that are not as they have to be.
pub(crate) async fn numbers_that_are_no_integers_are_left_alone<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = DB::pool(1).await;
    let create = "CREATE TABLE counter (id BIGINT, value NUMERIC(30, 2))";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    let rows = "INSERT INTO counter VALUES (1, 5), (2, 2.5), (3, NULL), (4, 5), (4, 6)";
    DB::pool_execute(&pool, DB::sql(rows), &[]).await.expect("rows");
    let stock = deltas(&pool).at_least(0).flights(1);
    let jam = Jam::new(&pool.url, &pool, &stock).await;
    let (_, answers) = behind(jam, (1..=4).map(|id| stock.add(id, -1))).await;
    let seen: Vec<_> = answers.into_iter().map(|answer| answer.map_err(|error| error.to_string())).collect();
    assert_eq!(seen[0], Ok(Applied { value: 4 }));
    for (answer, what) in seen[1..].iter().zip(["no integer", "no integer", "several rows"]) {
        assert!(answer.as_ref().expect_err("not changed").contains(what), "{answer:?}");
    }
    let left = DB::sql("SELECT COUNT(*) FROM counter WHERE value IN (4, 2.5, 5, 6) OR value IS NULL");
    assert_eq!(DB::pool_fetch(&pool, left, &[]).await.expect("a count"), 5);
}

/// Rows 1 and 2 of the table `counter` hold `start`. They can hold `start + fits`, and neither `start + too_much` nor
/// `start + fits + too_much`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limited {
    pub(crate) start: i64,
    pub(crate) fits: i64,
    pub(crate) too_much: i64,
}

/// Whatever a batch does to the rows, and whether or not the database calls it an error: a call is told that it is applied
/// if, and only if, the row holds the sum.
pub(crate) async fn only_sums_that_are_stored_are_applied<DB: TestBackend>(
    what: &str,
    pool: &TestPool<DB>,
    limited: Limited,
) where
    i64: Key<DB>,
{
    let Limited { start, fits, too_much } = limited;
    let holds = async |id: i64, value: i64| {
        let select = DB::sql("SELECT COUNT(*) FROM counter WHERE id = ? AND value = ?");
        let count = DB::pool_fetch(pool, select, &[id, value]).await.expect("a count");
        assert_eq!(count, 1, "{what}: row {id} does not hold {value}");
    };
    for options in [patient(), step_by_step()] {
        let restart = DB::sql("UPDATE counter SET value = ?");
        DB::pool_execute(pool, restart, &[start]).await.expect("the start");
        let stock = deltas(pool).flights(1).options(options);
        let refused = |answer: Answer| {
            let kind = answer.map_err(|error| error.kind());
            let is_refused =
                matches!(kind, Err(ErrorKind::Aborted | ErrorKind::Database | ErrorKind::Constraint));
            assert!(is_refused, "{what}: {too_much:+} to {start} was answered {kind:?}");
        };
        refused(stock.add(1, too_much).await);
        holds(1, start).await;

        let jam = Jam::unchanged(&pool.url, pool, &stock).await;
        let calls = [(1, fits), (1, too_much), (2, fits)].map(|(id, delta)| stock.add(id, delta));
        let mut answers = behind(jam, calls).await.1;
        refused(answers.remove(1));
        assert_eq!(ok(answers), [Applied { value: start + fits }; 2], "{what}");
        holds(1, start + fits).await;
        holds(2, start + fits).await;
    }
}

/// A database of its own, with a table `counter` of two rows that is made by these statements.
pub(crate) async fn made_by<DB: TestBackend>(statements: &[&str]) -> TestPool<DB> {
    let pool = DB::pool(1).await;
    for sql in statements {
        // MySQL prepares no CREATE TRIGGER.
        let done = Atomic::default().on(&pool).apply(sqlx::raw_sql(DB::sql(sql))).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    pool
}

/// A floating-point number says no word when it is too big to grow by one.
pub(crate) async fn what_a_double_cannot_hold_is_refused<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let create = "CREATE TABLE counter (id BIGINT PRIMARY KEY, value DOUBLE PRECISION NOT NULL)";
    let pool = made_by::<DB>(&[create, "INSERT INTO counter VALUES (1, 0), (2, 0)"]).await;
    let limited = Limited { start: 1 << 53, fits: 2, too_much: 1 };
    only_sums_that_are_stored_are_applied("double precision", &pool, limited).await;
}

/// Keys of another type, and a smaller type of number.
pub(crate) async fn keys_may_be_text<DB: TestBackend>()
where
    String: Key<DB>,
{
    let pool = DB::pool(2).await;
    let create = "CREATE TABLE tag (name VARCHAR(40) PRIMARY KEY, uses INTEGER NOT NULL)";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    let rows = "INSERT INTO tag VALUES ('rust', 0), ('sql', 7), ('é', 1)";
    DB::pool_execute(&pool, DB::sql(rows), &[]).await.expect("rows");
    let uses = Deltas::on(&pool, "tag", "name", "uses").options(patient());
    for _ in 0..3 {
        let calls = ["rust", "sql", "é", "no such", "rust"].map(|name| uses.add(name.to_owned(), 1));
        assert_eq!(ok(join_all(calls).await)[3], NotFound);
    }
    let expected = [7, 11, 5].map(|value| Applied { value });
    let calls = ["rust", "sql", "é"].map(|name| uses.add(name.to_owned(), 1));
    assert_eq!(ok(join_all(calls).await), expected);
    let small = uses.add("rust".to_owned(), i64::from(i32::MAX)).await;
    match small {
        // SQLite's integers are all of one size.
        Ok(outcome) => assert_eq!(DB::NAME, "SQLite", "{outcome:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Database, "{error:?}"),
    }
}

/// The flight's task is on another runtime. When that is gone, those who wait here are told.
pub(crate) async fn a_runtime_that_is_gone_strands_nobody<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool).flights(1);
    eventually(1, async || pool.num_idle()).await;
    let mut blocker = DB::blocker(&pool.url).await;
    let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let elsewhere = elsewhere.expect("a runtime");
    let first = stock.clone();
    elsewhere.spawn(async move { first.add(1, 1).await });
    eventually(0, async || pool.num_idle()).await;
    let waiting = tokio::spawn({
        let stock = stock.clone();
        async move { stock.add(1, 10).await }
    });
    let mut probe = Box::pin(stock.add(1, 100));
    assert!((&mut probe).now_or_never().is_none());
    elsewhere.shutdown_background();
    let error = probe.await.expect_err("nobody serves it");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    DB::raw(&mut blocker, "ROLLBACK").await.expect("the lock is given back");
    let stored = match waiting.await.expect("no panic") {
        Ok(_) => 10,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            0
        }
    };
    assert_eq!(stock.add(1, 1000).await.expect("a commit"), Applied { value: stored + 1000 });
}

/// Nobody is told twice, and nothing is stored twice.
pub(crate) async fn a_batch_that_lost_its_connection_is_run_again<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let watcher = DB::another(&pool.url).await;
    let stock = deltas(&pool).options(step_by_step());
    eventually(1, async || pool.num_idle()).await;
    let _blocker = DB::blocker(&pool.url).await;
    let mut calls = join_all((0..5).map(|n| stock.add(1, 1 << n)));
    assert!((&mut calls).now_or_never().is_none());
    eventually(2, async || DB::open_transactions(&watcher).await).await;
    DB::kill_sessions(&pool.url).await;
    let mut values: Vec<i64> = Vec::new();
    for outcome in ok(calls.await) {
        let Applied { value } = outcome else { panic!("{outcome:?}") };
        values.push(value);
    }
    assert_eq!(values, [1, 3, 7, 15, 31]);
    assert_eq!(value(&DB::another(&pool.url).await).await, 31);
}

pub(crate) async fn an_unknown_commit_is_told_to_every_caller<DB: TestBackend>()
where
    i64: Key<DB>,
{
    for (fault, delivered) in [(Fault::CutBefore, false), (Fault::CutAfter, true)] {
        let direct = counter::<DB>(1).await;
        let proxy = Proxy::to(&direct.url).await;
        let pool = PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await;
        let pool = pool.expect("a pool through the proxy");
        let stock = deltas(&pool).options(step_by_step()).at_least(0).flights(1);
        let jam = Jam::new(&direct.url, &pool, &stock).await;
        // The first flight commits; the next one does not come back.
        proxy.cycle(DB::COMMIT, &[None, Some(fault)]);
        let (first, answers) = behind(jam, [5, -9, 2].map(|delta| stock.add(1, delta))).await;
        assert_eq!(first.expect("a commit"), Applied { value: 0 });
        for answer in answers {
            let error = answer.expect_err("nobody knows");
            assert!(error.is_commit_unknown(), "{fault:?}: {error:?}");
        }
        assert_eq!(proxy.hits(), 1, "the commit was sent once");
        proxy.heal();
        eventually(if delivered { 7 } else { 0 }, async || value(&direct).await).await;
    }
}

/// The flight's runtime is shut down while the commit is on its way.
pub(crate) async fn a_commit_whose_runtime_is_gone_is_unknown<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await;
    let pool = pool.expect("a pool through the proxy");
    let stock = deltas(&pool).options(step_by_step()).flights(1);
    eventually(1, async || pool.num_idle()).await;
    let mut blocker = DB::blocker(&direct.url).await;
    let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let elsewhere = elsewhere.expect("a runtime");
    let first = stock.clone();
    elsewhere.spawn(async move { first.add(1, 0).await });
    eventually(0, async || pool.num_idle()).await;
    let mut call = Box::pin(stock.add(1, 1));
    assert!((&mut call).now_or_never().is_none());
    proxy.cycle(DB::COMMIT, &[None, Some(Fault::SilenceAfter)]);
    DB::raw(&mut blocker, "ROLLBACK").await.expect("the lock is given back");
    eventually(1, async || proxy.hits()).await;
    elsewhere.shutdown_background();
    let error = call.await.expect_err("nobody knows");
    assert!(error.is_commit_unknown(), "{error:?}");
}

/// A row that somebody else has locked holds up those who want it, and nobody else.
pub(crate) async fn a_locked_row_does_not_hold_up_the_others<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(2).await;
    let watcher = DB::another(&pool.url).await;
    let stock = deltas(&pool);
    let mut blocker = DB::blocker(&pool.url).await;
    let mut held = Box::pin(stock.add(1, 1));
    assert!((&mut held).now_or_never().is_none());
    eventually(2, async || DB::open_transactions(&watcher).await).await;
    for value in 1..=20 {
        assert_eq!(stock.add(2, 1).await.expect("a commit"), Applied { value });
    }
    assert!((&mut held).now_or_never().is_none());
    DB::raw(&mut blocker, "ROLLBACK").await.expect("the lock is given back");
    assert_eq!(held.await.expect("a commit"), Applied { value: 1 });
}

/// One that comes while the flight in front of it may still land in time, and behind which nobody comes.
pub(crate) async fn whoever_waits_behind_a_late_flight_is_fetched<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(2).await;
    let stock = deltas(&pool);
    let in_use = async || pool.size() as usize - pool.num_idle();
    eventually(0, in_use).await;
    let mut blocker = DB::blocker(&pool.url).await;
    let mut held = Box::pin(stock.add(1, 1));
    assert!((&mut held).now_or_never().is_none());
    let behind = async {
        // It departs, and is not late yet.
        while in_use().await == 0 {
            tokio::task::yield_now().await;
        }
        stock.add(2, 1).await
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), behind).await;
    assert_eq!(answer.expect("in time").expect("a commit"), Applied { value: 1 });
    assert!((&mut held).now_or_never().is_none());
    DB::raw(&mut blocker, "ROLLBACK").await.expect("the lock is given back");
    assert_eq!(held.await.expect("a commit"), Applied { value: 1 });
}

/// The flight that waits for a lock goes with them, at once and not at its deadline.
pub(crate) async fn nothing_is_left_behind_by_the_last_handle<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let watcher = DB::another(&pool.url).await;
    let runtime = tokio::runtime::Handle::current();
    eventually(1, async || pool.num_idle()).await;
    let blocker = DB::blocker(&pool.url).await;
    let before = runtime.metrics().num_alive_tasks();
    let stock = deltas(&pool);
    let mut call = Box::pin(stock.add(1, 1));
    assert!((&mut call).now_or_never().is_none());
    eventually(2, async || DB::open_transactions(&watcher).await).await;
    assert!(runtime.metrics().num_alive_tasks() > before, "there is a task while there is a flight");
    drop(call);
    drop(stock);
    eventually(0, async || pool.size()).await;
    // The server waits for the row until then, and the connection for the server.
    drop(blocker);
    eventually(true, async || runtime.metrics().num_alive_tasks() <= before).await;
}
