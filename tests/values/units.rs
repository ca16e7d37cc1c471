//! Values in the statements of units.

use std::time::Duration;

use atomically::{Atomic, Error, Options, TransactorExt as _, Tx};
use sqlx::SqlStr;
use tokio::sync::Barrier;

use crate::support::{TestBackend, TestPool};
use crate::watch::Watch;

async fn accounts<DB: TestBackend>() -> TestPool<DB> {
    let pool = DB::pool(3).await;
    let create = "CREATE TABLE account (id BIGINT PRIMARY KEY, email VARCHAR(90) UNIQUE, balance BIGINT)";
    for sql in
        [create, "INSERT INTO account VALUES (1, 'one', 0)", "INSERT INTO account VALUES (2, 'two', 0)"]
    {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("the table and its rows");
    }
    pool
}

/// Inserts the same row each time: its key is bound, the other values are literals.
fn insert<DB: TestBackend>(watch: &Watch) -> SqlStr {
    DB::sql(&format!("INSERT INTO account VALUES (?, '{}', {})", watch.literal_text, watch.literal))
}

pub(crate) async fn bound_values_and_literals_are_not_shown<DB: TestBackend>() {
    let (pool, watch) = (accounts::<DB>().await, Watch::new());
    let db = watch.on(&pool);
    let opens = async |tx: &mut Tx<DB>| {
        let missing = DB::lock_accounts(tx, &[1, watch.number]).await?;
        assert_eq!(missing, [watch.number]);
        DB::execute(tx, insert::<DB>(&watch), &[watch.number]).await?;
        let rescued: Result<(), Error> = tx
            .savepoint(async |tx: &mut Tx<DB>| {
                DB::execute(tx, insert::<DB>(&watch), &[watch.number]).await?;
                Ok(())
            })
            .await;
        watch.check_error(&rescued.expect_err("it is there"));
        Ok::<_, Error>(())
    };
    db.named("opens").run(opens).await.expect("a commit");

    let twice = async |tx: &mut Tx<DB>| {
        DB::execute(tx, insert::<DB>(&watch), &[watch.number]).await?;
        Ok::<_, Error>(())
    };
    let error = db.run(twice).await.expect_err("a duplicate");
    assert!(error.constraint().is_some(), "{error:?}");
    watch.check_error(&error);
    // The driver's error, which has the values, remains available.
    assert!(error.driver_error().is_some(), "{error:?}");

    let swallows = async |tx: &mut Tx<DB>| {
        let _ = DB::execute(tx, insert::<DB>(&watch), &[watch.number]).await;
        tx.expect_one(0)
    };
    let error = db.with(Options::new().attempts(2)).run(swallows).await.expect_err("a duplicate");
    watch.check_error(&error);

    let lines = watch.check_all();
    let insert = "INSERT INTO account VALUES (";
    assert!(lines.iter().any(|line| line.contains(insert)), "the statement is missing: {lines:?}");
}

/// Errors quote a value of the wrong type, a part of the statement, or the message of a trigger.
pub(crate) async fn values_quoted_by_the_database_are_not_shown<DB: TestBackend>() {
    let (pool, watch) = (accounts::<DB>().await, Watch::new());
    let db = watch.on(&pool);
    let text = &watch.literal_text;
    let raise = match DB::NAME {
        "PostgreSQL" => format!("DO $$BEGIN RAISE EXCEPTION 'not {text}'; END$$"),
        "SQLite" => {
            let trigger = format!(
                "CREATE TRIGGER refuses BEFORE DELETE ON account BEGIN SELECT RAISE(ABORT, 'not {text}'); END"
            );
            DB::pool_execute(&pool, DB::sql(&trigger), &[]).await.expect("a trigger");
            "DELETE FROM account".to_owned()
        }
        _ => format!("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not {text}'"),
    };
    let mut refused = vec![
        raise,
        format!("SELECT '{text}' FROM"),
        format!("SELECT a '{text}' b '{text}' FROM account"),
        format!("UPDATE account SET email = '{text}"),
        // Decoded as a number.
        format!("SELECT '{text}'"),
    ];
    if DB::NAME != "SQLite" {
        refused.push(format!("UPDATE account SET balance = '{text}' WHERE id = 1"));
        refused.push(format!("UPDATE account SET balance = {}000000000000 WHERE id = 1", watch.literal));
    }
    for sql in refused {
        let fails = async |tx: &mut Tx<DB>| Ok::<_, Error>(DB::fetch(tx, DB::sql(&sql), &[]).await?);
        let error = db.run(fails).await.expect_err(&sql);
        watch.check_error(&error);
        let plain = async |tx: &mut Tx<DB>| Ok::<_, Error>(DB::plain(tx, DB::sql(&sql)).await?);
        if let Err(error) = db.run(plain).await {
            watch.check_error(&error);
        }
    }
    watch.check_all();
}

pub(crate) async fn a_lone_statement_shows_no_value<DB: TestBackend>() {
    let (pool, watch) = (accounts::<DB>().await, Watch::new());
    let db = Atomic::default().on(&pool).observed_by(watch.clone());
    DB::apply(&db, insert::<DB>(&watch), &[watch.number]).await.expect("a commit");
    let error = DB::apply(&db, insert::<DB>(&watch), &[watch.number]).await.expect_err("a duplicate");
    watch.check_error(&error);
    let wrong = DB::sql(&format!("UPDATE account SET email = '{}", watch.literal_text));
    let error = DB::apply(&db, wrong, &[]).await.expect_err("the text does not end");
    watch.check_error(&error);
    watch.check_all();
}

pub(crate) async fn an_idle_transaction_shows_no_value<DB: TestBackend>() {
    let (pool, watch) = (accounts::<DB>().await, Watch::new());
    let db = watch.on(&pool).options(Options::new().idle_warning(Duration::from_millis(20)));
    let thinks = async |tx: &mut Tx<DB>| {
        DB::execute(tx, insert::<DB>(&watch), &[watch.number]).await?;
        tokio::time::sleep(Duration::from_millis(60)).await;
        Ok::<_, Error>(())
    };
    db.named("thinks").run(thinks).await.expect("a commit");
    let lines = watch.check_all();
    assert!(lines.iter().any(|line| line.contains("thinks") && line.contains("has been idle")), "{lines:?}");
}

pub(crate) async fn a_deadlock_report_shows_no_value<DB: TestBackend>() {
    let (pool, watch) = (accounts::<DB>().await, Watch::new());
    let db = &watch.on(&pool);
    let (both_locked, watch) = (&Barrier::new(2), &watch);
    let runs = [("crosses", [1, 2]), ("meets", [2, 1])].map(|(name, rows)| async move {
        let crosses = db.named(name);
        let crosses = crosses.run(async move |tx: &mut Tx<DB>| {
            if tx.attempt() == 1 {
                for (i, row) in rows.into_iter().enumerate() {
                    let (text, number) = (&watch.literal_text, watch.literal);
                    let update = format!(
                        "UPDATE account SET email = '{text}{row}', balance = {number} + ? \
                         WHERE id = {row} /* {text} */"
                    );
                    DB::execute(tx, DB::sql(&update), &[watch.number]).await?;
                    if i == 0 {
                        both_locked.wait().await;
                    }
                }
            }
            Ok::<_, Error>(())
        });
        crosses.await.expect("a commit");
    });
    futures_util::future::join_all(runs).await;
    let lines = watch.check_all();
    let reports: Vec<_> =
        lines.iter().filter(|line| line.contains("deadlock") && line.contains("waited for")).collect();
    assert!(!reports.is_empty(), "no deadlock was reported: {lines:?}");
    assert!(
        reports.iter().any(|line| line.contains("UPDATE account SET email = ?, balance = ? +")),
        "{reports:?}"
    );
}

pub(crate) async fn advisory_locks_show_no_key<DB: TestBackend>() {
    let (pool, watch) = (accounts::<DB>().await, Watch::new());
    let db = watch.on(&pool);
    let locks = async |tx: &mut Tx<DB>| {
        tx.advisory_lock((watch.text.as_str(), watch.number)).await?;
        Ok::<_, Error>(())
    };
    db.run(locks).await.expect("a commit");
    watch.check_all();
    watch.check_lines_of_all_targets();
}

/// A server that is down, and one that rejects the password.
pub(crate) async fn a_url_shows_no_password<DB: TestBackend>() {
    let (pool, watch) = (accounts::<DB>().await, Watch::new());
    let (scheme, rest) = pool.url.split_once("://").expect("a URL");
    let (_, place) = rest.split_once('@').unwrap_or(("", rest));
    let password = watch.text.replace('@', "%40");
    let database = place.split_once('/').expect("a database").1;
    for place in [format!("127.0.0.1:1/{database}"), place.to_owned()] {
        let url = format!("{scheme}://user:{password}@{place}");
        let options = sqlx::pool::PoolOptions::<DB>::new().acquire_timeout(Duration::from_millis(300));
        let pool = options.connect_lazy(&url).expect("a pool");
        let db = watch.on(&pool).deadline(Duration::from_millis(300)).attempts(2);
        let run = db.run(async |_: &mut Tx<DB>| Ok::<_, Error>(()));
        watch.check_error(&run.await.expect_err("no connection"));
    }
    watch.check_all();
    watch.check_lines_of_all_targets();
}
