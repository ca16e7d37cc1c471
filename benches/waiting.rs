//! The memory of a run that waits, for a connection or at the gate.
//!
//! `cargo bench -p benches --bench waiting`, on Linux. PostgreSQL is `ATOMICALLY_POSTGRES_URL`, or a private
//! server that is started for it.
//!
//! Prints by how much the resident memory of a process grows for each of 10 000 runs that begin to wait. This
//! includes what the pool of sqlx needs for its part of the wait, and not the task of each run. Each figure
//! comes from a process of its own.

use std::process::Command;

use atomically::{Error, Pessimistic, PoolTransactor, Serializable, Strategy, TransactorExt as _, Tx};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres};

/// The runs that wait at the same time.
const RUNS: usize = 10_000;

/// Where they wait, and under which strategy.
const WAITS: [[&str; 2]; 4] = [
    ["for a connection", "Pessimistic"],
    ["for a connection", "Serializable"],
    ["at the gate", "Pessimistic"],
    ["at the gate", "Serializable"],
];

const URL: &str = "ATOMICALLY_POSTGRES_URL";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--wait") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let bytes = measure(&arguments[at + 1], &arguments[at + 2]);
        return println!("{}", runtime.expect("a runtime").block_on(bytes));
    }
    let url = test_servers::postgres_url();
    println!("{:32} {:>6}", "a run that waits", "bytes");
    for [place, strategy] in WAITS {
        let mut program = Command::new(std::env::current_exe().expect("the path of this program"));
        let output = program.args(["--wait", place, strategy]).env(URL, &url).output().expect("a process");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = String::from_utf8_lossy(&output.stdout);
        println!("{:32} {:>6}", format!("{place}, {strategy}"), bytes.trim());
    }
}

async fn measure(place: &str, strategy: &str) -> usize {
    let url = std::env::var(URL).expect("the address of the server");
    let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("a connection");
    let at_gate = place == "at the gate";
    match strategy {
        "Pessimistic" => bytes_of_waiting(&pool, &Pessimistic::default().on(&pool), at_gate).await,
        "Serializable" => bytes_of_waiting(&pool, &Serializable::default().on(&pool), at_gate).await,
        unknown => panic!("no such strategy: {unknown}"),
    }
}

async fn bytes_of_waiting<S: Strategy>(
    pool: &PgPool,
    db: &PoolTransactor<Postgres, S>,
    at_gate: bool,
) -> usize {
    let _the_only_one = pool.acquire().await.expect("a connection");
    let mut runs = Vec::with_capacity(RUNS);
    let before = resident_bytes();
    for key in 0..RUNS {
        let db = db.on_key(if at_gate { 0 } else { key });
        let mut run = Box::pin(async move { db.run(async |_: &mut Tx<Postgres>| Ok::<_, Error>(())).await });
        assert!(futures_util::poll!(&mut run).is_pending());
        runs.push(run);
    }
    (resident_bytes() - before) / RUNS
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    kilobytes.and_then(|kilobytes| kilobytes.trim().parse::<usize>().ok()).expect("a number") * 1024
}
