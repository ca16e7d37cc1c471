//! Waiting in line for one key, and what it costs the others.

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

/// Waits for what other tasks of this process do.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it does not come about");
}

/// Every strategy, on one pool and at one gate.
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

async fn look<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<i64, Error> {
    Ok(DB::fetch(tx, DB::sql("SELECT value FROM counter WHERE id = 2"), &[]).await?)
}

/// Forty units wait for one that does not end. They are served in the order in which they came, and hold
/// neither a connection nor a transaction meanwhile: a stranger gets through, on a pool of four.
pub(crate) async fn waiting_holds_nothing_and_keeps_the_order<DB: TestBackend>() {
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
        until(|| gate.at("hot") == i + 1).await;
    }

    // One at work, and the next two with their transactions open: one connection is left, and it is enough.
    for _ in 0..20 {
        db.run(look::<DB>).await.expect("a stranger");
        db.on_key("cold").run(look::<DB>).await.expect("another key");
    }
    assert_eq!(gate.at("hot"), WAITING + 1, "nobody got by");
    assert!(order.lock().expect("the order").is_empty());

    release.notify_one();
    while let Some(task) = tasks.join_next().await {
        task.expect("no unit fails");
    }
    assert_eq!(*order.lock().expect("the order"), (0..=WAITING).collect::<Vec<_>>());
    assert_eq!(value(&pool).await, WAITING as i64 + 1);
    assert_eq!(gate.keys(), 0, "idle keys are forgotten");
}

/// Runs that stop waiting, by themselves or by their deadline, are passed over; a full line says so at once.
pub(crate) async fn the_gate_skips_runs_that_stopped_waiting<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let gate = Gate::new().queue(3);
    let db = patient(Pessimistic::default(), &pool).gate(&gate);
    let (release, begun) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let holder = {
        let (db, release, begun) = (db.clone(), release.clone(), begun.clone());
        tokio::spawn(async move {
            db.on_key("hot")
                .run(async |tx: &mut Tx<DB>| {
                    increment(tx).await?;
                    begun.store(true, SeqCst);
                    release.notified().await;
                    Ok::<_, Error>(())
                })
                .await
        })
    };
    until(|| begun.load(SeqCst)).await;
    let mut waiting = Vec::new();
    for at in 2..=6 {
        let db = db.clone();
        waiting.push(tokio::spawn(async move { db.on_key("hot").run(increment::<DB>).await }));
        until(|| gate.at("hot") == at).await;
    }
    let full = db.on_key("hot").run(increment::<DB>).await.expect_err("the line is full");
    assert_eq!((full.kind(), full.attempts()), (ErrorKind::Overloaded, Some(0)), "{full:?}");
    assert!(full.is_overloaded());
    // SQLite lets nobody else write meanwhile.
    let reader = db.with(Options::new().read_only().on_key("cold"));
    reader.run(look::<DB>).await.expect("another key is not full");

    // One of them is dropped, one meets its deadline.
    let dropped = waiting.remove(3);
    dropped.abort();
    assert!(dropped.await.expect_err("it was dropped").is_cancelled());
    assert_eq!(gate.at("hot"), 5);
    let hasty = db.with(Options::new().deadline(Duration::from_millis(50)).on_key("hot"));
    let late = hasty.run(increment::<DB>).await.expect_err("its turn did not come");
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

/// A run that is dropped at whatever point leaves the gate.
pub(crate) async fn a_dropped_run_leaves_the_gate<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let gate = Gate::new();
    for (name, db) in strategies(&pool, &gate) {
        let (mut dropped, mut rounds) = (0, 0);
        // Where SQLite answers at once, a run may be over after a poll or two.
        while rounds < 40 || dropped == 0 {
            assert!(rounds < 2_000, "{name}: no run was dropped behind the gate");
            rounds += 1;
            if name == "adaptive" {
                // It only takes the gate for a key that has met conflicts, and each commit cools the key.
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
            let outcome = super::cancellation::polled(polls, db.run(unit)).await;
            dropped += u32::from(outcome.is_none() && seen.load(SeqCst) == 1);
            assert_eq!(gate.keys(), 0, "{name}, after {polls} polls");
        }
        db.with(Options::new().on_key("hot")).run(increment::<DB>).await.expect("a free gate");
    }
}

/// Neither who waits for the next attempt nor whose hooks are running is in anybody's way.
pub(crate) async fn pauses_and_hooks_hold_no_place<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let gate = Gate::new();
    let db = patient(Optimistic::default(), &pool).gate(&gate);
    let day = Duration::from_secs(24 * 60 * 60);
    let pausing = Options::new().backoff(Backoff::exponential(day, day)).deadline(day * 20).seed(1);
    let attempted = Arc::new(AtomicBool::new(false));
    let paused = {
        let (db, attempted) = (db.clone(), attempted.clone());
        tokio::spawn(async move {
            let unit = async |tx: &mut Tx<DB>| {
                attempted.store(true, SeqCst);
                tx.expect_one(0)
            };
            db.with(pausing.on_key("hot")).run(unit).await
        })
    };
    until(|| attempted.load(SeqCst) && gate.keys() == 0).await;
    db.on_key("hot").run(increment::<DB>).await.expect("a free gate");
    assert!(!paused.is_finished(), "it was to wait for another attempt");
    paused.abort();

    let seen = Arc::new(AtomicI64::new(-1));
    let unit = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        let (gate, seen) = (gate.clone(), seen.clone());
        tx.on_commit(async move { seen.store(gate.keys() as i64, SeqCst) });
        Ok::<_, Error>(())
    };
    db.on_key("hot").run(unit).await.expect("a commit");
    assert_eq!(seen.load(SeqCst), 0, "hooks run outside");
}

/// What adapts takes the gate and the lock once it has met conflicts, and lets go of them when they are over.
pub(crate) async fn adaptive_locks_hot_keys_and_stops_when_they_cool<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let db = patient(Adaptive::default(), &pool);
    let locks = async |key: &'static str| {
        db.on_key(key)
            .run(async |tx: &mut Tx<DB>| Ok::<_, Error>(tx.plan().row_lock.is_some()))
            .await
            .expect("a plan")
    };
    assert!(!locks("hot").await, "at first it is optimistic");
    for _ in 0..2 {
        let disturbed = AtomicU32::new(0);
        let unit = async |tx: &mut Tx<DB>| {
            // Somebody else is faster, once.
            if disturbed.fetch_add(1, SeqCst) == 0 {
                tx.expect_one(0)?;
            }
            increment(tx).await
        };
        db.on_key("hot").run(unit).await.expect("the second attempt");
    }
    // Of the two conflicts and the two commits, 14 is left: one more conflict, and it is hot.
    let disturbed = AtomicU32::new(0);
    let unit = async |tx: &mut Tx<DB>| {
        if disturbed.fetch_add(1, SeqCst) == 0 {
            tx.expect_one(0)?;
        }
        Ok::<_, Error>(tx.plan().row_lock.is_some())
    };
    assert!(db.on_key("hot").run(unit).await.expect("the second attempt"), "three conflicts make it hot");
    assert!(locks("hot").await);
    assert!(!locks("cold").await, "hot is one key, not all of them");
    for _ in 0..49 {
        locks("hot").await;
    }
    assert!(!locks("hot").await, "it has cooled");
}

/// What strategies learn from: each attempt, whether others were at the gate, and whether it failed.
pub(crate) async fn strategies_record_every_attempt<DB: TestBackend>() {
    #[derive(Debug, Clone, Default)]
    struct Noting(Arc<Mutex<Vec<(u32, bool, bool)>>>);
    impl Strategy for Noting {
        fn plan(&self, attempt: &Attempt) -> Plan {
            assert!(attempt.key.is_some() && !attempt.queued, "{attempt:?}");
            Plan::new(Isolation::ReadCommitted)
        }
        fn record(&self, attempt: &Attempt, failure: Option<&Failure>) {
            let note = (attempt.number, attempt.queued, failure.is_some());
            self.0.lock().expect("the notes").push(note);
        }
    }

    let pool = counter::<DB>(3).await;
    let (gate, noting) = (Gate::new(), Noting::default());
    let db = patient(noting.clone(), &pool).gate(&gate);
    let (release, disturbed) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for holds in [true, false] {
        let (db, release, begun) = (db.clone(), release.clone(), disturbed.clone());
        tasks.spawn(async move {
            let unit = async |tx: &mut Tx<DB>| {
                if holds && tx.attempt() == 2 {
                    begun.store(true, SeqCst);
                    release.notified().await;
                }
                tx.expect_one(if holds && tx.attempt() == 1 { 0 } else { 1 })
            };
            db.on_key("hot").run(unit).await.expect("a commit");
        });
        until(|| disturbed.load(SeqCst) && gate.at("hot") == if holds { 1 } else { 2 }).await;
    }
    release.notify_one();
    while let Some(task) = tasks.join_next().await {
        task.expect("a task");
    }
    assert_eq!(*noting.0.lock().expect("the notes"), [(1, false, true), (2, false, false), (1, true, false)]);
}

/// The budget ends the run that would be tried again, with what it was that went wrong.
pub(crate) async fn a_spent_budget_is_a_typed_error<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let budget = RetryBudget::new().reserve(0).ratio(1.1).window(Duration::from_secs(24 * 60 * 60));
    let db = Optimistic::default().on(&pool).retry_budget(&budget);
    let never = async |tx: &mut Tx<DB>| tx.expect_one(0);
    let error = db.run(never).await.expect_err("nothing was done yet");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::BudgetSpent, Some(1)), "{error:?}");
    assert!(error.is_exhausted() && error.is_conflict(), "{error:?}");
    assert!(error.to_string().starts_with("retry budget spent after 1 attempt"), "{error}");

    // What one transactor gets done, another one may spend.
    let earner = Pessimistic::default().on(&pool).retry_budget(&budget);
    for _ in 0..3 {
        earner.run(increment::<DB>).await.expect("a commit");
    }
    let error = db.run(never).await.expect_err("never");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::BudgetSpent, Some(4)), "{error:?}");
}

/// Through `dyn`, and with the key of a whole transactor.
pub(crate) async fn keys_travel_with_the_options<DB: TestBackend>() {
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
    assert_eq!(seen(&boxed.on_key(("counter", 2)), ("counter", 1)).await, 0, "the nearest key counts");
    assert_eq!(seen(&boxed.on_key(("counter", 2)), ("counter", 2)).await, 1);

    // One who waits for itself is told so, instead of waiting.
    let inside = boxed.run(async |_: &mut Tx<DB>| boxed.run(increment::<DB>).await).await;
    assert_eq!(inside.expect_err("a run inside of a run").kind(), ErrorKind::Aborted);
}
