//! Units of work: all statements that the crate itself sends, and an outage of the server behind the pooler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Error, Event, Options, Pessimistic, Resolve, TransactorExt as _, Tx, UnitEvent};
use sqlx::Postgres;
use sqlx::postgres::PgPoolOptions;
use tokio::task::{JoinSet, spawn_blocking};

use crate::support::servers::Server;
use crate::support::{TestBackend as _, eventually};
use crate::{Pooled, ROUNDS, TASKS, change, no_setting_is_left_behind};

#[derive(Debug)]
enum Own {
    GaveUp,
    Transaction(Error),
}

impl From<Error> for Own {
    fn from(error: Error) -> Self {
        Self::Transaction(error)
    }
}

impl From<sqlx::Error> for Own {
    fn from(error: sqlx::Error) -> Self {
        Self::Transaction(error.into())
    }
}

/// Uses every feature that makes the crate send statements of its own.
async fn unit(tx: &mut Tx<Postgres>, round: i64) -> Result<(), Own> {
    tx.advisory_lock(("round", round % 7)).await?;
    let missing = tx.lock_rows("counter", "id", &[2_i64, 1, 3]).await?;
    assert_eq!(missing, [3]);
    let undone: Result<(), Own> = tx
        .savepoint(async |tx: &mut Tx<Postgres>| {
            let insert = sqlx::query("INSERT INTO tried VALUES ($1)").bind(round);
            insert.persistent(false).execute(&mut *tx).await?;
            Err(Own::GaveUp)
        })
        .await;
    assert!(matches!(undone, Err(Own::GaveUp)), "{undone:?}");
    let select = tx.for_update("SELECT value FROM counter WHERE id = 1");
    let value: i64 = sqlx::query_scalar(select).persistent(false).fetch_one(&mut *tx).await?;
    let tenant = sqlx::query_scalar("SELECT current_setting('app.tenant', true)").persistent(false);
    let tenant: String = tenant.fetch_one(&mut *tx).await?;
    assert_eq!(tenant, "a");
    let update = sqlx::query("UPDATE counter SET value = $1 WHERE id = 1");
    let done = update.bind(value + 1).persistent(false).execute(&mut *tx).await?;
    tx.expect_one(done.rows_affected())?;
    if round % 5 == 4 { Err(Own::GaveUp) } else { Ok(()) }
}

async fn sends_work(prepared_statements: bool) {
    let pooled = Pooled::start(prepared_statements).await;
    let second = Duration::from_secs(1);
    let options = Options::new()
        .resolve_commits(Resolve::Operation)
        .deadline(60 * second)
        .lock_timeout(50 * second)
        .statement_timeout(55 * second)
        .idle_timeout(58 * second)
        .setting("app.tenant", "a");
    let db = Pessimistic::default().on(&pooled.clients(TASKS).await).options(options);
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let db = db.clone();
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                match db.run(async |tx: &mut Tx<Postgres>| unit(tx, round).await).await {
                    Ok(()) => assert!(round % 5 != 4),
                    Err(Own::GaveUp) => assert!(round % 5 == 4),
                    Err(Own::Transaction(error)) => panic!("{error:?}"),
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a caller");
    }

    let committed = i64::from(TASKS) * ROUNDS / 5 * 4;
    assert_eq!(pooled.sum().await, committed);
    let direct = pooled.direct().await;
    for (count, expected) in [
        ("SELECT count(*) FROM atomically_operation", committed),
        ("SELECT count(*) FROM tried", 0),
        ("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", 0),
    ] {
        let counted: i64 = sqlx::query_scalar(count).fetch_one(&direct).await.expect(count);
        assert_eq!(counted, expected, "{count}");
    }
    eventually(0, async || Postgres::open_transactions(&direct).await).await;
    no_setting_is_left_behind(&pooled).await;
}

/// Without pgbouncer's support for prepared statements, and with it if the installed version has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_use_every_feature_behind_the_pooler() {
    sends_work(false).await;
    if Server::pgbouncer_prepares() {
        sends_work(true).await;
    }
}

/// How often one caller's units committed, were left unknown, and committed after a retry.
type Counts = (i64, i64, i64);

/// The deadline of units during an outage: longer than the server may take to die, to restart and to be used
/// again by the pooler, so that a failure of any of these steps is reported as such.
const OUTAGE_DEADLINE: Duration = Duration::from_secs(120);

/// Waits until the count has increased, while all callers continue.
async fn wait_for_increase(count: &AtomicU32, what: &str, callers: &mut JoinSet<Counts>) {
    let before = count.load(Ordering::Relaxed);
    let limit = Duration::from_secs(40);
    let increased = async {
        while count.load(Ordering::Relaxed) == before {
            if let Some(ended) = callers.try_join_next() {
                panic!("a caller ended before it was stopped: {ended:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(limit, increased).await;
    waited.unwrap_or_else(|_| panic!("no {what} within {limit:?}"));
}

/// pgbouncer without a server refuses clients with an error of its own, and accepts them again once the
/// server is back. The units are retried until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_units_until_the_server_behind_the_pooler_is_back() {
    let Pooled { pooler, mut server } = Pooled::start(false).await;
    let pool = PgPoolOptions::new().max_connections(8).connect(pooler.url()).await.expect("a pool");
    let (commits, retries) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counted = retries.clone();
    let db = Pessimistic::default().on(&pool).deadline(OUTAGE_DEADLINE).attempts(10_000).observed_by(
        move |event: &Event<'_>| {
            if let Event::Unit { event: UnitEvent::BackingOff { .. }, .. } = event {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        },
    );
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (db, stopped, commits) = (db.clone(), stopped.clone(), commits.clone());
        tasks.spawn(async move {
            let (mut done, mut unknown, mut retried) = (0, 0, 0);
            while !*stopped.borrow() {
                let unit = db.run(async |tx: &mut Tx<Postgres>| {
                    change(tx, "UPDATE counter SET value = value + $1 WHERE id = 1", 1, false).await?;
                    Ok::<_, Error>(tx.attempt())
                });
                match unit.await {
                    Ok(attempt) => {
                        done += 1;
                        commits.fetch_add(1, Ordering::Relaxed);
                        retried += i64::from(attempt > 1);
                    }
                    Err(error) if error.is_commit_unknown() => unknown += 1,
                    Err(error) => panic!("a unit failed instead of being retried: {error:?}"),
                }
            }
            (done, unknown, retried)
        });
    }
    for _ in 0..3 {
        wait_for_increase(&commits, "commit", &mut tasks).await;
        server = spawn_blocking(move || {
            server.kill();
            server
        })
        .await
        .expect("the server is gone");
        wait_for_increase(&retries, "retry", &mut tasks).await;
        server = spawn_blocking(move || {
            server.restart();
            server
        })
        .await
        .expect("the server is back");
    }
    stop.send_replace(true);
    let (mut done, mut unknown, mut retried) = (0, 0, 0);
    while let Some(task) = tasks.join_next().await {
        let counts = task.expect("a caller");
        (done, unknown, retried) = (done + counts.0, unknown + counts.1, retried + counts.2);
    }
    assert!(retried > 0, "no unit was retried");
    let value = Pooled { pooler, server }.sum().await;
    assert!((done..=done + unknown).contains(&value), "{done} done, {unknown} unknown, {value} stored");
}
