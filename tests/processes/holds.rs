//! Holds among processes that are killed: at every commit, what is in the rows, held and sold is what was put
//! into the rows.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atomically::holds::{Confirmation, HoldKey, HoldOutcome, Holds};
use atomically::{Pessimistic, TransactorExt as _, Tx};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::{MySql, Pool, Postgres};
use tokio::time::sleep;

use crate::support::TestBackend;

const PROCESSES: usize = 4;
const TASKS: usize = 8;
const EVENTS: i64 = 3;
const SEATS: i64 = 2_000;
const STORM: Duration = Duration::from_secs(8);

/// The environment variable that marks a child process of the test.
const URL: &str = "ATOMICALLY_TEST_HOLDS_URL";

const TABLES: [&str; 2] = [
    "CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL)",
    "CREATE TABLE ticket (hold BIGINT, seats BIGINT NOT NULL)",
];

/// Everything that was put into the rows, in one snapshot.
const TOTAL: &str = "SELECT CAST((SELECT SUM(seats) FROM event) \
     + (SELECT COALESCE(SUM(amount), 0) FROM atomically_hold WHERE confirmed_at IS NULL) \
     + (SELECT COALESCE(SUM(seats), 0) FROM ticket) AS SIGNED)";

/// Holds, buys, releases and forgets seats, until the process is killed.
async fn trade<DB: TestBackend>(pool: Pool<DB>, holds: Holds<DB, i64>)
where
    i64: HoldKey<DB>,
{
    let db = Pessimistic::default().on(&pool);
    let mut random = StdRng::from_rng(&mut rand::rng());
    loop {
        let rows = random.random_range(1..=2);
        let amounts: Vec<_> =
            (0..rows).map(|_| (random.random_range(1..=EVENTS), random.random_range(1..=3))).collect();
        let total: i64 = amounts.iter().map(|(_, amount)| *amount).sum();
        let ttl = Duration::from_millis(random.random_range(1..300));
        let Ok(HoldOutcome::Held(hold)) = holds.hold_all(amounts, ttl).await else { continue };
        sleep(Duration::from_millis(random.random_range(0..30))).await;
        match random.random_range(0..10) {
            0..=5 => {
                let buy = async |tx: &mut Tx<DB>| {
                    if hold.confirm_in(tx).await? == Confirmation::Confirmed {
                        let insert = DB::sql("INSERT INTO ticket VALUES (?, ?)");
                        DB::execute(tx, insert, &[hold.id(), total]).await?;
                    }
                    Ok::<_, atomically::Error>(())
                };
                let _ = db.run(buy).await;
                // As a request that is repeated.
                let _ = db.run(buy).await;
            }
            6..=7 => drop(hold.release().await),
            _ => {}
        }
    }
}

fn start<DB: TestBackend>(name: &str, url: &str) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args([name, "--exact", "--nocapture"])
        .env(URL, url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process")
}

/// Ends the processes that it started, also when the test fails.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

async fn seats_are_accounted_for<DB: TestBackend>(name: &str)
where
    i64: HoldKey<DB>,
{
    let holds = |pool| Holds::<DB, i64>::on(pool, "event", "id", "seats");
    if let Ok(url) = std::env::var(URL) {
        let pool = DB::another(&url).await;
        let holds = holds(&pool);
        let _sweeper = holds.sweep_every(Duration::from_millis(50));
        let tasks = (0..TASKS).map(|_| tokio::spawn(trade(pool.clone(), holds.clone())));
        futures_util::future::join_all(tasks).await;
        return;
    }
    let pool = DB::pool(2).await;
    for sql in TABLES {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect(sql);
    }
    for event in 1..=EVENTS {
        DB::pool_execute(&pool, DB::sql("INSERT INTO event VALUES (?, ?)"), &[event, SEATS])
            .await
            .expect("a row");
    }
    holds(&pool).create_tables().await.expect("the table of holds");
    let ask = async |sql: &str| {
        let sql = if DB::NAME == "MySQL" { sql.to_owned() } else { sql.replace("AS SIGNED", "AS BIGINT") };
        DB::pool_fetch(&pool, DB::sql(&sql), &[]).await.expect("a number")
    };
    let mut processes = Processes((0..PROCESSES).map(|_| start::<DB>(name, &pool.url)).collect());
    let (began, mut random, mut killed) = (Instant::now(), StdRng::seed_from_u64(7), 0);
    while began.elapsed() < STORM {
        for _ in 0..random.random_range(2..8) {
            assert_eq!(ask(TOTAL).await, EVENTS * SEATS);
            sleep(Duration::from_millis(random.random_range(1..50))).await;
        }
        let process = &mut processes.0[random.random_range(0..PROCESSES)];
        process.kill().expect("killed");
        process.wait().expect("it has ended");
        *process = start::<DB>(name, &pool.url);
        killed += 1;
    }
    drop(processes);
    let sql = DB::sql("UPDATE atomically_hold SET expires_at = 1 WHERE confirmed_at IS NULL");
    DB::pool_execute(&pool, sql, &[]).await.expect("they expire");
    let holds = holds(&pool);
    let active = "SELECT COUNT(*) FROM atomically_hold WHERE confirmed_at IS NULL";
    crate::support::eventually(0, async || {
        // The transactions of the killed processes may be open for a moment.
        holds.sweep().await.expect("swept");
        ask(active).await
    })
    .await;
    assert_eq!(ask(TOTAL).await, EVENTS * SEATS);
    let (tickets, confirmed) = (
        ask("SELECT COUNT(*) FROM ticket").await,
        ask("SELECT COUNT(DISTINCT id) FROM atomically_hold WHERE confirmed_at IS NOT NULL").await,
    );
    println!("{name}: {killed} processes were killed, {tickets} holds were confirmed");
    assert_eq!((ask("SELECT COUNT(DISTINCT hold) FROM ticket").await, confirmed), (tickets, tickets));
    let late = ask("SELECT COUNT(*) FROM atomically_hold WHERE confirmed_at >= expires_at").await;
    assert_eq!(late, 0, "a hold was confirmed after it had expired");
    assert_eq!(
        ask("SELECT COUNT(*) FROM event WHERE seats < 0").await,
        0,
        "seats were sold that do not exist"
    );
    assert!(tickets > 10 && killed > 3, "{tickets} tickets, {killed} killed: the processes did little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    seats_are_accounted_for::<Postgres>("holds::postgres").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    seats_are_accounted_for::<MySql>("holds::mariadb").await;
}
