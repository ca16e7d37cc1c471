//! Statements that are kept until the commit.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{
    ConstraintKind, Error, ErrorKind, Event, FailureKind, Optimistic, Options, Pessimistic,
    TransactorExt as _, Tx, UnitEvent,
};
use tokio::sync::Barrier;

use crate::bank::{BALANCE, Bank, balance, bank, ids, integer, keep, patient, transfer};
use crate::support::ServerBackend;
use crate::support::proxy::{Fault, Proxy};

const SET: &str = "UPDATE account SET balance = ? WHERE id = ?";

pub(crate) async fn kept_statements_run_in_order_after_the_unit<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    for _ in 0..3 {
        db.run(async |tx: &mut Tx<DB>| {
            keep(tx, "UPDATE account SET balance = balance * 2 WHERE id = ?", &[1])?.expect_one();
            keep(tx, "UPDATE account SET balance = balance + 1 WHERE id = ?", &[1])?;
            DB::execute(tx, DB::sql(SET), &[5, 1]).await?;
            let seen = DB::fetch(tx, DB::sql("SELECT balance FROM account WHERE id = ?"), &[1]).await?;
            assert_eq!(seen, 5, "kept statements have not run yet");
            Ok::<_, Error>(())
        })
        .await
        .expect("a commit");
        assert_eq!(balance(&pool, 1).await, 11);
    }
}

pub(crate) async fn a_stale_version_runs_the_whole_unit_again<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let attempts = AtomicU32::new(0);
    Optimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed);
            keep(tx, SET, &[5, 1])?.expect_one();
            let update = "UPDATE account SET balance = 6 WHERE id = ? AND version = ?";
            keep(tx, update, &[2, if attempt == 0 { 99 } else { 0 }])?.expect_one();
            keep(tx, SET, &[7, 3])?;
            Ok::<_, Error>(())
        })
        .await
        .expect("a commit");
    assert_eq!(attempts.load(Ordering::Relaxed), 2);
    assert_eq!((balance(&pool, 1).await, balance(&pool, 2).await, balance(&pool, 3).await), (5, 6, 7));

    let error = Optimistic::default()
        .on(&pool)
        .attempts(1)
        .run(async |tx: &mut Tx<DB>| {
            keep(tx, SET, &[8, 1])?;
            keep(tx, "UPDATE account SET balance = 6 WHERE id = ? AND version = ?", &[2, 99])?.expect_one();
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the version is stale");
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::StaleVersion), "{error}");
    assert_eq!(balance(&pool, 1).await, 5, "nothing is stored");
}

pub(crate) async fn an_update_of_several_rows_fails_the_run<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let attempts = AtomicU32::new(0);
    let error = patient(Pessimistic::default(), &pool)
        .run(async |tx: &mut Tx<DB>| {
            attempts.fetch_add(1, Ordering::Relaxed);
            keep(tx, "UPDATE account SET balance = balance + ?", &[1])?.expect_one();
            Ok::<_, Error>(())
        })
        .await
        .expect_err("six rows");
    assert_eq!((error.kind(), attempts.load(Ordering::Relaxed)), (ErrorKind::Aborted, 1), "{error}");
    assert!(error.to_string().contains("changed 6"), "{error}");
    assert_eq!(integer(&pool, DB::TOTAL).await, 6 * BALANCE);
}

pub(crate) async fn a_comparison_with_null_is_not_retried<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let error = patient(Pessimistic::default(), &pool)
        .run(async |tx: &mut Tx<DB>| {
            let update = DB::sql("UPDATE account SET balance = 1 WHERE version = ?");
            tx.at_commit(DB::query_with_null(update))?.expect_one();
            Ok::<_, Error>(())
        })
        .await
        .expect_err("no version is NULL");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    assert!(error.to_string().contains("version is compared with NULL"), "{error}");
}

pub(crate) async fn a_constraint_violation_names_the_statement_and_stores_nothing<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let attempts = AtomicU32::new(0);
    let error = Pessimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            attempts.fetch_add(1, Ordering::Relaxed);
            keep(tx, SET, &[5, 1])?.expect_one();
            keep(tx, "INSERT INTO account (id, balance) VALUES (?, ?)", &[2, 7])?;
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the account exists");
    assert_eq!((error.kind(), attempts.load(Ordering::Relaxed)), (ErrorKind::Constraint, 1), "{error}");
    assert_eq!(error.constraint().expect("a constraint").kind, ConstraintKind::Unique, "{error}");
    assert!(error.to_string().contains("INSERT INTO account (id, balance) VALUES ("), "{error}");
    assert_eq!(balance(&pool, 1).await, BALANCE);
    transfer::<DB>(&Pessimistic::default().on(&pool), 1, 2).await.expect("the connection is usable");
}

/// Two units lock one row each, and keep a write of the other's row.
pub(crate) async fn a_deadlock_at_the_commit_runs_the_unit_again<DB: Bank>() {
    let pool = bank::<DB>(3).await;
    let db = patient(Optimistic::default(), &pool);
    let both = Arc::new(Barrier::new(2));
    let attempts = Arc::new(AtomicU32::new(0));
    let unit = |own: i64, other: i64| {
        let (db, both, attempts) = (db.clone(), both.clone(), attempts.clone());
        tokio::spawn(async move {
            db.run(async |tx: &mut Tx<DB>| {
                attempts.fetch_add(1, Ordering::Relaxed);
                let add = "UPDATE account SET balance = balance + 1 WHERE id = ?";
                // SQLite has no row locks: the second unit waits for the whole database.
                if DB::NAME != "SQLite" {
                    DB::execute(tx, DB::sql(add), &[own]).await?;
                    if tx.attempt() == 1 {
                        both.wait().await;
                    }
                } else {
                    keep(tx, add, &[own])?.expect_one();
                }
                keep(tx, add, &[other])?.expect_one();
                Ok::<_, Error>(())
            })
            .await
        })
    };
    let (one, other) = (unit(1, 2), unit(2, 1));
    one.await.expect("no panic").expect("a commit");
    other.await.expect("no panic").expect("a commit");
    if DB::NAME != "SQLite" {
        assert!(attempts.load(Ordering::Relaxed) > 2, "no deadlock");
    }
    assert_eq!((balance(&pool, 1).await, balance(&pool, 2).await), (BALANCE + 2, BALANCE + 2));
}

pub(crate) async fn a_savepoint_that_is_rolled_back_drops_its_statements<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    Pessimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            keep(tx, SET, &[1, 1])?.expect_one();
            let undone = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    keep(tx, SET, &[2, 2])?.expect_one();
                    Err::<(), _>(Error::from(sqlx::Error::RowNotFound))
                })
                .await;
            assert!(undone.is_err());
            tx.savepoint(async |tx: &mut Tx<DB>| {
                keep(tx, SET, &[3, 3])?.expect_one();
                Ok::<_, Error>(())
            })
            .await
        })
        .await
        .expect("a commit");
    assert_eq!((balance(&pool, 1).await, balance(&pool, 2).await, balance(&pool, 3).await), (1, BALANCE, 3));
}

pub(crate) async fn a_unit_that_fails_sends_no_kept_statement<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let error = Pessimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            keep(tx, SET, &[1, 1])?.expect_one();
            Err::<(), _>(Error::from(sqlx::Error::RowNotFound))
        })
        .await;
    assert_eq!(error.expect_err("the unit's own error").kind(), ErrorKind::RowNotFound);
    assert_eq!(balance(&pool, 1).await, BALANCE);
}

pub(crate) async fn a_read_only_transaction_keeps_no_statement<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool).options(Options::new().read_only());
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            // Even if the unit ignores the error.
            let _ = keep(tx, SET, &[1, 1]);
            Ok::<_, Error>(())
        })
        .await
        .expect_err("a read-only transaction");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("in a read-only transaction"), "{error}");
}

pub(crate) async fn other_statements_are_refused<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    for (sql, kind) in [
        ("COMMIT", ErrorKind::Aborted),
        ("CREATE TABLE t (a BIGINT)", ErrorKind::Unsupported),
        ("DELETE FROM account; DELETE FROM account", ErrorKind::Unsupported),
        ("UPDATE account SET balance = 1; COMMIT", ErrorKind::Unsupported),
    ] {
        let result = db
            .run(async |tx: &mut Tx<DB>| {
                let _ = keep(tx, sql, &[]);
                Ok::<_, Error>(())
            })
            .await;
        let error = result.expect_err(sql);
        assert!([kind, ErrorKind::Aborted].contains(&error.kind()), "{sql}: {error}");
    }
    assert_eq!(integer(&pool, DB::TOTAL).await, 6 * BALANCE);
}

pub(crate) async fn hooks_run_after_the_kept_statements<DB: Bank>() {
    let pool = bank::<DB>(2).await;
    let seen = Arc::new(Mutex::new(None));
    Pessimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            keep(tx, SET, &[7, 1])?.expect_one();
            let (pool, seen) = (pool.clone(), seen.clone());
            tx.on_commit(async move {
                let stored = balance::<DB>(&pool, 1).await;
                *seen.lock().expect("a lock") = Some(stored);
            });
            Ok::<_, Error>(())
        })
        .await
        .expect("a commit");
    assert_eq!(*seen.lock().expect("a lock"), Some(7));
}

pub(crate) async fn observers_see_the_kept_statements<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let db = Pessimistic::default().on(&pool).observed_by(move |event: &Event<'_>| {
        if let Event::Unit { event: UnitEvent::StatementDone { sql, failure, .. }, .. } = event {
            let word = sql.split(' ').next().unwrap_or_default().to_owned();
            log.lock().expect("a lock").push((word, failure.map(|failure| failure.kind())));
        }
    });
    transfer::<DB>(&db, 1, 2).await.expect("a transfer");
    let done = |word: &str| (word.to_owned(), None);
    assert_eq!(*seen.lock().expect("a lock"), [done("SELECT"), done("UPDATE"), done("UPDATE")]);
    seen.lock().expect("a lock").clear();
    let unit = async |tx: &mut Tx<DB>| {
        keep(tx, SET, &[7, 1])?.expect_one();
        keep(tx, "INSERT INTO account (id, balance) VALUES (?, ?)", &[2, 7])?;
        keep(tx, SET, &[8, 2])?.expect_one();
        Ok::<_, Error>(())
    };
    db.run(unit).await.expect_err("the account exists");
    let failed = (String::from("INSERT"), Some(FailureKind::Constraint));
    assert_eq!(*seen.lock().expect("a lock"), [done("UPDATE"), failed]);
}

pub(crate) async fn a_statement_with_a_comment_at_its_end_is_sent<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let unit = async |tx: &mut Tx<DB>| {
        keep(tx, "UPDATE account SET balance = ? WHERE id = ? -- the first; of two", &[5, 1])?.expect_one();
        keep(tx, "UPDATE account SET balance = ? WHERE id = ? ; /* the last */ ;", &[6, 2])?;
        Ok::<_, Error>(())
    };
    Pessimistic::default().on(&pool).run(unit).await.expect("a commit");
    assert_eq!((balance(&pool, 1).await, balance(&pool, 2).await), (5, 6));
}

pub(crate) async fn a_statement_whose_end_is_uncertain_is_sent_on_its_own<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let unit = async |tx: &mut Tx<DB>| {
        let uncertain = "UPDATE account SET balance = ? WHERE id = ? AND '\\a' <> 'b'";
        keep(tx, uncertain, &[5, 1])?.expect_one();
        if DB::NAME != "MySQL" {
            let with = "WITH one AS (SELECT 1 AS id) UPDATE account SET balance = ? \
                        WHERE id IN (SELECT id FROM one) AND version <> ?";
            keep(tx, with, &[6, 7])?.expect_one();
        }
        Ok::<_, Error>(())
    };
    Pessimistic::default().on(&pool).run(unit).await.expect("a commit");
    assert_eq!(balance(&pool, 1).await, if DB::NAME == "MySQL" { 5 } else { 6 });
}

pub(crate) async fn a_lock_timeout_at_the_commit_is_reported_as_one<DB: Bank + ServerBackend>() {
    let pool = bank::<DB>(3).await;
    let db = Pessimistic::default().on(&pool).attempts(1);
    let (held, release) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let holder = tokio::spawn({
        let (db, held, release) = (db.clone(), held.clone(), release.clone());
        async move {
            db.run(async |tx: &mut Tx<DB>| {
                DB::lock_accounts(tx, &[1]).await?;
                held.wait().await;
                release.wait().await;
                Ok::<_, Error>(())
            })
            .await
        }
    });
    held.wait().await;
    let unit = async |tx: &mut Tx<DB>| {
        keep(tx, SET, &[8, 2])?.expect_one();
        keep(tx, SET, &[7, 1])?.expect_one();
        Ok::<_, Error>(())
    };
    let limited = db.with(Options::new().lock_timeout(Duration::from_millis(100)));
    let error = limited.run(unit).await.expect_err("the row is locked");
    assert!(error.is_lock_timeout(), "{error}");
    release.wait().await;
    holder.await.expect("no panic").expect("a commit");
    assert_eq!(balance(&pool, 2).await, BALANCE, "nothing is stored");
    db.run(unit).await.expect("no lock and no statement is left");
}

pub(crate) async fn a_lost_response_to_the_commit_is_unknown<DB: Bank + ServerBackend>() {
    let direct = bank::<DB>(2).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = DB::another(&proxy.url(&direct.url)).await;
    let db = Pessimistic::default().on(&pool);
    transfer::<DB>(&db, 1, 2).await.expect("a transfer");
    proxy.on(DB::COMMIT, Fault::CutAfter);
    let attempts = AtomicU32::new(0);
    let error = db
        .on_rows("account", "id", ids::<DB, 1>([1]))
        .run(async |tx: &mut Tx<DB>| {
            attempts.fetch_add(1, Ordering::Relaxed);
            keep(tx, SET, &[7, 1])?.expect_one();
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the response is lost");
    assert_eq!((error.kind(), attempts.load(Ordering::Relaxed)), (ErrorKind::CommitUnknown, 1), "{error}");
    assert_eq!(proxy.hits(), 1);
    // MariaDB sends its first results before it executes COMMIT, and may notice the cut in between.
    let stored = balance(&direct, 1).await;
    assert!(stored == 7 || (DB::NAME == "MySQL" && stored == 999), "{stored}");
}
