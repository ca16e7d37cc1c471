//! Statements that the driver caches, and why a unit must not cache them behind such a pooler.

use std::time::Duration;

use atomically::{Atomic, TransactorExt as _, Tx};
use sqlx::Postgres;

use crate::{Pooled, change};

/// Returns the sum of the counters after two clients whose first statements differ have committed their
/// units: one adds 1 ten times, the other one subtracts 100 ten times.
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
            // After a unit, the pool still sends a statement to the server, on whichever connection is free.
            tokio::time::sleep(Duration::from_millis(10)).await;
            let alone = client.run(async |tx: &mut Tx<Postgres>| change(tx, sql, by, keep).await);
            alone.await.expect("a unit by itself");
        }
    }
    pooled.sum().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unprepared_statements_are_not_mixed_up() {
    assert_eq!(added_and_subtracted(false).await, 10 - 1000);
}

/// Shows why `persistent(false)` is required. The driver numbers its prepared statements for each
/// connection, and the pooler lets one client execute the statement that another client prepared under
/// the same number. Neither client can detect this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_statements_are_mixed_up_without_support() {
    let sum = added_and_subtracted(true).await;
    assert_ne!(sum, 10 - 1000, "no statement was mixed up");
}
