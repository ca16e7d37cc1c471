//! Client instructions per transaction, of this crate and of the same transaction in sqlx.
//!
//! `taskset -c 0 cargo bench -p benches --bench instructions`. PostgreSQL is `ATOMICALLY_POSTGRES_URL`, or a
//! private server that is started for it. Needs valgrind, whose callgrind counts the instructions.
//!
//! On one processor, and as a user who may call `chrt`, the counts repeat, but for an occasional outlier: the
//! client has precedence over the server, so it waits for nearly every response. Otherwise they vary by a tenth
//! and more, because waiting for a response costs more than finding it there. Two things are not what they
//! seem:
//!
//! - Instructions of the server and of the kernel are not counted.
//! - Copies of more than some KiB use `rep movsb`, which counts as one instruction per byte.
//!
//! Each contender runs in a process of its own, with 100 transactions and with 600, so that the difference
//! holds neither its start nor the preparation of statements.

use std::process::Command;

use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres, Row as _};

/// The rounds in which the contenders take turns.
const ROUNDS: usize = 3;

/// The transactions of the two processes of a turn.
const TRANSACTIONS: [u64; 2] = [100, 600];

const LOCK: &str = "SELECT id, balance FROM account WHERE id IN ($1, $2) ORDER BY id FOR NO KEY UPDATE";
const UPDATE: &str = "UPDATE account SET balance = $1 WHERE id = $2";
const SELECT_KEYS: &str = "SELECT id FROM account WHERE id IN ($1, $2) ORDER BY id FOR NO KEY UPDATE";

/// Each contender, and the one that it is compared with.
const CONTENDERS: [(&str, &str); 6] = [
    ("sqlx", "sqlx"),
    ("sqlx, tested connections", "sqlx"),
    ("atomically, reused connections", "sqlx"),
    ("atomically", "sqlx"),
    ("SELECT in a unit", "SELECT in a unit"),
    ("lock_rows", "SELECT in a unit"),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--contender") {
        let transactions = arguments[at + 2].parse().expect("a number of transactions");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        return runtime.expect("a runtime").block_on(run(&arguments[at + 1], transactions));
    }
    let url = test_servers::postgres_url();
    let mut rounds = CONTENDERS.map(|(contender, _)| (contender, Vec::new()));
    for _ in 0..ROUNDS {
        for (contender, counts) in &mut rounds {
            let [few, many] = TRANSACTIONS.map(|transactions| instructions(&url, contender, transactions));
            counts.push((many - few) / (TRANSACTIONS[1] - TRANSACTIONS[0]));
        }
    }
    let counts = rounds.map(|(contender, mut counts)| {
        counts.sort_unstable();
        (contender, counts[ROUNDS / 2])
    });
    println!("{:32} {:>12} {:>6}", "", "instructions", "ratio");
    for ((contender, count), (_, base)) in counts.iter().zip(CONTENDERS) {
        let (_, base) = counts.iter().find(|(other, _)| *other == base).expect("a contender");
        println!("{contender:32} {count:12} {:6.2}", *count as f64 / *base as f64);
    }
}

const URL: &str = "ATOMICALLY_POSTGRES_URL";

/// Counts the instructions of a process that runs this many transactions.
fn instructions(url: &str, contender: &str, transactions: u64) -> u64 {
    const PRECEDENCE: &[&str] = &["chrt", "--fifo", "10"];
    let tried = Command::new("env").args(PRECEDENCE).arg("true").output();
    let may_precede = tried.is_ok_and(|output| output.status.success());
    let output = Command::new("env")
        .args(if may_precede { PRECEDENCE } else { &[] })
        .args(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("the path of this program"))
        .args(["--contender", contender, &transactions.to_string()])
        .env(URL, url)
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{contender} failed: {report}");
    let collected = report.lines().find_map(|line| line.split_once("Collected : "));
    collected.and_then(|(_, count)| count.trim().parse().ok()).expect("a report of callgrind")
}

async fn run(contender: &str, transactions: u64) {
    let url = std::env::var(URL).expect("the address of the server");
    let tests = contender == "sqlx, tested connections";
    let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(tests);
    let pool = pool.connect(&url).await.expect("a connection");
    stock(&pool).await.expect("two accounts");
    let db = Pessimistic::default().on(&pool);
    match contender {
        "sqlx" | "sqlx, tested connections" => {
            for _ in 0..transactions {
                by_hand(&pool).await.expect("a transfer");
            }
        }
        "atomically" => transfers(&db, transactions).await,
        "atomically, reused connections" => transfers(&db.reuse_connections(), transactions).await,
        "SELECT in a unit" => lock_keys(&db, transactions, false).await.expect("locks"),
        "lock_rows" => lock_keys(&db, transactions, true).await.expect("locks"),
        unknown => panic!("no such contender: {unknown}"),
    }
}

async fn stock(pool: &PgPool) -> Result<(), sqlx::Error> {
    let table = "CREATE TABLE IF NOT EXISTS account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)";
    sqlx::query(table).execute(pool).await?;
    let rows = "INSERT INTO account VALUES (1, 0), (2, 0) ON CONFLICT DO NOTHING";
    sqlx::query(rows).execute(pool).await.map(drop)
}

async fn by_hand(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    let rows = sqlx::query(LOCK).bind(1_i64).bind(2_i64).fetch_all(&mut *tx).await?;
    let (from, to): (i64, i64) = (rows[0].get(1), rows[1].get(1));
    sqlx::query(UPDATE).bind(from - 1).bind(1_i64).execute(&mut *tx).await?;
    sqlx::query(UPDATE).bind(to + 1).bind(2_i64).execute(&mut *tx).await?;
    tx.commit().await
}

async fn transfers(db: &PoolTransactor<Postgres, Pessimistic>, transactions: u64) {
    for _ in 0..transactions {
        let transfer = db.run(async |tx: &mut Tx<Postgres>| {
            let rows = sqlx::query(LOCK).bind(1_i64).bind(2_i64).fetch_all(&mut *tx).await?;
            let (from, to): (i64, i64) = (rows[0].get(1), rows[1].get(1));
            sqlx::query(UPDATE).bind(from - 1).bind(1_i64).execute(&mut *tx).await?;
            sqlx::query(UPDATE).bind(to + 1).bind(2_i64).execute(&mut *tx).await?;
            Ok::<_, Error>(())
        });
        transfer.await.expect("a transfer");
    }
}

/// Locks two rows again and again, in one transaction.
async fn lock_keys(
    db: &PoolTransactor<Postgres, Pessimistic>,
    transactions: u64,
    lock_rows: bool,
) -> Result<(), Error> {
    db.run(async |tx: &mut Tx<Postgres>| {
        for _ in 0..transactions {
            if lock_rows {
                tx.lock_rows("account", "id", &[1_i64, 2]).await?;
            } else {
                let keys = sqlx::query_scalar::<_, i64>(SELECT_KEYS).bind(1_i64).bind(2_i64);
                keys.fetch_all(&mut *tx).await?;
            }
        }
        Ok(())
    })
    .await
}
