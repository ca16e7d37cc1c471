//! Twins: concurrent requests with the same key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, Outcome, once_in};
use atomically::{
    Atomic, Error, Isolation, Optimistic, Options, Pessimistic, Serializable, Transactor, TransactorExt as _,
    Tx,
};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{Executor as _, MySql, Pool};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::keeps::{Keeps, effect, effects, expire, key, ledger, stored_response, work};
use crate::support::eventually;

const LEVELS: [Isolation; 4] = [
    Isolation::ReadUncommitted,
    Isolation::ReadCommitted,
    Isolation::RepeatableRead,
    Isolation::Serializable,
];

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn patient() -> Options {
    Options::new().deadline(PATIENCE)
}

/// A first run, which holds its key until the gate opens and then commits or fails.
struct First<T> {
    gate: Arc<Semaphore>,
    task: JoinHandle<Result<Outcome<i64>, T>>,
}

impl First<Error> {
    async fn at_work<DB: Keeps>(pool: &Pool<DB>, name: &str, k: i64, succeeds: bool) -> Self {
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (opened, begins) = (gate.clone(), begun.clone());
        let (db, key) = (Pessimistic::default().on(pool).options(patient()), key(name));
        let task = tokio::spawn(async move {
            db.once(&key)
                .run(async |tx: &mut Tx<DB>| {
                    let answer = effect(tx, k).await?;
                    begins.add_permits(1);
                    let _ = opened.acquire().await;
                    if succeeds { Ok(answer) } else { Err(Error::from(sqlx::Error::RowNotFound)) }
                })
                .await
        });
        let _ = begun.acquire().await.expect("never closed");
        Self { gate, task }
    }

    async fn ends(self) -> Result<Outcome<i64>, Error> {
        self.gate.add_permits(1);
        self.task.await.expect("no panic")
    }
}

/// The second run waits at the key until the first has ended, at every isolation level.
async fn waits<DB: Keeps>(succeeds: bool) {
    let pool = ledger::<DB>(4).await;
    for (k, level) in (0..).zip(LEVELS) {
        let name = format!("{level}");
        let first = First::at_work(&pool, &name, k, succeeds).await;
        let (db, key) = (Pessimistic::default().on(&pool).options(patient().isolation(level)), key(&name));
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let second = tokio::spawn(async move {
            db.once(&key)
                .wait(PATIENCE)
                .run(async |tx: &mut Tx<DB>| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Error>(effect(tx, k).await?)
                })
                .await
        });
        eventually(1, async || DB::waiting(&pool).await).await;
        assert_eq!(runs.load(Ordering::Relaxed), 0, "{level}");
        let first = first.ends().await;
        let second = second.await.expect("no panic").expect("an outcome");
        let response = stored_response(&pool, k).await;
        if succeeds {
            assert_eq!(first.expect("an outcome"), Outcome::Fresh(response), "{level}");
            assert_eq!(second, Outcome::Replayed(response), "{level}");
        } else {
            assert!(first.is_err());
            assert_eq!(second, Outcome::Fresh(response), "{level}");
        }
    }
}

pub(crate) async fn a_twin_waits_for_the_response<DB: Keeps>() {
    waits::<DB>(true).await;
}

pub(crate) async fn a_twin_takes_over_the_key_of_a_failed_run<DB: Keeps>() {
    waits::<DB>(false).await;
}

pub(crate) async fn an_expired_key_is_taken_over_once<DB: Keeps>() {
    let pool = ledger::<DB>(4).await;
    let db = Pessimistic::default().on(&pool).options(patient());
    let _ = db.once(&key("a")).run(work::<DB>).await.expect("an outcome");
    expire(&pool).await;

    let first = First::at_work(&pool, "a", 2, true).await;
    let twin = db.clone();
    let second = tokio::spawn(async move {
        let unit = async |tx: &mut Tx<DB>| effect(tx, 2).await.map_err(Error::from);
        twin.once(&key("a")).wait(PATIENCE).run(unit).await
    });
    eventually(1, async || DB::waiting(&pool).await).await;
    let first = first.ends().await.expect("an outcome");
    let response = stored_response(&pool, 2).await;
    let second = second.await.expect("no panic").expect("an outcome");
    assert_eq!((first, second), (Outcome::Fresh(response), Outcome::Replayed(response)));
}

pub(crate) async fn a_wait_that_times_out_is_in_progress<DB: Keeps>() {
    let pool = ledger::<DB>(4).await;
    for (k, level) in (0..).zip(LEVELS) {
        let name = format!("{level}");
        let first = First::at_work(&pool, &name, k, true).await;
        let db = Pessimistic::default().on(&pool).options(patient().isolation(level));
        let runs = AtomicU32::new(0);
        let unit = async |tx: &mut Tx<DB>| {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Error>(effect(tx, k).await?)
        };
        let key = key(&name);
        // The default wait is one second.
        let once = if k == 0 { db.once(&key) } else { db.once(&key).wait(Duration::from_millis(50)) };
        assert_eq!(once.run(unit).await.expect("an outcome"), Outcome::InProgress, "{level}");
        assert_eq!((runs.load(Ordering::Relaxed), effects(&pool, k).await), (0, 0), "{level}");
        let first = first.ends().await.expect("an outcome");
        let response = stored_response(&pool, k).await;
        assert_eq!(first, Outcome::Fresh(response));
        assert_eq!(once.run(unit).await.expect("an outcome"), Outcome::Replayed(response), "{level}");
    }
}

/// All twins wait for a run that fails. On MySQL and MariaDB all but one of them then fail with a deadlock
/// and are retried.
pub(crate) async fn one_of_many_twins_runs<DB: Keeps>() {
    const WAITING: u32 = 5;
    let pool = ledger::<DB>(WAITING + 2).await;
    let first = First::at_work(&pool, "a", 1, false).await;
    let mut tasks = JoinSet::new();
    for _ in 0..WAITING {
        let db = Pessimistic::default().on(&pool).options(patient());
        tasks.spawn(async move { db.once(&key("a")).wait(PATIENCE).run(work::<DB>).await });
    }
    eventually(i64::from(WAITING), async || DB::waiting(&pool).await).await;
    assert!(first.ends().await.is_err());
    let mut fresh = 0;
    let mut responses = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        let outcome = outcome.expect("no panic").expect("an outcome");
        fresh += u32::from(matches!(outcome, Outcome::Fresh(_)));
        responses.extend(outcome.response());
    }
    assert_eq!((fresh, responses), (1, vec![stored_response(&pool, 1).await; WAITING as usize]));
}

/// The lock timeout of the unit, and of the next user of the connection, is unchanged.
pub(crate) async fn the_wait_limit_applies_to_the_key_only<DB: Keeps>() {
    let pool = ledger::<DB>(1).await;
    let before = DB::limits(&pool).await;
    let limits =
        DB::with_timeouts(Options::new(), Duration::from_secs(3)).lock_timeout(Duration::from_secs(2));
    let db = Pessimistic::default().on(&pool).options(limits);
    let unit = async |tx: &mut Tx<DB>| Ok::<_, Error>(DB::limits_inside(tx).await);
    let once = db.once(&key("a")).wait(Duration::from_millis(10));
    let Outcome::Fresh(inside) = once.run(unit).await.expect("an outcome") else { panic!("not fresh") };
    assert!(inside.starts_with(DB::TWO_AND_THREE_SECONDS), "{inside}");
    assert_eq!(DB::limits(&pool).await, before);

    // The lock timeout of the options applies too.
    let pool = ledger::<DB>(3).await;
    let first = First::at_work(&pool, "b", 2, true).await;
    let db = Pessimistic::default().on(&pool).options(patient().lock_timeout(Duration::from_millis(50)));
    let outcome = db.once(&key("b")).wait(PATIENCE).run(work::<DB>).await.expect("an outcome");
    assert_eq!(outcome, Outcome::InProgress);
    assert!(first.ends().await.is_ok());
    assert_eq!(DB::limits(&pool).await, before);
}

/// The snapshot of the transaction was taken before another run committed the key.
pub(crate) async fn a_key_newer_than_the_snapshot_is_found<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    sees_what_is_newer(&pool, &DB::another(&pool.url).await).await;
}

/// With `innodb_snapshot_isolation`, the default of MariaDB from 11.6 on, a newer row is a failure.
pub(crate) async fn a_key_newer_than_the_snapshot_is_found_or_a_conflict() {
    let elsewhere = ledger::<MySql>(2).await;
    let isolate = "SET @isolated = 1 /*M! , innodb_snapshot_isolation = ON*/";
    let pool = MySqlPoolOptions::new()
        .max_connections(2)
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(isolate).await.map(drop) })
        })
        .connect(&elsewhere.url)
        .await
        .expect("a pool");
    let attempts = sees_what_is_newer(&pool, &elsewhere).await;
    let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&pool).await.expect("a version");
    assert!(attempts > 9 || !version.contains("MariaDB"), "there was no failure, so nothing was shown");
}

/// Returns the number of attempts.
async fn sees_what_is_newer<DB: Keeps>(pool: &Pool<DB>, elsewhere: &Pool<DB>) -> u32 {
    let strategies: [&dyn Transactor<DB>; 3] =
        [&Optimistic::default().on(pool), &Serializable::default().on(pool), &Atomic::default().on(pool)];
    let (mut k, attempts) = (0, AtomicU32::new(0));
    for db in strategies {
        for level in LEVELS {
            if DB::NAME == "MySQL" && level == Isolation::Serializable {
                // There is no snapshot: the rows that were read are locked.
                continue;
            }
            k += 1;
            let (name, other) = (k.to_string(), Pessimistic::default().on(elsewhere));
            let finished_meanwhile = AtomicU32::new(0);
            let db = db.with(patient().isolation(level));
            let unit = db.run(async |tx: &mut Tx<DB>| {
                attempts.fetch_add(1, Ordering::Relaxed);
                let seen = DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM atomically_key"), &[]).await?;
                if tx.attempt() == 1 {
                    let unit = async |tx: &mut Tx<DB>| effect(tx, k).await.map_err(Error::from);
                    let outcome = other.with(patient()).once(&key(&name)).run(unit).await?;
                    assert!(matches!(outcome, Outcome::Fresh(_)), "{outcome:?}");
                    finished_meanwhile.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(seen, k - 1);
                }
                once_in(tx, &key(&name))
                    .run(async |tx: &mut Tx<DB>| Ok::<_, Error>(effect(tx, k).await?))
                    .await
            });
            let outcome = unit.await.expect("an outcome");
            assert_eq!(outcome, Outcome::Replayed(stored_response(pool, k).await), "{level}");
            assert_eq!(finished_meanwhile.load(Ordering::Relaxed), 1);
        }
    }
    attempts.into_inner()
}
