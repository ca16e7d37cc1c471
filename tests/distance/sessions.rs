//! PostgreSQL: statements that a session keeps prepared.

use atomically::{Error, ErrorKind, Optimistic, Pessimistic, TransactorExt as _, Tx};
use sqlx::{Executor as _, Postgres};

use crate::bank::{balance, bank, integer, keep, transfer};
use crate::support::eventually;

const PREPARED: &str = "SELECT COUNT(*) FROM pg_prepared_statements WHERE name LIKE 'atomically%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_prepares_each_statement_once() {
    let pool = bank::<Postgres>(1).await;
    let db = Pessimistic::default().on(&pool).reuse_connections();
    // The lock is kept once two transfers use the connection directly one after another.
    eventually(2, async || {
        for _ in 0..5 {
            transfer::<Postgres>(&db, 1, 2).await.expect("a transfer");
        }
        integer(&pool, PREPARED).await
    })
    .await;
    for _ in 0..5 {
        transfer::<Postgres>(&db, 1, 2).await.expect("a transfer");
    }
    assert_eq!(integer(&pool, PREPARED).await, 2, "the lock, and the update");
}

/// The statements that were removed are noticed by a failed transaction at most, which runs again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_loses_its_statements_prepares_them_again() {
    let pool = bank::<Postgres>(1).await;
    let db = Pessimistic::default().on(&pool).reuse_connections();
    for round in 0..6 {
        transfer::<Postgres>(&db, 1, 2).await.expect("a transfer");
        if round % 2 == 0 {
            pool.execute("DEALLOCATE ALL").await.expect("no statement is left");
        }
    }
    assert_eq!(balance(&pool, 2).await, 1006);
}

/// As behind a pooler that moves a client to a session with other statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_changes_under_its_connection_costs_one_attempt() {
    let pool = bank::<Postgres>(1).await;
    let forget = "CREATE FUNCTION forget() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                  EXECUTE 'DEALLOCATE ALL'; END $$";
    pool.execute(forget).await.expect("a function");
    let db = Pessimistic::default().on(&pool).reuse_connections();
    let (mut attempts, update) = (Vec::new(), "UPDATE account SET balance = 3 WHERE id = ?");
    for round in 0..5 {
        let attempt = db.run(async |tx: &mut Tx<Postgres>| {
            if tx.attempt() == 1 && [2, 4].contains(&round) {
                // Not prepared by the driver, which would not notice either.
                let select = sqlx::query("SELECT forget()").persistent(false);
                select.execute(&mut *tx).await?;
            }
            keep(tx, update, &[1])?.expect_one();
            Ok::<_, Error>(tx.attempt())
        });
        attempts.push(attempt.await.expect("a commit"));
        transfer::<Postgres>(&db, 1, 2).await.expect("a transfer");
    }
    assert_eq!(attempts, [1, 1, 2, 1, 1], "the second time, no statement is kept any more");
    assert_eq!((balance(&pool, 1).await, balance(&pool, 2).await), (2, 1005));
}

/// A statement that the transaction has seen is taken into account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_the_unit_removes_are_prepared_anew() {
    let pool = bank::<Postgres>(1).await;
    let db = Pessimistic::default().on(&pool).reuse_connections();
    for _ in 0..3 {
        let attempt = db.run(async |tx: &mut Tx<Postgres>| {
            keep(tx, "UPDATE account SET balance = 3 WHERE id = ?", &[1])?.expect_one();
            sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *tx).await?;
            Ok::<_, Error>(tx.attempt())
        });
        assert_eq!(attempt.await.expect("a commit"), 1);
    }
}

/// A statement that is prepared for one transaction is removed, whatever becomes of the transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_are_not_kept_leave_nothing_on_the_session() {
    let pool = bank::<Postgres>(1).await;
    for db in [Optimistic::default().on(&pool), Optimistic::default().on(&pool).reuse_connections()] {
        let db = db.attempts(1);
        let once = |tx: &mut Tx<Postgres>, version: i64| {
            let update = "UPDATE account SET balance = 3 WHERE id = 1 AND version = $1";
            tx.at_commit(sqlx::query(update).bind(version).persistent(false)).map(|kept| kept.expect_one())
        };
        db.run(async |tx| once(tx, 0)).await.expect("a commit");
        let error = db.run(async |tx| once(tx, 1)).await.expect_err("a stale version");
        assert!(error.is_conflict(), "{error}");
        db.run(async |tx| once(tx, 0)).await.expect("a commit");
    }
    assert_eq!(integer(&pool, PREPARED).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_a_limited_number_of_statements() {
    let pool = bank::<Postgres>(1).await;
    let db = Pessimistic::default().on(&pool).reuse_connections();
    for n in 0..110 {
        let sql = format!("UPDATE account SET balance = {n} WHERE id = ?");
        db.run(async |tx| keep(tx, &sql, &[1]).map(|kept| kept.expect_one())).await.expect("a commit");
    }
    let kept = integer(&pool, PREPARED).await;
    assert!((50..=100).contains(&kept), "{kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_other_types_are_refused_at_the_call() {
    let pool = bank::<Postgres>(1).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx| -> Result<_, Error> {
            let query = sqlx::query("UPDATE account SET balance = 1 WHERE id = $1").bind(1_i8);
            tx.at_commit(query).expect_err("no literal");
            Ok(())
        })
        .await
        .expect_err("the transaction has ended");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = db
        .run(async |tx| -> Result<_, Error> {
            tx.at_commit(sqlx::query("DELETE FROM account WHERE 'a' = $1").bind("a\0")).map(drop)
        })
        .await
        .expect_err("NUL");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}
