//! Runs that wait at the gate for one key, and their effect on other runs.

pub(crate) mod under_load;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{
    Adaptive, Atomic, Attempt, Backoff, Error, ErrorKind, Failure, Gate, Isolation, Optimistic, Options,
    Pessimistic, Plan, PoolTransactor, RetryBudget, Serializable, Strategy, Transactor, TransactorExt as _,
    Tx,
};
use tokio::sync::Notify;
use tokio::task::{JoinSet, yield_now};

use super::increments::{counter, increment, patient, value};
use crate::support::{TestBackend, TestPool};

/// Yields until other tasks of this process make the condition hold.
pub(super) async fn wait_until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("the condition did not hold in time");
}

/// Returns a transactor for each strategy, with this pool and this gate.
fn strategies<DB: TestBackend>(
    pool: &TestPool<DB>,
    gate: &Gate,
) -> Vec<(&'static str, Arc<dyn Transactor<DB>>)> {
    fn on<DB: TestBackend>(
        strategy: impl Strategy,
        pool: &TestPool<DB>,
        gate: &Gate,
    ) -> Arc<dyn Transactor<DB>> {
        Arc::new(patient(strategy, &pool.pool).gate(gate))
    }
    vec![
        ("pessimistic", on(Pessimistic::default(), pool, gate)),
        ("optimistic", on(Optimistic::default(), pool, gate)),
        ("serializable", on(Serializable::default(), pool, gate)),
        ("atomic", on(Atomic::default(), pool, gate)),
        ("adaptive", on(Adaptive::default(), pool, gate)),
    ]
}

async fn read_counter<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<i64, Error> {
    Ok(DB::fetch(tx, DB::sql("SELECT value FROM counter WHERE id = 2"), &[]).await?)
}

/// Forty units wait for one that does not return. Meanwhile they hold neither a connection nor a transaction,
/// so units without the key succeed on a pool of four. Later the waiting units run in the order of their
/// arrival.
pub(crate) async fn waiting_units_hold_no_connection_and_run_in_order<DB: TestBackend>() {
    const WAITING: usize = 40;
    let pool = counter::<DB>(4).await;
    let gate = Gate::new();
    let db = patient(Optimistic::default(), &pool).gate(&gate);
    let (release, order) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let mut tasks = JoinSet::new();
    for i in 0..=WAITING {
        let (db, release, order) = (db.clone(), release.clone(), order.clone());
        tasks.spawn(async move {
            db.on_key("hot")
                .run(async |tx: &mut Tx<DB>| {
                    if i == 0 {
                        release.notified().await;
                    }
                    order.lock().expect("the order").push(i);
                    increment(tx).await
                })
                .await
                .expect("a commit");
        });
        wait_until(|| gate.at("hot") == i + 1).await;
    }

    // The active unit and the next two, which have opened their transactions, leave one connection.
    for _ in 0..20 {
        db.run(read_counter::<DB>).await.expect("a unit without a key");
        db.on_key("cold").run(read_counter::<DB>).await.expect("a unit with another key");
    }
    assert_eq!(gate.at("hot"), WAITING + 1, "a waiting unit has left the gate");
    assert!(order.lock().expect("the order").is_empty());

    release.notify_one();
    while let Some(task) = tasks.join_next().await {
        task.expect("no unit fails");
    }
    assert_eq!(*order.lock().expect("the order"), (0..=WAITING).collect::<Vec<_>>());
    assert_eq!(value(&pool).await, WAITING as i64 + 1);
    assert_eq!(gate.keys(), 0, "the gate keeps no idle keys");
}

/// Runs that stopped waiting, because they were dropped or reached their deadline, are skipped. A full queue
/// is an error immediately.
pub(crate) async fn the_gate_skips_runs_that_stopped_waiting<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let gate = Gate::new().queue(3);
    let db = patient(Pessimistic::default(), &pool).gate(&gate);
    let (release, started) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let holder = {
        let (db, release, started) = (db.clone(), release.clone(), started.clone());
        tokio::spawn(async move {
            db.on_key("hot")
                .run(async |tx: &mut Tx<DB>| {
                    increment(tx).await?;
                    started.store(true, SeqCst);
                    release.notified().await;
                    Ok::<_, Error>(())
                })
                .await
        })
    };
    wait_until(|| started.load(SeqCst)).await;
    let mut waiting = Vec::new();
    for at in 2..=6 {
        let db = db.clone();
        waiting.push(tokio::spawn(async move { db.on_key("hot").run(increment::<DB>).await }));
        wait_until(|| gate.at("hot") == at).await;
    }
    let full = db.on_key("hot").run(increment::<DB>).await.expect_err("the queue is full");
    assert_eq!((full.kind(), full.attempts()), (ErrorKind::Overloaded, Some(0)), "{full:?}");
    assert!(full.is_overloaded());
    // On SQLite no other transaction can write at this time.
    let reader = db.with(Options::new().read_only().on_key("cold"));
    reader.run(read_counter::<DB>).await.expect("the queue of another key has room");

    // One waiting run is dropped, and another one reaches its deadline.
    let dropped = waiting.remove(3);
    dropped.abort();
    assert!(dropped.await.expect_err("it was dropped").is_cancelled());
    assert_eq!(gate.at("hot"), 5);
    let short = db.with(Options::new().deadline(Duration::from_millis(50)).on_key("hot"));
    let late = short.run(increment::<DB>).await.expect_err("the key stays locked");
    assert_eq!((late.kind(), late.attempts()), (ErrorKind::DeadlineExceeded, Some(0)), "{late:?}");
    assert!(late.is_overloaded(), "{late:?}");
    assert_eq!(gate.at("hot"), 5);

    release.notify_one();
    holder.await.expect("the holder").expect("a commit");
    for waiting in waiting {
        waiting.await.expect("a task").expect("a commit");
    }
    assert_eq!(value(&pool).await, 5);
    assert_eq!(gate.keys(), 0);
}

/// Drops runs after different numbers of polls.
pub(crate) async fn a_dropped_run_leaves_the_gate<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let gate = Gate::new();
    for (name, db) in strategies(&pool, &gate) {
        let (mut dropped, mut rounds) = (0, 0);
        // SQLite may respond so fast that a run completes within a poll or two.
        while rounds < 40 || dropped == 0 {
            assert!(rounds < 2_000, "{name}: no run was dropped while it held a permit");
            rounds += 1;
            if name == "adaptive" {
                // It uses the gate only for keys with conflicts, and each commit cools the key.
                let conflict = async |tx: &mut Tx<DB>| tx.expect_one(0);
                let conflicts = db.with(Options::new().on_key("hot").attempts(3));
                assert!(conflicts.run(conflict).await.expect_err("a conflict").is_exhausted());
            }
            let polls = 1 + rounds % 40;
            let db = db.with(Options::new().on_key("hot"));
            let seen = AtomicUsize::new(0);
            let unit = async |tx: &mut Tx<DB>| {
                seen.store(gate.at("hot"), SeqCst);
                increment(tx).await
            };
            let outcome = super::cancellation::poll_at_most(polls, db.run(unit)).await;
            dropped += u32::from(outcome.is_none() && seen.load(SeqCst) == 1);
            assert_eq!(gate.keys(), 0, "{name}, after {polls} polls");
        }
        db.with(Options::new().on_key("hot")).run(increment::<DB>).await.expect("a commit at an idle gate");
    }
}

/// Runs that wait for their next attempt, and runs whose hooks are running, block no other run.
pub(crate) async fn backoffs_and_hooks_hold_no_gate_permit<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let gate = Gate::new();
    let db = patient(Optimistic::default(), &pool).gate(&gate);
    let day = Duration::from_secs(24 * 60 * 60);
    let long_backoff = Options::new().backoff(Backoff::exponential(day, day)).deadline(day * 20).seed(1);
    let attempted = Arc::new(AtomicBool::new(false));
    let paused = {
        let (db, attempted) = (db.clone(), attempted.clone());
        tokio::spawn(async move {
            let unit = async |tx: &mut Tx<DB>| {
                attempted.store(true, SeqCst);
                tx.expect_one(0)
            };
            db.with(long_backoff.on_key("hot")).run(unit).await
        })
    };
    wait_until(|| attempted.load(SeqCst) && gate.keys() == 0).await;
    db.on_key("hot").run(increment::<DB>).await.expect("a commit at an idle gate");
    assert!(!paused.is_finished(), "the run did not wait for its next attempt");
    paused.abort();

    let seen = Arc::new(AtomicI64::new(-1));
    let unit = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        let (gate, seen) = (gate.clone(), seen.clone());
        tx.on_commit(async move { seen.store(gate.keys() as i64, SeqCst) });
        Ok::<_, Error>(())
    };
    db.on_key("hot").run(unit).await.expect("a commit");
    assert_eq!(seen.load(SeqCst), 0, "a hook ran while its run held a permit");
}

/// `Adaptive` uses the gate and row locks after a key has had conflicts, and stops when the key has cooled.
pub(crate) async fn adaptive_locks_hot_keys_and_stops_when_they_cool<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let db = patient(Adaptive::default(), &pool);
    let locks = async |key: &'static str| {
        db.on_key(key)
            .run(async |tx: &mut Tx<DB>| Ok::<_, Error>(tx.plan().row_lock.is_some()))
            .await
            .expect("a plan")
    };
    assert!(!locks("hot").await, "it locks rows before any conflict");
    for _ in 0..2 {
        let conflicted = AtomicU32::new(0);
        let unit = async |tx: &mut Tx<DB>| {
            // The first attempt conflicts.
            if conflicted.fetch_add(1, SeqCst) == 0 {
                tx.expect_one(0)?;
            }
            increment(tx).await
        };
        db.on_key("hot").run(unit).await.expect("the second attempt");
    }
    // After two conflicts and two commits the heat of the key is 14, and one more conflict makes it hot.
    let conflicted = AtomicU32::new(0);
    let unit = async |tx: &mut Tx<DB>| {
        if conflicted.fetch_add(1, SeqCst) == 0 {
            tx.expect_one(0)?;
        }
        Ok::<_, Error>(tx.plan().row_lock.is_some())
    };
    assert!(
        db.on_key("hot").run(unit).await.expect("the second attempt"),
        "the key is not hot after three conflicts"
    );
    assert!(locks("hot").await);
    assert!(!locks("cold").await, "another key became hot");
    for _ in 0..49 {
        locks("hot").await;
    }
    assert!(!locks("hot").await, "the key is still hot");
}

/// Strategies receive each attempt, whether it had to queue at the gate, and whether it failed.
pub(crate) async fn strategies_record_every_attempt<DB: TestBackend>() {
    #[derive(Debug, Clone, Default)]
    struct RecordingStrategy(Arc<Mutex<Vec<(u32, bool, bool)>>>);
    impl Strategy for RecordingStrategy {
        fn plan(&self, attempt: &Attempt) -> Plan {
            assert!(attempt.key.is_some() && !attempt.queued, "{attempt:?}");
            Plan::new(Isolation::ReadCommitted)
        }
        fn record(&self, attempt: &Attempt, failure: Option<&Failure>) {
            let record = (attempt.number, attempt.queued, failure.is_some());
            self.0.lock().expect("the records").push(record);
        }
    }

    let pool = counter::<DB>(3).await;
    let (gate, strategy) = (Gate::new(), RecordingStrategy::default());
    let db = patient(strategy.clone(), &pool).gate(&gate);
    let (release, retried) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for holds in [true, false] {
        let (db, release, has_retried) = (db.clone(), release.clone(), retried.clone());
        tasks.spawn(async move {
            let unit = async |tx: &mut Tx<DB>| {
                if holds && tx.attempt() == 2 {
                    has_retried.store(true, SeqCst);
                    release.notified().await;
                }
                tx.expect_one(if holds && tx.attempt() == 1 { 0 } else { 1 })
            };
            db.on_key("hot").run(unit).await.expect("a commit");
        });
        wait_until(|| retried.load(SeqCst) && gate.at("hot") == if holds { 1 } else { 2 }).await;
    }
    release.notify_one();
    while let Some(task) = tasks.join_next().await {
        task.expect("a task");
    }
    assert_eq!(
        *strategy.0.lock().expect("the records"),
        [(1, false, true), (2, false, false), (1, true, false)]
    );
}

/// A run that the budget does not allow to retry returns an error that contains its last failure.
pub(crate) async fn fails_when_the_retry_budget_is_spent<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let budget = RetryBudget::new().reserve(0).ratio(1.1).window(Duration::from_secs(24 * 60 * 60));
    let db = Optimistic::default().on(&pool).retry_budget(&budget);
    let conflicts = async |tx: &mut Tx<DB>| tx.expect_one(0);
    let error = db.run(conflicts).await.expect_err("an empty budget");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::BudgetSpent, Some(1)), "{error:?}");
    assert!(error.is_exhausted() && error.is_conflict(), "{error:?}");
    assert!(error.to_string().starts_with("retry budget spent after 1 attempt"), "{error}");

    // Commits of one transactor pay for retries of another one.
    let earner = Pessimistic::default().on(&pool).retry_budget(&budget);
    for _ in 0..3 {
        earner.run(increment::<DB>).await.expect("a commit");
    }
    let error = db.run(conflicts).await.expect_err("always a conflict");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::BudgetSpent, Some(4)), "{error:?}");
}

/// Includes keys that are passed through `dyn Transactor`, and the key of a transactor itself.
pub(crate) async fn uses_the_key_of_the_innermost_options<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let gate = Gate::new();
    let plain = PoolTransactor::new(Optimistic::default(), &pool.pool).gate(&gate);
    let keyed = plain.clone().options(Options::new().on_key(("counter", 1)));
    let seen = async |db: &dyn Transactor<DB>, key: (&'static str, i32)| {
        db.run(async |_: &mut Tx<DB>| Ok::<_, Error>(gate.at(key))).await.expect("a commit")
    };
    assert_eq!(seen(&plain, ("counter", 1)).await, 0);
    assert_eq!(seen(&keyed, ("counter", 1)).await, 1);
    let boxed: Box<dyn Transactor<DB>> = Box::new(keyed);
    assert_eq!(
        seen(&boxed.on_key(("counter", 2)), ("counter", 1)).await,
        0,
        "the key of the transactor was used"
    );
    assert_eq!(seen(&boxed.on_key(("counter", 2)), ("counter", 2)).await, 1);

    // A run that would wait for itself returns an error instead.
    let inside = boxed.run(async |_: &mut Tx<DB>| boxed.run(increment::<DB>).await).await;
    assert_eq!(inside.expect_err("a run inside of a run").kind(), ErrorKind::Aborted);
}
