//! Concurrent calls and other writers on the same rows.

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

/// The possible values of each row. A dropped call may or may not have been applied, so there may be several.
type Model = BTreeMap<i64, BTreeSet<i64>>;

const FLOOR: i64 = -20;
const CEILING: i64 = 20;

fn next(value: i64, delta: i64) -> (i64, DeltaOutcome) {
    match value + delta {
        sum if (FLOOR..=CEILING).contains(&sum) => (sum, Applied { value: sum }),
        _ => (value, Refused { value }),
    }
}

/// Checks the result of one call against the model, in the order of arrival. `None` is a dropped call.
fn check_call(model: &mut Model, key: i64, delta: i64, result: Option<DeltaOutcome>) {
    let Some(possible) = model.get_mut(&key) else {
        assert!(matches!(result, None | Some(NotFound)), "{key} {delta}: {result:?}");
        return;
    };
    let before = possible.clone();
    *possible = match result {
        None => before.iter().flat_map(|value| [*value, next(*value, delta).0]).collect(),
        Some(result) => {
            let fits =
                before.iter().map(|value| next(*value, delta)).filter(|(_, outcome)| *outcome == result);
            fits.map(|(value, _)| value).collect()
        }
    };
    assert!(!possible.is_empty(), "{key}: {delta:+} returned {result:?}, and the row held one of {before:?}");
}

/// Reproducible random numbers.
struct RandomNumbers(u64);

impl RandomNumbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Makes random calls in random groups and drops some of them. The outcomes must be those of calls that ran
/// one after another, on each key in the order of their arrival.
pub(crate) async fn outcomes_match_a_serial_order<DB: TestBackend>()
where
    i64: Key<DB>,
{
    const KEYS: i64 = 7;
    let pool = counter::<DB>(4).await;
    add_rows(&pool, 3..=KEYS - 1).await;
    let (mut refused, mut dropped, mut applied) = (0, 0, 0);
    for seed in 0..12 {
        let mut random = RandomNumbers(seed);
        set(&pool, 0).await;
        let mut model: Model = (1..KEYS).map(|key| (key, BTreeSet::from([0]))).collect();
        let stock = deltas(&pool).at_least(FLOOR).at_most(CEILING).max_batches(1 + random.below(3) as usize);
        let mut calls = Vec::new();
        let mut results: Vec<Option<DeltaOutcome>> = Vec::new();
        let mut pending = FuturesUnordered::new();
        while calls.len() < 400 {
            for _ in 0..=random.below(30) {
                let (key, delta) = (1 + random.below(KEYS as u64) as i64, random.below(31) as i64 - 15);
                let (number, stock) = (calls.len(), stock.clone());
                let mut call =
                    Box::pin(async move { (number, stock.add(key, delta).await.expect("a commit")) });
                calls.push((key, delta));
                results.push(None);
                // The first poll is the arrival of the call.
                match (&mut call).now_or_never() {
                    Some((_, result)) => results[number] = Some(result),
                    None if random.below(10) == 0 => dropped += 1,
                    None => pending.push(call),
                }
            }
            for _ in 0..random.below(40) {
                let Some((number, result)) = pending.next().await else { break };
                results[number] = Some(result);
            }
        }
        while let Some((number, result)) = pending.next().await {
            results[number] = Some(result);
        }
        drop(pending);
        for ((key, delta), result) in calls.into_iter().zip(results) {
            check_call(&mut model, key, delta, result);
            refused += u32::from(matches!(result, Some(Refused { .. })));
            applied += u32::from(matches!(result, Some(Applied { .. })));
        }
        for (key, possible) in model {
            let held = values(&pool, &[key]).await[0];
            assert!(possible.contains(&held), "{key} holds {held}, expected one of {possible:?}");
        }
    }
    assert!(
        refused > 100 && applied > 1000 && dropped > 100,
        "{refused} refused, {applied} applied and {dropped} dropped: too few to prove anything"
    );
}

/// 64 tasks, two independent `Deltas` and another session with plain SQL update the same two rows.
pub(crate) async fn loses_no_update_among_other_writers<DB: TestBackend>()
where
    i64: Key<DB>,
{
    const TASKS: i64 = 64;
    const ROUNDS: i64 = 30;
    const STOCK: i64 = 500;
    const INCREMENTS: i64 = 20;
    let pool = counter::<DB>(2).await;
    set(&pool, STOCK).await;
    let other = DB::another(&pool.url).await;
    let counters = [deltas(&pool).at_least(0), deltas(&other).at_least(0)];
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let stock = counters[task as usize % 2].clone();
        tasks.spawn(async move {
            let (mut taken, mut refused) = ([0, 0], 0);
            for round in 0..ROUNDS {
                let id = 1 + (task + round) % 2;
                match stock.add(id, -1).await.expect("a commit") {
                    Applied { value } => {
                        assert!(value >= 0, "the value is below the minimum: {value}");
                        taken[id as usize - 1] += 1;
                    }
                    Refused { value } => {
                        assert_eq!(value, 0);
                        refused += 1;
                    }
                    NotFound => panic!("the row was not found"),
                }
            }
            (taken, refused)
        });
    }
    let writer = DB::another(&pool.url).await;
    for _ in 0..INCREMENTS {
        let increment = DB::sql("UPDATE counter SET value = value + 1 WHERE id = 1");
        DB::pool_execute(&writer, increment, &[]).await.expect("an increment");
    }
    let (mut taken, mut refused) = ([0, 0], 0);
    while let Some(task) = tasks.join_next().await {
        let (task_taken, task_refused) = task.expect("no panic");
        taken = [taken[0] + task_taken[0], taken[1] + task_taken[1]];
        refused += task_refused;
    }
    let remaining = values(&pool, &[1, 2]).await;
    assert_eq!([taken[0] + remaining[0], taken[1] + remaining[1]], [STOCK + INCREMENTS, STOCK]);
    assert_eq!(taken[0] + taken[1] + refused, TASKS * ROUNDS);
    assert!(refused > 0, "no call was refused, so the test proves nothing");
}

/// 256 tasks add to one row; every value is returned once.
pub(crate) async fn returns_each_value_once<DB: TestBackend>()
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
pub(crate) async fn a_locked_row_does_not_delay_other_rows<DB: TestBackend>()
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
    DB::raw(&mut blocker, "ROLLBACK").await.expect("a rollback");
    assert_eq!(held.await.expect("a commit"), Applied { value: 1 });
}

/// The call arrives before the running batch counts as slow, and no further call follows.
pub(crate) async fn a_call_during_a_slow_batch_runs_in_another_batch<DB: TestBackend>()
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
    let second_call = async {
        // The first batch runs, and does not count as slow yet.
        while in_use().await == 0 {
            tokio::task::yield_now().await;
        }
        stock.add(2, 1).await
    };
    let result = tokio::time::timeout(Duration::from_secs(60), second_call).await;
    assert_eq!(result.expect("in time").expect("a commit"), Applied { value: 1 });
    assert!((&mut held).now_or_never().is_none());
    DB::raw(&mut blocker, "ROLLBACK").await.expect("a rollback");
    assert_eq!(held.await.expect("a commit"), Applied { value: 1 });
}
