//! Waits that exceed their limits.

use std::time::Duration;

use atomically::{
    Atomic, Backoff, Error, Gate, Optimistic, Options, Pessimistic, PoolTransactor, TransactorExt as _, Tx,
};
use sqlx::Sqlite;
use sqlx::pool::PoolOptions;

use crate::connecting::nothing;
use crate::statements::{counter, unit};
use crate::support::TestBackend;
use crate::support::proxy::{Fault, Proxy};
use crate::table::{Table, checkout};

/// Shorter than the time after which a unit is reported as idle.
const SOON: Duration = Duration::from_millis(700);

/// Usually long enough to reach the fault.
const REACHED: Duration = Duration::from_millis(1500);

const ADD: &str = "UPDATE counter SET value = value + 1 WHERE id = 1";

pub(crate) async fn in_this_process<DB: TestBackend>(table: &mut Table) {
    let pool = counter::<DB>(2).await;
    let db = Optimistic::default().on(&pool).gate(&Gate::new().queue(0));
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let sleeper = async |tx: &mut Tx<DB>| {
        started.send(()).expect("the receiver");
        nothing(tx).await?;
        std::future::pending::<()>().await;
        Ok::<_, Error>(())
    };
    let hot = db.on_key(7);
    let full = async {
        // The gate admits three runs, and no further one may wait.
        let inside =
            async { tokio::join!(hot.run(sleeper), hot.run(nothing::<DB>), hot.run(nothing::<DB>),) };
        let late = async {
            starts.recv().await;
            db.with(Options::new().named("checkout").on_key(7)).run(nothing::<DB>).await
        };
        tokio::select! {
            biased;
            _ = inside => panic!("the first one never ends"),
            late = late => late,
        }
    };
    table.record("gate full", full).await;
    drop(hot);
    let db = db.clone().gate(&Gate::new());
    let hot = db.on_key(7);
    let waits = async {
        let options = Options::new().named("checkout").on_key(7).deadline(SOON);
        let late = async {
            starts.recv().await;
            db.with(options).run(nothing::<DB>).await
        };
        tokio::select! { _ = hot.run(sleeper) => panic!("it never ends"), late = late => late }
    };
    table.record("gate, until the deadline", waits).await;
    let db = Optimistic::default().on(&pool).deadline(SOON);
    let named = checkout(&db);
    let endless = async |tx: &mut Tx<DB>| {
        nothing(tx).await?;
        std::future::pending::<()>().await;
        Ok::<_, Error>(())
    };
    table.record_in_time("a unit that never ends", async || named.run(endless).await).await;
}

pub(crate) async fn for_locks<DB: TestBackend>(table: &mut Table) {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    let add = async |tx: &mut Tx<DB>| unit(tx, ADD).await;
    let limited = Options::new().lock_timeout(Duration::from_millis(100)).attempts(1);
    let db = Pessimistic::default().on(&pool).options(limited);
    table.record("lock timeout", checkout(&db).run(add)).await;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(4)).backoff(Backoff::none());
    let named = checkout(&db);
    let waits = async || named.run(add).await;
    table.record_usual("lock wait until the deadline", "lock timeout", waits).await;
    let nowait = "SELECT value FROM counter WHERE id = 1 FOR UPDATE NOWAIT";
    let db = Pessimistic::default().on(&pool);
    let refused = async |tx: &mut Tx<DB>| {
        DB::fetch(tx, DB::sql(nowait), &[]).await?;
        Ok::<_, Error>(())
    };
    table.record("lock refused, NOWAIT", checkout(&db).run(refused)).await;
    let lone = Atomic::default().on(&pool).deadline(Duration::from_secs(1));
    let waits = async || checkout(&lone).apply(sqlx::raw_sql(DB::sql(ADD))).await;
    table.record_in_time("a lone statement that waits for a lock until the deadline", waits).await;
    drop(blocker);
    let slow = if DB::NAME == "PostgreSQL" { "SELECT pg_sleep(5)" } else { "SELECT SLEEP(5) FROM counter" };
    let slow = async |tx: &mut Tx<DB>| {
        DB::plain(tx, DB::sql(slow)).await?;
        Ok::<_, Error>(())
    };
    let limited = Options::new().statement_timeout(Duration::from_millis(100));
    let db: PoolTransactor<DB, _> = Pessimistic::default().on(&pool);
    table.record("statement timeout", checkout(&db.clone().options(limited)).run(slow)).await;
    let db = db.deadline(Duration::from_secs(1));
    let named = checkout(&db);
    let waits = async || named.run(slow).await;
    table.record_usual("slow statement until the deadline", "statement timeout", waits).await;
}

pub(crate) async fn for_a_silent_server<DB: TestBackend>(table: &mut Table) {
    let direct = counter::<DB>(1).await;
    for (what, trigger, fault) in [
        ("silence after BEGIN", "ISOLATION LEVEL", Fault::SilenceBefore),
        ("silence after a statement", "silence is here", Fault::SilenceBefore),
        ("silence after COMMIT", DB::COMMIT, Fault::SilenceAfter),
        ("connection lost at a statement", "silence is here", Fault::CutBefore),
        ("connection lost at COMMIT", DB::COMMIT, Fault::CutAfter),
    ] {
        let run = async || {
            let proxy = Proxy::to(&direct.url).await;
            let pool = PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await;
            let db = Pessimistic::default().on(&pool.expect("a pool")).deadline(REACHED).attempts(2);
            proxy.on(trigger, fault);
            let named = checkout(&db);
            let update =
                "UPDATE counter SET value = 1 WHERE id = 1 AND 'silence is here' = 'silence is here'";
            named.run(async |tx: &mut Tx<DB>| unit(tx, update).await).await
        };
        table.record_in_time(what, run).await;
    }
}

pub(crate) async fn for_a_writer(table: &mut Table) {
    let pool = counter::<Sqlite>(2).await;
    let blocker = Sqlite::blocker(&pool.url).await;
    let add = async |tx: &mut Tx<Sqlite>| unit(tx, ADD).await;
    let limited = Options::new().lock_timeout(Duration::from_millis(50)).attempts(2);
    let db = Pessimistic::default().on(&pool).options(limited);
    table.record("database busy", checkout(&db).run(add)).await;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(2));
    let named = checkout(&db);
    let waits = async || named.run(add).await;
    table.record_usual("database busy until the deadline", "database busy (5)", waits).await;
    drop(blocker);
    // Another connection writes after the read, so the snapshot is outdated.
    let other = pool.pool.clone();
    let db = Optimistic::default().on(&pool).attempts(1);
    let named = checkout(&db);
    let run = named.run(async |tx: &mut Tx<Sqlite>| {
        Sqlite::fetch(tx, Sqlite::sql("SELECT value FROM counter WHERE id = 2"), &[]).await?;
        Sqlite::pool_execute(&other, Sqlite::sql("UPDATE counter SET value = 5 WHERE id = 2"), &[]).await?;
        unit(tx, ADD).await
    });
    table.record("serialization conflict", run).await;
}
