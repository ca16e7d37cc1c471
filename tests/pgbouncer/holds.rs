//! Holds, whose callers have another server connection for each transaction.

use std::time::Duration;

use atomically::holds::{Confirmation, HoldOutcome, Holds};
use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _};
use sqlx::postgres::PgPool;
use tokio::task::JoinSet;

use crate::support::servers::Server;
use crate::{Pooled, TASKS, change, no_setting_is_left_behind};

const AMOUNT: i64 = 40;

/// Everything that was put into the rows, in one snapshot. Row 2 counts what was bought.
const TOTAL: &str = "SELECT CAST((SELECT sum(value) FROM counter) \
     + (SELECT coalesce(sum(amount), 0) FROM atomically_hold WHERE confirmed_at IS NULL) AS BIGINT)";

async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.expect(sql)
}

/// Buys, releases or forgets what it holds. Returns how much it has bought.
async fn trade(pool: PgPool, holds: Holds<sqlx::Postgres, i64>, task: u32, keep: bool) -> i64 {
    let (db, mut bought) = (Pessimistic::default().on(&pool), 0);
    for round in 0..10 {
        let ttl = Duration::from_millis(if round % 3 == 0 { 5 } else { 60_000 });
        let outcome = holds.hold(1, 1, ttl).await.expect("an answer");
        let HoldOutcome::Held(hold) = outcome else { continue };
        if (task + round).is_multiple_of(5) {
            let confirmed = db.run(async |tx| {
                let confirmation = hold.confirm_in(tx).await?;
                change(tx, "UPDATE counter SET value = value + $1 WHERE id = 2", 1, keep).await?;
                Ok::<_, Error>(confirmation)
            });
            match confirmed.await {
                Ok(confirmation) => {
                    assert_eq!(confirmation, Confirmation::Confirmed);
                    bought += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::StaleClaim, "{error}"),
            }
        } else if round % 3 != 0 {
            assert!(hold.release().await.expect("an answer"));
        }
    }
    bought
}

async fn amounts_are_accounted_for(prepared_statements: bool) {
    let pooled = Pooled::start(prepared_statements).await;
    let (pool, direct) = (pooled.clients(TASKS).await, pooled.direct().await);
    sqlx::query("UPDATE counter SET value = $1 WHERE id = 1")
        .bind(AMOUNT)
        .execute(&direct)
        .await
        .expect("a row");
    let holds = Holds::on(&pool, "counter", "id", "value").persistent(prepared_statements);
    holds.create_tables().await.expect("the table of holds");
    let sweeper = holds.sweep_every(Duration::from_millis(20));
    let mut callers = JoinSet::new();
    for task in 0..TASKS {
        callers.spawn(trade(pool.clone(), holds.clone(), task, prepared_statements));
    }
    let mut bought = 0;
    while let Some(caller) = callers.join_next().await {
        bought += caller.expect("no panic");
        assert_eq!(number(&direct, TOTAL).await, AMOUNT);
    }
    sweeper.shutdown().await;
    sqlx::query("UPDATE atomically_hold SET expires_at = 1 WHERE confirmed_at IS NULL")
        .execute(&direct)
        .await
        .expect("they expire");
    holds.sweep().await.expect("swept");
    assert_eq!(number(&direct, "SELECT value FROM counter WHERE id = 1").await, AMOUNT - bought);
    assert_eq!(number(&direct, TOTAL).await, AMOUNT);
    assert!(bought > 0);
    no_setting_is_left_behind(&pooled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_work() {
    amounts_are_accounted_for(false).await;
    if Server::pgbouncer_prepares() {
        amounts_are_accounted_for(true).await;
    }
}
