//! Many calls and other writers on the same rows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atomically::DeltaOutcome::{self, Applied, NotFound, Refused};
use atomically::Key;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::JoinSet;

use super::{add_rows, deltas, set, values};
use crate::conformance::increments::counter;
use crate::support::{TestBackend, eventually};

/// The possible values of each row: a caller that was dropped leaves two possibilities.
type Model = BTreeMap<i64, BTreeSet<i64>>;

const FLOOR: i64 = -20;
const CEILING: i64 = 20;

fn next(value: i64, delta: i64) -> (i64, DeltaOutcome) {
    match value + delta {
        sum if (FLOOR..=CEILING).contains(&sum) => (sum, Applied { value: sum }),
        _ => (value, Refused { value }),
    }
}

/// Checks one call, in the order of arrival, against the model; `None` is a caller that was dropped.
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

/// Reproducible random numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Makes random calls in random groups and drops some of them. The outcomes must be those of calls that ran
/// one after another, on each key in the order of their arrival.
pub(crate) async fn the_outcomes_are_those_of_a_serial_order<DB: TestBackend>()
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
        let stock = deltas(&pool).at_least(FLOOR).at_most(CEILING).max_batches(1 + dice.below(3) as usize);
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

/// 64 tasks, two independent `Deltas` and another session with plain SQL update the same two rows.
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

/// 256 tasks add to one row; every value is returned once.
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

/// A row that another session has locked delays only the calls on that row.
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
    DB::raw(&mut blocker, "ROLLBACK").await.expect("the lock is released");
    assert_eq!(held.await.expect("a commit"), Applied { value: 1 });
}

/// The call arrives while the batch in front of it is not slow yet, and no further call follows.
pub(crate) async fn a_call_behind_a_slow_batch_gets_another_batch<DB: TestBackend>()
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
        // The first batch runs, and is not slow yet.
        while in_use().await == 0 {
            tokio::task::yield_now().await;
        }
        stock.add(2, 1).await
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), behind).await;
    assert_eq!(answer.expect("in time").expect("a commit"), Applied { value: 1 });
    assert!((&mut held).now_or_never().is_none());
    DB::raw(&mut blocker, "ROLLBACK").await.expect("the lock is released");
    assert_eq!(held.await.expect("a commit"), Applied { value: 1 });
}
