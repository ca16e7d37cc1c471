//! Leases among processes that are killed, and suspended for longer than a lease lasts: at no commit are
//! there two holders.

use std::time::{Duration, Instant};

use atomically::lease::{Held, Lease};
use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::{MySql, Pool, Postgres, Sqlite};
use tokio::time::sleep;

use crate::storm::{Processes, database_of_this_process};
use crate::support::TestBackend;

const PROCESSES: usize = 8;
const TASKS: usize = 4;
const LEASES: i64 = 50;
const TTL: Duration = Duration::from_millis(500);
const STORM: Duration = Duration::from_secs(12);
/// A storm on a busy machine goes on until it has proved something, but not for longer.
const MAX_STORM: Duration = Duration::from_secs(90);

/// One row for each lease, with the token of its last holder that has committed; and one row that counts.
const TABLES: [&str; 3] = [
    "CREATE TABLE fenced (lease BIGINT PRIMARY KEY, token BIGINT NOT NULL, commits BIGINT NOT NULL)",
    "CREATE TABLE seen (id BIGINT PRIMARY KEY, held BIGINT, stale BIGINT, wrong BIGINT)",
    "INSERT INTO seen VALUES (1, 0, 0, 0)",
];

/// How a fenced commit ended.
enum Stored {
    Yes,
    /// The lease had been lost.
    Stale,
    /// A later holder had committed before.
    Wrong,
}

/// Commits under a lease, unless a later holder has committed.
async fn commit<DB: TestBackend>(
    db: &PoolTransactor<DB, Pessimistic>,
    lease: i64,
    held: &Held<DB>,
) -> Result<Stored, Error> {
    let token = held.token();
    let unit = async |tx: &mut Tx<DB>| {
        held.check_in(tx).await?;
        let update =
            DB::sql("UPDATE fenced SET token = ?, commits = commits + 1 WHERE lease = ? AND token <= ?");
        Ok::<_, Error>(DB::execute(tx, update, &[token, lease, token]).await?)
    };
    match db.run(unit).await {
        Ok(1) => Ok(Stored::Yes),
        Ok(_) => Ok(Stored::Wrong),
        Err(error) if error.is_stale_claim() => Ok(Stored::Stale),
        Err(error) => Err(error),
    }
}

async fn count<DB: TestBackend>(pool: &Pool<DB>, column: &str) {
    let update = format!("UPDATE seen SET {column} = {column} + 1 WHERE id = 1");
    // SQLite may be busy for long while a process is suspended in a transaction.
    while DB::pool_execute(pool, DB::sql(&update), &[]).await.is_err() {}
}

/// Acquires one lease after the other, and commits under each, until the process is killed.
async fn hold<DB: TestBackend>(pool: Pool<DB>) {
    let db = Pessimistic::default().on(&pool);
    let mut random = StdRng::from_rng(&mut rand::rng());
    loop {
        let id = random.random_range(1..=LEASES);
        let lease = Lease::new(&format!("lease-{id}"), &pool).ttl(TTL);
        let Ok(Some(held)) = lease.try_acquire().await else { continue };
        count(&pool, "held").await;
        for _ in 0..random.random_range(1..20) {
            sleep(Duration::from_millis(random.random_range(1..40))).await;
            match commit(&db, id, &held).await {
                Ok(Stored::Yes) | Err(_) => {}
                Ok(Stored::Stale) => {
                    count(&pool, "stale").await;
                    break;
                }
                Ok(Stored::Wrong) => count(&pool, "wrong").await,
            }
        }
        // Some are forgotten, as by a process that ends.
        if random.random_bool(0.7) {
            let _ = held.release().await;
        }
    }
}

async fn there_is_one_holder_at_each_commit<DB: TestBackend>(name: &'static str) {
    if let Some(url) = database_of_this_process() {
        let pool = DB::another(&url).await;
        let tasks = (0..TASKS).map(|_| tokio::spawn(hold(pool.clone())));
        futures_util::future::join_all(tasks).await;
        return;
    }
    let pool = DB::pool(2).await;
    Lease::new("any", &pool).create_tables().await.expect("the tables");
    for sql in TABLES {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect(sql);
    }
    for lease in 1..=LEASES {
        let insert = DB::sql("INSERT INTO fenced VALUES (?, 0, 0)");
        DB::pool_execute(&pool, insert, &[lease]).await.expect("a row");
    }
    let mut processes = Processes::start(name, &pool.url, PROCESSES);
    let (began, mut random) = (Instant::now(), StdRng::seed_from_u64(7));
    let (mut killed, mut suspended) = (0, 0);
    let ask = async |sql: &str| DB::pool_fetch(&pool, DB::sql(sql), &[]).await.expect("a number");
    let figures = async || {
        let used = ask("SELECT COUNT(*) FROM fenced WHERE commits > 0").await;
        (ask("SELECT held FROM seen").await, ask("SELECT stale FROM seen").await, used)
    };
    let proves = |(held, stale, used)| held > 100 && stale > 0 && used > LEASES / 2;
    while began.elapsed() < STORM
        || (began.elapsed() < MAX_STORM && !(killed > 2 && suspended > 2 && proves(figures().await)))
    {
        sleep(Duration::from_millis(random.random_range(50..300))).await;
        let process = random.random_range(0..PROCESSES);
        if random.random_bool(0.4) {
            processes.replace(process);
            killed += 1;
        } else {
            processes.suspend(process, 3 * TTL).await;
            suspended += 1;
        }
    }
    drop(processes);
    let (held, stale, used) = figures().await;
    println!(
        "{}: {killed} killed, {suspended} suspended; {held} times held, {used} of {LEASES} leases used, \
         {stale} commits of zombies refused",
        DB::NAME
    );
    assert_eq!(ask("SELECT wrong FROM seen").await, 0, "a later holder had committed before");
    assert!(killed > 2 && suspended > 2, "{killed} killed, {suspended} suspended");
    assert!(stale > 0, "no zombie tried to commit");
    assert!(held > 100 && used > LEASES / 2, "the processes did little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    there_is_one_holder_at_each_commit::<Postgres>("leases::postgres").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    there_is_one_holder_at_each_commit::<MySql>("leases::mariadb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    there_is_one_holder_at_each_commit::<Sqlite>("leases::sqlite").await;
}
