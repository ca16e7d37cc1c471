//! Mistakes of the caller.

use std::time::Duration;

use atomically::queue::Queue;
use atomically::{
    Atomic, Begin, Error, Isolation, Optimistic, Options, Pessimistic, Resolve, RowLock, TransactorExt as _,
    Tx,
};
use sqlx::{MySql, Sqlite};
use tokio::sync::Notify;

use crate::connecting::nothing;
use crate::statements::{counter, unit};
use crate::support::TestBackend;
use crate::table::{Table, checkout};

pub(crate) async fn of_transactions<DB: TestBackend>(table: &mut Table) {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    for (what, sql) in [
        ("BEGIN in a unit", "BEGIN"),
        ("COMMIT in a unit", "COMMIT"),
        ("ROLLBACK in a unit", "ROLLBACK"),
        ("a savepoint of the crate's own", "RELEASE SAVEPOINT atomically_1"),
    ] {
        let named = checkout(&db);
        let run = named.run(async |tx: &mut Tx<DB>| Ok::<_, Error>(DB::plain(tx, DB::sql(sql)).await?));
        table.record(what, run).await;
    }
    let blocker = DB::blocker(&pool.url).await;
    let optimistic = Optimistic::default().on(&pool);
    let named = checkout(&optimistic);
    let run = named.run(async |tx: &mut Tx<DB>| {
        let update = DB::execute(tx, DB::sql("UPDATE counter SET value = 1 WHERE id = 1"), &[]);
        let timed_out = tokio::time::timeout(Duration::from_millis(50), update).await;
        assert!(timed_out.is_err(), "the row was not locked");
        nothing(tx).await
    });
    table.record("a statement whose future was dropped", run).await;
    drop(blocker);
    crate::support::eventually(0, async || DB::open_transactions(&pool).await).await;
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| {
        let has_begun = Notify::new();
        let scope = tx.savepoint(async |tx: &mut Tx<DB>| {
            nothing(tx).await?;
            has_begun.notify_one();
            std::future::pending::<()>().await;
            Ok::<_, Error>(())
        });
        tokio::select! {
            _ = scope => panic!("it never ends"),
            () = has_begun.notified() => {}
        }
        nothing(tx).await
    });
    table.record("a savepoint whose scope was dropped", run).await;
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| {
        DB::raw(tx.connection()?, "COMMIT").await?;
        Ok::<_, Error>(())
    });
    table.record("COMMIT on the connection underneath", run).await;
    let lone = Atomic::default().on(&pool);
    for (what, sql) in [("BEGIN as a lone statement", "BEGIN"), ("a lone savepoint", "SAVEPOINT mine")] {
        table.record(what, checkout(&lone).apply(sqlx::raw_sql(DB::sql(sql)))).await;
    }
    if DB::NAME != "PostgreSQL" {
        let two = sqlx::raw_sql(DB::sql("UPDATE counter SET value = 1; UPDATE counter SET value = 2"));
        table.record("several lone statements in one text", checkout(&lone).apply(two)).await;
    }
}

pub(crate) async fn of_runs<DB: TestBackend>(table: &mut Table) {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let inner = db.clone();
    let named = checkout(&db);
    let run = named.run(async |_tx: &mut Tx<DB>| inner.named("inner").run(nothing::<DB>).await);
    table.record("a run inside of a run", run).await;
    let options = pool.options().clone().acquire_timeout(Duration::from_secs(1));
    let impatient = options.connect_lazy(&pool.url).expect("a pool");
    let db = Pessimistic::default().on(&impatient);
    let named = checkout(&db);
    let second = async |_tx: &mut Tx<DB>| {
        DB::pool_fetch(&impatient, DB::sql("SELECT 1"), &[]).await.map_err(Error::from)
    };
    table.record_in_time("a second connection inside of a unit", async || named.run(second).await).await;
    let union = DB::sql("SELECT id FROM counter UNION SELECT id FROM counter");
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| {
        let sql = tx.for_update(union.clone());
        DB::fetch(tx, sql, &[]).await.map_err(Error::from)
    });
    if DB::NAME != "SQLite" {
        table.record("for_update on what cannot be locked", run).await;
    }
    for (what, options) in [
        ("an option that the database does not have: begin", Options::new().begin(Begin::Exclusive)),
        ("an option that the database does not have: deferrable", Options::new().deferrable()),
        (
            "an option that the database does not have: idle timeout",
            Options::new().idle_timeout(Duration::from_secs(60)),
        ),
        (
            "an option that the database does not have: the status of transactions",
            Options::new().resolve_commits(Resolve::TransactionStatus),
        ),
    ] {
        let db = Pessimistic::default().on(&pool).options(options);
        table.record_if_it_fails(what, checkout(&db).run(nothing::<DB>)).await;
    }
    let db = Pessimistic::default().on(&pool).options(Options::new().resolve_commits(Resolve::Operation));
    table.record("no table of operations", checkout(&db).run(nothing::<DB>)).await;
    let name = Queue::<Sqlite>::new("mail; DROP TABLE job", &Sqlite::pool(1).await.pool);
    table.record("a queue whose name cannot be used", async { name }).await;
}

pub(crate) async fn of_locks<DB: TestBackend>(table: &mut Table) {
    let pool = counter::<DB>(1).await;
    let options = Options::new().isolation(Isolation::RepeatableRead);
    let db = Optimistic::default().on(&pool).options(options);
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<DB>| {
        nothing(tx).await?;
        tx.advisory_lock("day").await
    });
    table.record("an advisory lock that protects nothing", run).await;
}

pub(crate) async fn with_an_implicit_commit(table: &mut Table) {
    let pool = counter::<MySql>(1).await;
    let db = Pessimistic::default().on(&pool);
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<MySql>| unit(tx, "ALTER TABLE counter ADD COLUMN n INT").await);
    table.record("DDL in a unit", run).await;
}

pub(crate) async fn on_sqlite(table: &mut Table) {
    let pool = counter::<Sqlite>(1).await;
    let db = Optimistic::default().on(&pool);
    let named = checkout(&db);
    let run = named
        .run(async |tx: &mut Tx<Sqlite>| tx.locking(RowLock::UPDATE, "SELECT id FROM counter").map(drop));
    table.record("a row lock", run).await;
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<Sqlite>| tx.advisory_lock("day").await);
    table.record("an advisory lock", run).await;
    let named = checkout(&db);
    let run = named
        .run(async |tx: &mut Tx<Sqlite>| unit(tx, "UPDATE counter SET value = 1 WHERE 'a\0' = 'b'").await);
    table.record("a NUL in a text", run).await;
}
