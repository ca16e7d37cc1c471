//! Explorations that cannot start, schedules that do not end, and explorations that are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::testing::{Counterexample, ExploreError, Problem, explore};
use atomically::{Error, Optimistic, Pessimistic, Tx};
use tokio::sync::Barrier;

use super::database;
use super::lost_updates::{PRODUCT, sales, sell_one};
use crate::support::{TestBackend, eventually};

async fn nothing<DB: TestBackend>(_: &mut Tx<DB>) -> Result<(), Error> {
    Ok(())
}

pub(crate) async fn an_exploration_that_cannot_start_returns_a_typed_error<DB: TestBackend>() {
    let pool = DB::pool(1).await;
    let db = Pessimistic::default().on(&pool);
    let error = explore(&pool).run().await.expect_err("no clients");
    assert!(matches!(error, ExploreError::ClientCount(0)), "{error}");
    let two = || explore(&pool).unit("alice", &db, nothing).unit("bob", &db, nothing);
    let error = two().run().await.expect_err("one connection");
    assert!(matches!(error, ExploreError::TooFewConnections { has: 1, .. }), "{error}");

    let pool = DB::pool(3).await;
    let db = Pessimistic::default().on(&pool);
    let two = || explore(&pool).unit("alice", &db, nothing).unit("bob", &db, nothing);
    let error = two().set_up(|_| async { Err::<(), _>("no tables") }).run().await.expect_err("no set-up");
    assert!(matches!(&error, ExploreError::SetUp(reason) if reason == "no tables"), "{error}");
    let error = two().replay("a1 b").await.expect_err("no schedule");
    assert!(matches!(error, ExploreError::Schedule(_)), "{error}");
    let report = two().replay("a9").await.expect("a schedule");
    let problems = report.first().expect("there are two steps").problems();
    assert_eq!(problems, [Problem::Infeasible { step: 3, client: 0 }]);
}

/// A transaction that an earlier schedule left behind may have been in its way.
pub(crate) async fn a_set_up_that_fails_is_repeated<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let db = Pessimistic::default().on(&pool);
    let calls = AtomicU32::new(0);
    let set_up = |_| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move { if call % 3 < 2 { Err("deadlock") } else { Ok(()) } }
    };
    let report = explore(&pool).set_up(set_up).unit("alice", &db, nothing).run().await.expect("explored");
    assert_eq!((report.schedules, calls.load(Ordering::Relaxed) % 3), (1, 0));
}

pub(crate) async fn a_unit_that_waits_for_another_one_at_a_barrier_is_stuck<DB: TestBackend>() {
    let pool = DB::pool(3).await;
    let db = Pessimistic::default().on(&pool);
    let barrier = Arc::new(Barrier::new(2));
    let unit = async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("SELECT 1"), &[]).await?;
        barrier.wait().await;
        Ok::<_, Error>(())
    };
    let limit = Duration::from_millis(300);
    let exploration =
        explore(&pool).unit("alice", &db, unit).unit("bob", &db, unit).patience(limit).max_schedules(1);
    let report = exploration.run().await.expect("explored");
    assert_eq!(
        report.first().map(Counterexample::problems),
        Some(&[Problem::Stuck { limit }][..]),
        "{report}"
    );
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

pub(crate) async fn a_unit_that_is_always_retried_is_endless<DB: TestBackend>() {
    let pool = DB::pool(3).await;
    let db = Optimistic::default().on(&pool).attempts(u32::MAX);
    let stale = async |tx: &mut Tx<DB>| tx.expect_one(0);
    let exploration = explore(&pool).unit("alice", &db, stale).unit("bob", &db, nothing).max_steps(50);
    let report = exploration.run().await.expect("explored");
    assert_eq!(
        report.first().map(Counterexample::problems),
        Some(&[Problem::Endless { steps: 50 }][..]),
        "{report}"
    );

    let db = db.attempts(3);
    let exploration = explore(&pool).unit("alice", &db, stale).unit("bob", &db, nothing);
    let report = exploration.run().await.expect("explored");
    let Some([Problem::Failed { client, error }]) = report.first().map(Counterexample::problems) else {
        panic!("{report}")
    };
    assert_eq!(client, "alice");
    assert!(error.contains("3 attempts"), "{error}");
}

pub(crate) async fn dropping_an_exploration_leaves_no_open_transaction<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = Pessimistic::default().on(&pool);
    for steps in [1, 20, 100] {
        let mut exploration =
            Box::pin(sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one).run());
        for _ in 0..steps {
            if tokio::time::timeout(Duration::from_micros(200), &mut exploration).await.is_ok() {
                break;
            }
        }
        drop(exploration);
        eventually(0, async || DB::open_transactions(&pool).await).await;
    }
}
