//! Gates are local to a process, and correctness does not depend on them: two processes on one database lose
//! no update.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use atomically::{
    Adaptive, Error, Optimistic, Pessimistic, PoolTransactor, Serializable, Strategy, Transactor,
    TransactorExt as _, Tx,
};
use sqlx::{MySql, Pool, Postgres, Sqlite};
use tokio::task::JoinSet;

use crate::support::{TestBackend, TestPool, eventually};

const PROCESSES: i64 = 2;
const TASKS: i64 = 8;
const ROUNDS: i64 = 25;

/// The environment variable that marks a child process of the test.
const URL: &str = "ATOMICALLY_TEST_PROCESS_URL";
const STRATEGY: &str = "ATOMICALLY_TEST_PROCESS_STRATEGY";

fn on<DB: TestBackend>(strategy: impl Strategy, pool: &Pool<DB>) -> Arc<dyn Transactor<DB>> {
    Arc::new(PoolTransactor::new(strategy, pool).attempts(10_000).deadline(Duration::from_secs(240)))
}

fn named<DB: TestBackend>(strategy: &str, pool: &Pool<DB>) -> Arc<dyn Transactor<DB>> {
    match strategy {
        "pessimistic" => on(Pessimistic::default(), pool),
        "optimistic" => on(Optimistic::default(), pool),
        "serializable" => on(Serializable::default(), pool),
        "adaptive" => on(Adaptive::default(), pool),
        other => panic!("no such strategy: {other}"),
    }
}

async fn increment<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let select = tx.for_update(DB::sql("SELECT value * 1000000 + version FROM counter WHERE id = 1"));
    let read = DB::fetch(tx, select, &[]).await?;
    let (value, version) = (read / 1_000_000, read % 1_000_000);
    let update = DB::sql("UPDATE counter SET value = ?, version = version + 1 WHERE id = 1 AND version = ?");
    let done = DB::execute(tx, update, &[value + 1, version]).await?;
    tx.expect_one(done)
}

/// One process: waits until all processes have started, and increments. Returns the number of attempts.
async fn process<DB: TestBackend>(url: &str, strategy: &str) -> i64 {
    let pool = DB::another(url).await;
    let db = named(strategy, &pool);
    let arrive = async |tx: &mut Tx<DB>| {
        let update = DB::sql("UPDATE counter SET value = value + 1 WHERE id = 2");
        let done = DB::execute(tx, update, &[]).await?;
        tx.expect_one(done)
    };
    db.run(arrive).await.expect("a process");
    let arrived = DB::sql("SELECT value FROM counter WHERE id = 2");
    eventually(PROCESSES, async || DB::pool_fetch(&pool, arrived.clone(), &[]).await.expect("the processes"))
        .await;

    let attempts = Arc::new(AtomicI64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (db, attempts) = (db.clone(), attempts.clone());
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                let unit = async |tx: &mut Tx<DB>| {
                    attempts.fetch_add(1, Relaxed);
                    increment(tx).await
                };
                db.on_key(("counter", 1)).run(unit).await.expect("an increment");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a task");
    }
    attempts.load(Relaxed)
}

/// Starts the processes under each strategy; the strategy that only checks versions must have met conflicts.
async fn processes_lose_no_update<DB: TestBackend>(name: &str) {
    if let (Ok(url), Ok(strategy)) = (std::env::var(URL), std::env::var(STRATEGY)) {
        println!("attempts: {}", process::<DB>(&url, &strategy).await);
        return;
    }
    let pool = DB::pool(2).await;
    let create =
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL, version BIGINT NOT NULL)";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO counter VALUES (1, 0, 0), (2, 0, 0)"), &[])
        .await
        .expect("two rows");
    for strategy in ["pessimistic", "optimistic", "serializable", "adaptive"] {
        let value = PROCESSES * TASKS * ROUNDS;
        // On a busy machine, one process may finish before the other begins.
        let mut met = strategy != "optimistic";
        for _ in 0..20 {
            let attempts = attempts_of_processes(name, strategy, &pool).await;
            println!("{}, {strategy}: {attempts} attempts for {value} increments", DB::NAME);
            met |= attempts > value;
            if met {
                break;
            }
        }
        assert!(met, "the processes did not meet");
    }
}

/// Starts the processes, and returns the number of attempts that their increments took. No increment is lost.
async fn attempts_of_processes<DB: TestBackend>(name: &str, strategy: &str, pool: &TestPool<DB>) -> i64 {
    DB::pool_execute(pool, DB::sql("UPDATE counter SET value = 0"), &[]).await.expect("from the start");
    let start = |_| {
        Command::new(std::env::current_exe().expect("this test"))
            .args([name, "--exact", "--nocapture"])
            .env(URL, &pool.url)
            .env(STRATEGY, strategy)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process")
    };
    let processes: Vec<_> = (0..PROCESSES).map(start).collect();
    let mut attempts = 0;
    for process in processes {
        let output = tokio::task::spawn_blocking(move || process.wait_with_output());
        let output = output.await.expect("a thread").expect("the end of a process");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{strategy}: {text}{}", String::from_utf8_lossy(&output.stderr));
        let line = text.lines().find_map(|line| line.split_once("attempts: "));
        let (_, count) = line.unwrap_or_else(|| panic!("{strategy}: {text}"));
        attempts += count.trim().parse::<i64>().expect("a number");
    }
    let value = DB::sql("SELECT value FROM counter WHERE id = 1");
    let value = DB::pool_fetch(pool, value, &[]).await.expect("the counter");
    assert_eq!(value, PROCESSES * TASKS * ROUNDS, "{strategy}");
    attempts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    processes_lose_no_update::<Postgres>("gates::postgres").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    processes_lose_no_update::<MySql>("gates::mariadb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    processes_lose_no_update::<Sqlite>("gates::sqlite").await;
}
