//! Settings of the pool that its owner relies on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use atomically::{Atomic, Error, ErrorKind, Gate, Optimistic, Pessimistic, TransactorExt as _, Tx};
use sqlx::pool::PoolOptions;
use tokio::task::JoinSet;

use super::increments::{counter, increment, patient, value};
use crate::support::TestBackend;

/// Rotating credentials sets new connect options on the same pool.
pub(crate) async fn refuses_a_nested_run_after_new_connect_options<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |_: &mut Tx<DB>| {
            pool.set_connect_options((*pool.connect_options()).clone());
            db.run(increment::<DB>).await
        })
        .await
        .expect_err("a run inside of a run");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert!(error.to_string().contains("inside of another one"), "{error}");
}

/// The callback may set the tenant of a run, for example. If the connection bypassed the pool, a run would
/// have the tenant of the previous run.
pub(crate) async fn calls_before_acquire_for_every_run<DB: TestBackend>() {
    let server = counter::<DB>(1).await;
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let options = PoolOptions::<DB>::new().max_connections(1).before_acquire(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(true) })
    });
    let pool = options.connect(&server.url).await.expect("a pool");
    drop(pool.acquire().await.expect("a connection"));
    let units = Pessimistic::default().on(&pool);
    let before = calls.load(Ordering::Relaxed);
    for runs in 1..=4 {
        let seen = units.run(async |tx: &mut Tx<DB>| {
            increment(tx).await?;
            Ok::<_, Error>(calls.load(Ordering::Relaxed))
        });
        assert_eq!(seen.await.expect("a commit"), before + runs);
    }
    let single = Atomic::default().on(&pool);
    let before = calls.load(Ordering::Relaxed);
    for runs in 1..=4 {
        let update = sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 0 WHERE id = 1"));
        assert_eq!(single.apply(update).await.expect("a commit"), 1);
        assert_eq!(calls.load(Ordering::Relaxed), before + runs);
    }
}

/// A run that waits at the gate with an open transaction must not hold the connection that the active run
/// needs.
pub(crate) async fn a_gate_does_not_stall_a_small_pool<DB: TestBackend>() {
    const TASKS: i64 = 48;
    const ROUNDS: i64 = 10;
    for connections in [1, 2] {
        let pool = counter::<DB>(connections).await;
        let (mut tasks, gate) = (JoinSet::new(), Gate::new());
        let db = patient(Optimistic::default(), &pool).gate(&gate).reuse_connections();
        let started = Instant::now();
        for _ in 0..TASKS {
            let db = db.clone();
            tasks.spawn(async move {
                for _ in 0..ROUNDS {
                    db.on_key("hot").run(increment::<DB>).await.expect("a commit");
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("no panic");
        }
        assert_eq!(value(&pool).await, TASKS * ROUNDS);
        // A stalled run would last until its deadline, which is 240 s away.
        assert!(started.elapsed() < Duration::from_secs(120), "{connections}: {:?}", started.elapsed());
    }
}
