//! Many units on one key: units behind the gate do not conflict, and each unit ends by its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use atomically::{ErrorKind, Gate, Options, Pessimistic, Resolve, TransactorExt as _, Tx};
use tokio::task::JoinSet;

use super::strategies;
use crate::conformance::increments::{counter, increment, value};
use crate::support::TestBackend;

/// Units with the same key run one at a time, so no unit is retried under any strategy, even if the opening
/// of its transaction reads and writes.
pub(crate) async fn gated_units_never_conflict<DB: TestBackend>() {
    const TASKS: i64 = 32;
    const ROUNDS: i64 = 10;
    let pool = counter::<DB>(8).await;
    Pessimistic::default().on(&pool).create_operation_table().await.expect("the table of operations");
    let resolving = Options::new().resolve_commits(Resolve::Operation);
    for options in [Options::new(), resolving] {
        for (name, db) in strategies(&pool, &Gate::new()) {
            // `Adaptive` starts without the gate.
            if name == "adaptive" {
                continue;
            }
            let before = value(&pool).await;
            let attempts = Arc::new(AtomicI64::new(0));
            let mut tasks = JoinSet::new();
            for _ in 0..TASKS {
                let (db, attempts, options) = (db.clone(), attempts.clone(), options.clone());
                tasks.spawn(async move {
                    for _ in 0..ROUNDS {
                        let unit = async |tx: &mut Tx<DB>| {
                            attempts.fetch_add(1, SeqCst);
                            increment(tx).await
                        };
                        db.with(options.clone().on_key("hot")).run(unit).await.expect("a commit");
                    }
                });
            }
            while let Some(task) = tasks.join_next().await {
                task.expect("a task");
            }
            assert_eq!(value(&pool).await - before, TASKS * ROUNDS, "{name}");
            assert_eq!(attempts.load(SeqCst), TASKS * ROUNDS, "{name}, {options:?}: a unit was retried");
        }
    }
}

/// Two hundred units change one row at the same time: under each strategy every unit ends by its deadline,
/// and the row counts the commits. Behind the gate every unit commits; without it, units may exceed their
/// deadlines.
pub(crate) async fn every_unit_ends_by_its_deadline_under_load<DB: TestBackend>() {
    const TASKS: i64 = 200;
    const DEADLINE: Duration = Duration::from_secs(60);
    // Allows for the rollback, and for scheduling on a busy machine.
    const GRACE: Duration = Duration::from_secs(5);
    let pool = counter::<DB>(16).await;
    for gated in [true, false] {
        for (name, db) in strategies(&pool, &Gate::new()) {
            let before = value(&pool).await;
            let options = Options::new().deadline(DEADLINE);
            let options = if gated { options.on_key("hot") } else { options };
            let mut tasks = JoinSet::new();
            for _ in 0..TASKS {
                let (db, options) = (db.clone(), options.clone());
                tasks.spawn(async move {
                    let started = Instant::now();
                    let outcome = db.with(options).run(increment::<DB>).await;
                    (started.elapsed(), outcome)
                });
            }
            let (mut committed, mut slowest) = (0, Duration::ZERO);
            while let Some(task) = tasks.join_next().await {
                let (took, outcome) = task.expect("a task");
                slowest = slowest.max(took);
                match outcome {
                    Ok(()) => committed += 1,
                    Err(error) => {
                        assert!(!gated, "{name}, gated: {error:?}");
                        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{name}: {error:?}");
                    }
                }
            }
            assert!(
                slowest <= DEADLINE + GRACE,
                "{name}, gated {gated}: a unit took {slowest:.1?}, with a deadline of {DEADLINE:?}"
            );
            assert!(committed > 0, "{name}, gated {gated}: no unit committed");
            assert_eq!(value(&pool).await - before, committed, "{name}, gated {gated}");
            println!(
                "{}, {name}, gated {gated}: {committed} of {TASKS}, the slowest took {slowest:.1?}",
                DB::NAME
            );
        }
    }
}
