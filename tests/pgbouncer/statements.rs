//! Statements that the driver keeps prepared, and why a unit must not keep them behind such a pooler.

use std::time::Duration;

use atomically::{Atomic, TransactorExt as _, Tx};
use sqlx::Postgres;

use crate::{Pooled, change};

/// What two clients whose first statements differ make of the counters: one adds 1 ten times, the other one
/// subtracts 100 ten times, and all of it is said to be done.
async fn added_and_subtracted(keep: bool) -> i64 {
    const ADD: &str = "UPDATE counter SET value = value + $1 WHERE id = 1";
    const SUBTRACT: &str = "UPDATE counter SET value = value - $1 WHERE id = 2";
    let pooled = Pooled::start(false).await;
    let adding = Atomic::default().on(&pooled.clients(1).await);
    let subtracting = Atomic::default().on(&pooled.clients(1).await);
    let inner = subtracting.clone();
    // At the same time, so that each has a server connection of its own.
    let both = adding.run(async |tx: &mut Tx<Postgres>| {
        change(tx, ADD, 0, keep).await?;
        inner.run(async |tx: &mut Tx<Postgres>| change(tx, SUBTRACT, 0, keep).await).await
    });
    both.await.expect("two units at a time");
    for _ in 0..10 {
        for (client, sql, by) in [(&adding, ADD, 1), (&subtracting, SUBTRACT, 100)] {
            // The pool still has a word with the server when a unit is done, on whichever connection is free.
            tokio::time::sleep(Duration::from_millis(10)).await;
            let alone = client.run(async |tx: &mut Tx<Postgres>| change(tx, sql, by, keep).await);
            alone.await.expect("a unit by itself");
        }
    }
    pooled.sum().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_are_not_kept_are_the_right_ones() {
    assert_eq!(added_and_subtracted(false).await, 10 - 1000);
}

/// Why that is not optional. The driver numbers the statements that it keeps, connection by connection, and
/// the pooler lets one client run what another one prepared under the same number. Nobody on the client's
/// side can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_are_kept_without_support_may_be_others() {
    let sum = added_and_subtracted(true).await;
    assert_ne!(sum, 10 - 1000, "every statement was the right one");
}
