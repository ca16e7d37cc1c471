//! Holds that are taken, confirmed, released and swept by clients of different nodes: every commit of every
//! node leaves the seats accounted for, although no lock reaches another node.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use atomically::holds::{Confirmation, Hold, HoldOutcome, Holds};
use atomically::{Error, Options, Pessimistic, TransactorExt as _, Tx};
use rand::RngExt as _;
use sqlx::{MySql, MySqlConnection, Pool};
use tokio::time::{Instant, sleep};

use crate::support::at_one_moment;
use crate::{Database, all};

const CLIENTS_OF_A_NODE: usize = 3;
const EVENTS: i64 = 2;
const SEATS: i64 = 1_000;
const LOAD: Duration = Duration::from_secs(8);
/// A load on a busy machine goes on until it has proved something, but not for longer.
const MAX_LOAD: Duration = Duration::from_secs(60);
const MIN_TICKETS: i64 = 20;

const TABLES: [&str; 3] = [
    "CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL)",
    "CREATE TABLE ticket (hold BIGINT PRIMARY KEY)",
    "INSERT INTO event VALUES (1, 1000), (2, 1000)",
];

/// Everything that was put into the rows.
const TOTAL: &str = "SELECT CAST((SELECT SUM(seats) FROM event) \
     + (SELECT COALESCE(SUM(amount), 0) FROM atomically_hold WHERE confirmed_at IS NULL) \
     + (SELECT COUNT(*) FROM ticket) AS SIGNED)";

#[derive(Debug, Default)]
struct Load {
    bought: AtomicI64,
    released: AtomicU64,
    swept: AtomicU64,
    late: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    fn goes_on(&self, start: Instant) -> bool {
        let proves = self.bought.load(SeqCst) > MIN_TICKETS && self.swept.load(SeqCst) > 0;
        start.elapsed() < LOAD || (start.elapsed() < MAX_LOAD && !proves)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_are_accounted_for_at_each_commit_of_each_node() {
    let database = Database::with(&TABLES).await;
    holds(&database.pools[0]).create_tables().await.expect("the table of holds");
    database.catch_up().await;
    let load = Arc::new(Load::default());
    let clients = (0..database.pools.len() * CLIENTS_OF_A_NODE).map(|client| {
        let pool = |node: usize| database.pools[node % database.pools.len()].clone();
        trade(pool(client), pool(client + 1), load.clone())
    });
    let clients: Vec<_> = clients.collect();
    let others = database.pools.iter().cloned().map(|pool| sweep_and_add_up(pool, load.clone()));
    tokio::join!(all(clients), all(others));
    for pool in &database.pools {
        let expire = "UPDATE atomically_hold SET expires_at = 1 WHERE confirmed_at IS NULL";
        sqlx::query(expire).execute(pool).await.expect("they expire");
        database.catch_up().await;
        holds(pool).sweep().await.expect("swept");
        database.catch_up().await;
    }
    let (total, active, tickets, confirmed) = database.audited(read).await;
    println!("{load:?}");
    assert_eq!((total, active), (EVENTS * SEATS, 0), "{load:?}");
    assert_eq!((tickets, confirmed), (load.bought.load(SeqCst), tickets), "{load:?}");
    assert!(tickets > MIN_TICKETS && load.swept.load(SeqCst) > 0, "{load:?}");
}

fn holds(pool: &Pool<MySql>) -> Holds<MySql, i64> {
    Holds::on(pool, "event", "id", "seats").options(Options::new().attempts(1_000))
}

/// Holds through one node; buys, releases or forgets through another one.
async fn trade(pool: Pool<MySql>, other: Pool<MySql>, load: Arc<Load>) {
    let (here, there, start) = (holds(&pool), holds(&other), Instant::now());
    while load.goes_on(start) {
        let (event, action) = (rand::rng().random_range(1..=EVENTS), rand::rng().random_range(0..10));
        let ttl = Duration::from_millis(rand::rng().random_range(50..2_000));
        let outcome = match here.hold(event, 1, ttl).await {
            Ok(outcome) => outcome,
            Err(error) => {
                assert!(!error.is_commit_unknown(), "no node fails: {error}");
                load.failed.fetch_add(1, SeqCst);
                continue;
            }
        };
        let HoldOutcome::Held(hold) = outcome else { continue };
        if action < 2 {
            continue;
        }
        // The other node has the hold a moment later, unless it was swept by then.
        let mut found = None;
        while found.is_none() && load.goes_on(start) {
            found = there.find(hold.id(), hold.token()).await.expect("an answer");
            sleep(Duration::from_millis(2)).await;
        }
        match found {
            Some(hold) if action < 8 => buy(&other, &hold, &load).await,
            Some(hold) => match hold.release().await {
                Ok(released) => _ = load.released.fetch_add(u64::from(released), SeqCst),
                Err(_) => _ = load.failed.fetch_add(1, SeqCst),
            },
            None => {}
        }
    }
}

/// Twice, as a request that is repeated.
async fn buy(pool: &Pool<MySql>, hold: &Hold<MySql, i64>, load: &Load) {
    let db = Pessimistic::default().on(pool).attempts(1_000);
    for _ in 0..2 {
        let bought = db.run(async |tx: &mut Tx<MySql>| {
            let confirmation = hold.confirm_in(tx).await?;
            if confirmation == Confirmation::Confirmed {
                sqlx::query("INSERT INTO ticket VALUES (?)").bind(hold.id()).execute(&mut *tx).await?;
            }
            Ok::<_, Error>(confirmation)
        });
        match bought.await {
            Ok(Confirmation::Confirmed) => _ = load.bought.fetch_add(1, SeqCst),
            Ok(Confirmation::AlreadyConfirmed) => {}
            Err(error) if error.is_stale_claim() => _ = load.late.fetch_add(1, SeqCst),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn sweep_and_add_up(pool: Pool<MySql>, load: Arc<Load>) {
    let (holds, start) = (holds(&pool), Instant::now());
    while load.goes_on(start) {
        assert_eq!(at_one_moment(&pool, TOTAL).await, EVENTS * SEATS);
        let swept = holds.sweep().await.unwrap_or_default();
        load.swept.fetch_add(swept as u64, SeqCst);
        sleep(Duration::from_millis(10)).await;
    }
}

/// The total, the active holds, the tickets, and the holds that were confirmed in time.
async fn read(mut node: MySqlConnection) -> (i64, i64, i64, i64) {
    let active = "SELECT COUNT(*) FROM atomically_hold WHERE confirmed_at IS NULL";
    let confirmed = "SELECT COUNT(*) FROM atomically_hold WHERE confirmed_at < expires_at";
    let mut found = Vec::new();
    for sql in [TOTAL, active, "SELECT COUNT(*) FROM ticket", confirmed] {
        found.push(sqlx::query_scalar(sql).fetch_one(&mut node).await.expect(sql));
    }
    (found[0], found[1], found[2], found[3])
}
