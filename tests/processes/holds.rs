//! Holds among processes that are killed: at every commit, what is in the rows, held and sold is what was put
//! into the rows.

use std::time::{Duration, Instant};

use atomically::holds::{Confirmation, HoldKey, HoldOutcome, Holds};
use atomically::{Pessimistic, TransactorExt as _, Tx};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::{MySql, Pool, Postgres, Sqlite};
use tokio::time::sleep;

use crate::storm::{Processes, database_of_this_process};
use crate::support::{TestBackend, at_one_moment};

const PROCESSES: usize = 4;
const TASKS: usize = 8;
const EVENTS: i64 = 3;
const SEATS: i64 = 2_000;
const STORM: Duration = Duration::from_secs(8);
/// A storm on a busy machine goes on until it has proved something, but not for longer.
const MAX_STORM: Duration = Duration::from_secs(90);
const MIN_TICKETS: i64 = 10;

const TABLES: [&str; 2] = [
    "CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL)",
    "CREATE TABLE ticket (hold BIGINT, seats BIGINT NOT NULL)",
];

/// Everything that was put into the rows.
const TOTAL: &str = "SELECT CAST((SELECT SUM(seats) FROM event) \
     + (SELECT COALESCE(SUM(amount), 0) FROM atomically_hold WHERE confirmed_at IS NULL) \
     + (SELECT COALESCE(SUM(seats), 0) FROM ticket) AS SIGNED)";

/// PostgreSQL adds up in each transaction, right before it commits: this sees what the transaction and all
/// earlier commits have stored.
const CHECKS_OF_COMMITS: [&str; 3] = [
    "CREATE TABLE violation (total BIGINT)",
    "CREATE SEQUENCE checks",
    "CREATE FUNCTION check_total() RETURNS trigger LANGUAGE plpgsql AS $$
     DECLARE found BIGINT;
     BEGIN
         found := (total);
         PERFORM nextval('checks');
         IF found <> 6000 THEN INSERT INTO violation VALUES (found); END IF;
         RETURN NULL;
     END $$",
];

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

fn sql_of<DB: TestBackend>(sql: &str) -> String {
    if DB::NAME == "MySQL" { sql.to_owned() } else { sql.replace("AS SIGNED", "AS BIGINT") }
}

async fn check_commits<DB: TestBackend>(pool: &Pool<DB>) {
    let total = sql_of::<DB>(TOTAL);
    let triggers = ["event", "ticket", "atomically_hold"].map(|table| {
        format!(
            "CREATE CONSTRAINT TRIGGER check_total AFTER INSERT OR UPDATE OR DELETE ON {table} \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_total()"
        )
    });
    let checks = CHECKS_OF_COMMITS.iter().map(|sql| sql.replace("(total);", &format!("({total});")));
    for sql in checks.chain(triggers) {
        DB::pool_execute(pool, DB::sql(&sql), &[]).await.expect("a check");
    }
}

async fn seats_are_accounted_for<DB: TestBackend>(name: &'static str)
where
    i64: HoldKey<DB>,
{
    let holds = |pool| Holds::<DB, i64>::on(pool, "event", "id", "seats");
    if let Some(url) = database_of_this_process() {
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
    let checks_commits = DB::NAME == "PostgreSQL";
    if checks_commits {
        check_commits(&pool.pool).await;
    }
    let ask =
        async |sql: &str| DB::pool_fetch(&pool, DB::sql(&sql_of::<DB>(sql)), &[]).await.expect("a number");
    let mut processes = Processes::start(name, &pool.url, PROCESSES);
    let (began, mut random, mut killed) = (Instant::now(), StdRng::seed_from_u64(7), 0);
    let tickets = async || ask("SELECT COUNT(*) FROM ticket").await;
    let checks = async || if checks_commits { ask("SELECT last_value FROM checks").await } else { i64::MAX };
    let proves = async |killed| killed > 3 && tickets().await > MIN_TICKETS && checks().await > 100;
    while began.elapsed() < STORM || (began.elapsed() < MAX_STORM && !proves(killed).await) {
        for _ in 0..random.random_range(2..8) {
            assert_eq!(at_one_moment(&pool, &sql_of::<DB>(TOTAL)).await, EVENTS * SEATS);
            sleep(Duration::from_millis(random.random_range(1..50))).await;
        }
        processes.replace(random.random_range(0..PROCESSES));
        killed += 1;
    }
    drop(processes);
    if checks_commits {
        let checks = checks().await;
        assert_eq!(ask("SELECT COUNT(*) FROM violation").await, 0, "of {checks} checks");
        assert!(checks > 100, "{checks} checks of commits");
    }
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
        tickets().await,
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
    assert!(
        tickets > MIN_TICKETS && killed > 3,
        "{tickets} tickets, {killed} killed: the processes did little"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    seats_are_accounted_for::<Postgres>("holds::postgres").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    seats_are_accounted_for::<MySql>("holds::mariadb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    seats_are_accounted_for::<Sqlite>("holds::sqlite").await;
}
