//! What counts as equal, and what cannot be compared.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};

use atomically::testing::{Explore, ExploreError, explore};
use atomically::{Error, Optimistic, Options, Pessimistic, TransactorExt as _, Tx};
use sqlx::Pool;

use crate::program::Line::{Add, Read, ReadForUpdate, WriteChecked};
use crate::program::{ACCOUNT, ENTRY, reset, run};
use crate::support::{TestBackend, TestPool};
use crate::{all, assert_not_serializable, assert_serializable, database, explored};

const SEAT: &str = "CREATE TABLE seat (id BIGINT PRIMARY KEY, guest BIGINT)";

fn empty<'a, DB: TestBackend>(pool: &Pool<DB>, table: &'static str) -> Explore<'a, DB> {
    let delete: &str = match table {
        "seat" => "DELETE FROM seat",
        "ticket" => "DELETE FROM ticket",
        _ => "DELETE FROM log",
    };
    explore(pool).set_up(move |pool| async move { all(pool, &[delete]).await })
}

async fn insert<DB: TestBackend>(tx: &mut Tx<DB>, guest: i64) -> Result<i64, Error> {
    let insert = DB::sql("INSERT INTO seat VALUES (1, ?)");
    DB::execute(tx, insert, &[guest]).await?;
    Ok(guest)
}

/// The second one always fails: with a unique violation, or with a stale version and one attempt.
pub(crate) async fn units_with_errors_of_the_crate_count_as_not_run<DB: TestBackend>() {
    let pool = database::<DB>(&[SEAT, ACCOUNT, ENTRY]).await;
    let db = Pessimistic::default().on(&pool);
    let exploration = empty(&pool, "seat")
        .unit("alice", &db, async |tx: &mut Tx<DB>| insert(tx, 1).await)
        .unit("bob", &db, async |tx: &mut Tx<DB>| insert(tx, 2).await);
    assert_serializable(exploration).await;

    let db = Optimistic::default().on(&pool).options(Options::new().attempts(1));
    let unit = async |tx: &mut Tx<DB>| run(tx, &[Read(1), WriteChecked(1, -5)]).await;
    let exploration = explore(&pool).set_up(reset).unit("alice", &db, unit).unit("bob", &db, unit);
    assert_serializable(exploration).await;
}

#[derive(Debug)]
enum Booking {
    Taken,
    Failed(Error),
}

impl From<Error> for Booking {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for Booking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("taken"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Looks in one transaction and books in another, so both may book.
pub(crate) async fn errors_of_the_units_are_compared<DB: TestBackend>() {
    let pool = database::<DB>(&["CREATE TABLE seat (id BIGINT NOT NULL, guest BIGINT)"]).await;
    let db = Pessimistic::default().on(&pool);
    let count = async |tx: &mut Tx<DB>| {
        let count = DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM seat WHERE id = 1"), &[]).await;
        let count = count.map_err(Error::from)?;
        if count > 0 { Err(Booking::Taken) } else { Ok(()) }
    };
    let text = assert_not_serializable(|| {
        let mut exploration = empty(&pool, "seat");
        for name in ["alice", "bob"] {
            exploration = exploration.client(name, &db, move |db| async move {
                db.run(count).await?;
                db.run(async |tx: &mut Tx<DB>| insert(tx, 1).await.map_err(Booking::from)).await
            });
        }
        exploration
    })
    .await;
    assert!(text.contains("error: taken"), "{text}");
}

/// Additions commute, but what each returns does not.
pub(crate) async fn returned_values_are_compared<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let db = Pessimistic::default().on(&pool);
    let right = async |tx: &mut Tx<DB>| run(tx, &[ReadForUpdate(1), Add(1, 5)]).await;
    let exploration = explore(&pool).set_up(reset).unit("alice", &db, right).unit("bob", &db, right);
    assert_serializable(exploration).await;
    let text = assert_not_serializable(|| {
        let mut exploration = explore(&pool).set_up(reset);
        for name in ["alice", "bob"] {
            exploration = exploration.client(name, &db, |db| async move {
                let seen = db.run(async |tx: &mut Tx<DB>| run(tx, &[Read(1)]).await).await?;
                db.run(async |tx: &mut Tx<DB>| run(tx, &[Add(1, 5)]).await).await?;
                Ok::<_, Error>(seen)
            });
        }
        exploration
    })
    .await;
    assert!(text.contains("≠   [100]") && text.contains("│   [105]"), "{text}");
    assert!(text.contains("    id = 1, balance = 110, version = 2"), "{text}");
}

fn tickets<DB: TestBackend>() -> &'static str {
    match DB::NAME {
        "PostgreSQL" => "CREATE TABLE ticket (id BIGSERIAL PRIMARY KEY, guest BIGINT NOT NULL)",
        "MySQL" => "CREATE TABLE ticket (id BIGINT PRIMARY KEY AUTO_INCREMENT, guest BIGINT NOT NULL)",
        _ => "CREATE TABLE ticket (id INTEGER PRIMARY KEY AUTOINCREMENT, guest BIGINT NOT NULL)",
    }
}

/// Inserts a ticket and a reference to it, and returns its id.
async fn buy<DB: TestBackend>(tx: &mut Tx<DB>, guest: i64) -> Result<Vec<i64>, Error> {
    DB::execute(tx, DB::sql("INSERT INTO ticket (guest) VALUES (?)"), &[guest]).await?;
    let id = DB::fetch(tx, DB::sql("SELECT MAX(id) FROM ticket WHERE guest = ?"), &[guest]).await?;
    DB::execute(tx, DB::sql("INSERT INTO sold VALUES (?)"), &[id]).await?;
    Ok(vec![id])
}

async fn shop<DB: TestBackend>() -> TestPool<DB> {
    database::<DB>(&[tickets::<DB>(), "CREATE TABLE sold (ticket BIGINT NOT NULL)"]).await
}

fn purchases<'a, DB: TestBackend>(
    pool: &Pool<DB>,
    db: &'a atomically::PoolTransactor<DB, Pessimistic>,
) -> Explore<'a, DB> {
    explore(pool)
        .set_up(|pool| all(pool, &["DELETE FROM sold", "DELETE FROM ticket"]))
        .unit("alice", db, async |tx: &mut Tx<DB>| buy(tx, 1).await)
        .unit("bob", db, async |tx: &mut Tx<DB>| buy(tx, 2).await)
        .max_preemptions(2)
        .serializable()
}

pub(crate) async fn generated_ids_are_compared_up_to_renaming<DB: TestBackend>() {
    let pool = shop::<DB>().await;
    let db = Pessimistic::default().on(&pool);
    assert_serializable(purchases(&pool, &db).renaming(["ticket.id", "sold.ticket"])).await;
    let error = purchases(&pool, &db).run().await.expect_err("ids differ from run to run");
    assert!(matches!(&error, ExploreError::SerialOutcomesDiffer(_)), "{error}");
    assert!(error.to_string().contains("renaming"), "{error}");
}

pub(crate) async fn values_that_change_with_each_run_are_reported<DB: TestBackend>() {
    let pool = database::<DB>(&["CREATE TABLE log (id BIGINT PRIMARY KEY, written_at BIGINT)"]).await;
    let db = Pessimistic::default().on(&pool);
    let clock = AtomicI64::new(0);
    let clock = &clock;
    let write = async move |tx: &mut Tx<DB>, id: i64| -> Result<(), Error> {
        let now = clock.fetch_add(1, Ordering::Relaxed);
        DB::execute(tx, DB::sql("INSERT INTO log VALUES (?, ?)"), &[id, now]).await?;
        Ok(())
    };
    let write = &write;
    let exploration = || {
        empty(&pool, "log").unit("alice", &db, async move |tx: &mut Tx<DB>| write(tx, 1).await).unit(
            "bob",
            &db,
            async move |tx: &mut Tx<DB>| write(tx, 2).await,
        )
    };
    let error = exploration().serializable().run().await.expect_err("the time passes");
    assert!(matches!(&error, ExploreError::SerialOutcomesDiffer(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("≠   id = 1, written_at = "), "{text}");
    assert_serializable(exploration().ignoring("log.written_at")).await;
    assert_serializable(exploration().ignoring("written_at")).await;
}

pub(crate) async fn only_named_tables_are_compared<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let db = Pessimistic::default().on(&pool);
    let exploration = || {
        let unit = async |tx: &mut Tx<DB>| run(tx, &[Add(1, 1)]).await;
        explore(&pool).set_up(reset).unit("alice", &db, unit).unit("bob", &db, unit).serializable()
    };
    assert_eq!(explored(exploration()).await.compared_tables, ["account"]);
    assert_eq!(explored(exploration().tables(["entry"])).await.compared_tables, ["entry"]);
    let error = exploration().tables(["acount"]).run().await.expect_err("a typo");
    assert!(matches!(&error, ExploreError::NoSuchTable(name) if name == "acount"), "{error}");
}

/// A view may write any table.
pub(crate) async fn statements_with_unknown_tables_are_an_error<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let (trigger, view) = match DB::NAME {
        "SQLite" => (
            "CREATE TRIGGER change INSTEAD OF UPDATE ON poor BEGIN
                 UPDATE account SET balance = NEW.balance WHERE id = OLD.id;
             END",
            "CREATE VIEW poor AS SELECT id, balance FROM account",
        ),
        _ => ("SELECT 1", "CREATE VIEW poor AS SELECT id, balance FROM account"),
    };
    all(pool.pool.clone(), &[view, trigger]).await.expect("a view");
    let db = Pessimistic::default().on(&pool);
    let exploration = || {
        let unit = async |tx: &mut Tx<DB>| {
            let update = DB::sql("UPDATE poor SET balance = balance + 1 WHERE id = 1");
            DB::execute(tx, update, &[]).await?;
            Ok::<_, Error>(())
        };
        explore(&pool).set_up(reset).unit("alice", &db, unit).unit("bob", &db, unit).serializable()
    };
    let error = exploration().run().await.expect_err("a view");
    let ExploreError::TablesUnknown { client, sql } = &error else { panic!("{error}") };
    assert!(client == "alice" && sql.contains("poor"), "{error}");
    assert_serializable(exploration().tables(["account"])).await;
}

pub(crate) async fn a_client_that_always_fails_is_an_error<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let db = Pessimistic::default().on(&pool);
    let exploration = explore(&pool)
        .set_up(reset)
        .unit("alice", &db, async |tx: &mut Tx<DB>| run(tx, &[Read(1)]).await)
        .unit("bob", &db, async |tx: &mut Tx<DB>| {
            DB::execute(tx, DB::sql("INSERT INTO account VALUES (1, 0, 0)"), &[]).await?;
            Ok::<_, Error>(())
        });
    let error = exploration.serializable().run().await.expect_err("there is an account 1");
    assert!(matches!(&error, ExploreError::FailsSerially { client, .. } if client == "bob"), "{error}");
}
