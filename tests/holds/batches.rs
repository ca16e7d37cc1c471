//! Calls that share a commit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atomically::holds::{HoldKey, HoldOutcome};
use atomically::{ErrorKind, Event, UnitEvent};
use futures_util::FutureExt as _;
use futures_util::future::{join_all, poll_immediate};

use crate::support::{TestBackend, eventually};
use crate::{LONG, events, expire, fetch, seats};

const CALLERS: i64 = 60;

pub(crate) async fn callers_share_commits<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(4, CALLERS).await;
    for single_statement in [true, false] {
        let runs = Arc::new(AtomicUsize::new(0));
        let counter = runs.clone();
        let holds = holds.clone().single_statement(single_statement).observed_by(move |event: &Event<'_>| {
            if matches!(event, Event::Unit { event: UnitEvent::Ended { .. }, .. }) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        let outcomes = join_all((0..CALLERS).map(|_| holds.hold(1, 1, LONG))).await;
        let ids: BTreeSet<_> = outcomes
            .into_iter()
            .map(|outcome| match outcome.expect("an answer") {
                HoldOutcome::Held(hold) => (hold.id(), hold.token()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((ids.len() as i64, seats(&pool, 1).await), (CALLERS, 0));
        assert_eq!(fetch(&pool, "SELECT COUNT(*) FROM atomically_hold").await, CALLERS);
        let runs = runs.load(Ordering::Relaxed);
        assert!(runs <= 6, "{CALLERS} calls took {runs} transactions");
        expire(&pool).await;
        assert_eq!(holds.sweep().await.expect("swept") as i64, CALLERS);
        assert_eq!(seats(&pool, 1).await, CALLERS);
    }
}

pub(crate) async fn calls_of_a_batch_are_decided_in_their_order<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(4, 5).await;
    let calls = [(1, 3), (1, 3), (1, 2), (3, 1), (2, 5), (2, 1)];
    let outcomes = join_all(calls.map(|(key, amount)| holds.hold(key, amount, LONG))).await;
    let shown: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| match outcome.expect("an answer") {
            HoldOutcome::Held(_) => "held".to_owned(),
            HoldOutcome::Refused { available } => format!("refused, {available} available"),
            HoldOutcome::NotFound => "not found".to_owned(),
        })
        .collect();
    assert_eq!(shown, ["held", "refused, 2 available", "held", "not found", "held", "refused, 0 available"]);
    assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (0, 0));
}

pub(crate) async fn calls_for_one_and_for_several_rows_share_a_batch<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(4, 10).await;
    let single = (0..4).map(|_| holds.hold(1, 1, LONG).boxed());
    let several = (0..4).map(|_| holds.hold_all([(2, 2), (1, 1)], LONG).boxed());
    for outcome in join_all(single.chain(several)).await {
        assert!(matches!(outcome, Ok(HoldOutcome::Held(_))), "{outcome:?}");
    }
    assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (2, 2));
    expire(&pool).await;
    assert_eq!(holds.sweep().await.expect("swept"), 8);
    assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (10, 10));
}

pub(crate) async fn a_call_that_the_database_refuses_fails_alone<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(4, 5).await;
    for sql in [
        "CREATE TABLE checked (id BIGINT PRIMARY KEY, seats BIGINT, CHECK (seats > 2 OR id = 2))",
        "INSERT INTO checked VALUES (1, 5), (2, 5)",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect(sql);
    }
    drop(holds);
    let holds = atomically::holds::Holds::<DB, i64>::on(&pool, "checked", "id", "seats");
    let outcomes =
        join_all([(1, 2), (2, 4), (1, 1)].map(|(key, amount)| holds.hold(key, amount, LONG))).await;
    let [first, second, third] = <[_; 3]>::try_from(outcomes).expect("three");
    assert!(matches!(first, Ok(HoldOutcome::Held(_))), "{first:?}");
    assert!(matches!(second, Ok(HoldOutcome::Held(_))), "{second:?}");
    let error = third.expect_err("the check refuses it");
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
    assert_eq!(fetch(&pool, "SELECT COUNT(*) FROM atomically_hold").await, 2);
}

pub(crate) async fn a_dropped_caller_leaves_nothing_behind_after_the_expiry<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(4, 5).await;
    for _ in 0..20 {
        // Whether the amount is taken depends on when the caller is dropped.
        let mut dropped = Box::pin(holds.hold(1, 1, Duration::from_millis(1)));
        for _ in 0..rand::random_range(1..5) {
            if let Some(outcome) = poll_immediate(&mut dropped).await {
                drop(outcome.expect("an answer"));
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // The server may still execute the statement of the last one.
    eventually(true, async || {
        holds.sweep().await.expect("swept");
        let all = holds.hold(1, 5, LONG).await.expect("an answer");
        matches!(all, HoldOutcome::Held(_))
    })
    .await;
    assert_eq!(seats(&pool, 1).await, 0);
}
