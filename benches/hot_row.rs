//! Decrements of one row, and of a thousand: coalesced, as holds, and by pgbench, side by side.
//!
//! `cargo bench -p benches --bench hot_row`. PostgreSQL is a private server that is started for it, whose
//! commits wait for the disk, and pgbench belongs to the same installation. The contenders take turns, so
//! that other load on the machine affects them alike, and the medians of the turns are compared.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atomically::holds::{HoldOutcome, Holds};
use atomically::{DeltaOutcome, Deltas};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const TURNS: usize = 5;
const TURN: Duration = Duration::from_secs(2);
const ROWS: i64 = 1000;
const STOCK: i64 = 1_000_000_000_000;
const CONNECTIONS: u32 = 16;

#[derive(Debug, Clone, Copy)]
enum Contender {
    /// One prepared `UPDATE`, on this many connections.
    Pgbench { clients: u32 },
    /// This many tasks, with this many batches in flight at a time.
    Coalesced { callers: u64, flights: usize },
    /// This many tasks, each of which takes one at a time for ten minutes.
    Held { callers: u64 },
}

use Contender::{Coalesced, Held, Pgbench};

const CONTENDERS: [Contender; 8] = [
    Pgbench { clients: CONNECTIONS },
    Pgbench { clients: 1 },
    Coalesced { callers: 64, flights: 1 },
    Coalesced { callers: 64, flights: 2 },
    Held { callers: 64 },
    Coalesced { callers: 256, flights: 1 },
    Coalesced { callers: 256, flights: 2 },
    Held { callers: 256 },
];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let server = test_servers::Server::durable_postgres();
    let url = server.url().to_owned();
    let pool = runtime.block_on(stocked(&url));
    for rows in [1, ROWS] {
        println!("\n{rows} row(s): decrements per second, the median of {TURNS} turns");
        let mut rates = vec![Vec::new(); CONTENDERS.len()];
        for _ in 0..TURNS {
            for (contender, rates) in CONTENDERS.iter().zip(&mut rates) {
                rates.push(match *contender {
                    Pgbench { clients } => pgbench(&url, clients, rows),
                    Coalesced { callers, flights } => coalesced(&runtime, &pool, callers, flights, rows),
                    Held { callers } => held(&runtime, &pool, callers, rows),
                });
            }
        }
        let medians: Vec<f64> = rates.into_iter().map(median).collect();
        for (contender, rate) in CONTENDERS.iter().zip(&medians) {
            let ratio = rate / medians[0];
            println!("  {:<45} {rate:>9.0}   {ratio:>6.1} times pgbench", format!("{contender:?}"));
        }
    }
}

async fn stocked(url: &str) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await.expect("PostgreSQL");
    for sql in [
        "DROP TABLE IF EXISTS product".to_owned(),
        "CREATE TABLE product (id BIGINT PRIMARY KEY, stock BIGINT NOT NULL) WITH (fillfactor = 50)"
            .to_owned(),
        format!("INSERT INTO product SELECT n, {STOCK} FROM generate_series(1, {ROWS}) AS n"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.expect("set up");
    }
    pool
}

fn pgbench(url: &str, clients: u32, rows: i64) -> f64 {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let script = directory.path().join("decrement.sql");
    let update = "UPDATE product SET stock = stock - 1 WHERE id = :id AND stock >= 1;";
    std::fs::write(&script, format!("\\set id random(1, {rows})\n{update}\n")).expect("a script");
    let mut pgbench = Command::new(test_servers::pgbench());
    pgbench.args(["--no-vacuum", "--protocol=prepared", "--jobs=2"]);
    pgbench.arg(format!("--client={clients}")).arg(format!("--time={}", TURN.as_secs()));
    let output = pgbench.arg("--file").arg(&script).arg(url).output().expect("pgbench runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

fn coalesced(runtime: &Runtime, pool: &PgPool, callers: u64, flights: usize, rows: i64) -> f64 {
    let stock =
        Deltas::on(pool, "product", "id", "stock").reuse_connections().at_least(0).max_batches(flights);
    called(runtime, callers, rows, move |id| {
        let stock = stock.clone();
        async move {
            let outcome = stock.add(id, -1).await.expect("a commit");
            assert!(matches!(outcome, DeltaOutcome::Applied { .. }), "{outcome:?}");
        }
    })
}

fn held(runtime: &Runtime, pool: &PgPool, callers: u64, rows: i64) -> f64 {
    let stock = Holds::on(pool, "product", "id", "stock").reuse_connections();
    runtime.block_on(async {
        stock.create_tables().await.expect("the table");
        sqlx::query("TRUNCATE atomically_hold").execute(pool).await.expect("emptied");
    });
    called(runtime, callers, rows, move |id| {
        let stock = stock.clone();
        async move {
            let outcome = stock.hold(id, 1, Duration::from_secs(600)).await.expect("a commit");
            assert!(matches!(outcome, HoldOutcome::Held(_)), "{outcome:?}");
        }
    })
}

/// Calls from this many tasks for a turn, and returns the calls per second.
fn called<F>(
    runtime: &Runtime,
    callers: u64,
    rows: i64,
    call: impl Fn(i64) -> F + Clone + Send + 'static,
) -> f64
where
    F: Future<Output = ()> + Send,
{
    let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let started = Instant::now();
        for caller in 0..callers {
            let (call, done, over) = (call.clone(), done.clone(), over.clone());
            tasks.spawn(async move {
                let mut chance = caller + 1;
                while !over.load(Ordering::Relaxed) {
                    // Good enough to spread calls over rows.
                    chance = chance
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let id = (chance >> 33) as i64 % rows + 1;
                    call(id).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        tokio::time::sleep(TURN).await;
        over.store(true, Ordering::Relaxed);
        while let Some(task) = tasks.join_next().await {
            task.expect("no panic");
        }
        done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
    })
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
