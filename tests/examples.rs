//! Runs the examples as their users do.

use std::path::PathBuf;
use std::process::Command;

use test_servers::program::{self, Finished};

/// The examples on embedded SQLite, each with its last line.
const ON_SQLITE: [(&str, &str); 12] = [
    ("audit_trail", "Stored are payments 1 and 2, and a note about payment 1."),
    ("bank_transfer", "The total is still 500."),
    ("counters", "Nothing is left in stock."),
    ("custom_strategy", "the counter says 200."),
    ("external_call", "Order 1 is shipped, and order 2 stays cancelled."),
    ("hot_rows", "Sold are 50 and 400: no sale is lost."),
    ("job_worker", "Each of 4 parcels is posted once, and none by Ann."),
    ("last_seat_version", "One ticket is stored, for "),
    ("on_call", "One doctor stays on call."),
    ("order_stock", "One mail about each is sent, and 3 of 10 are left in stock."),
    ("outbox", "The warehouse has orders 1 and 2, once each."),
    ("unique_jobs", "One job is left, for the last change."),
];

/// Those that need PostgreSQL.
const ON_POSTGRES: [(&str, &str); 5] = [
    ("advisory_lock", "Two processes start the nightly job, and one of them runs it."),
    ("last_seat_lock", "One ticket is stored, for "),
    ("row_locks", "Lock timeout: the request for seat 1 fails after 200 ms: "),
    ("snapshot_report", "At REPEATABLE READ, it finds 200, although 10 were moved meanwhile."),
    ("two_round_trips", "The total is still 400."),
];

/// Cargo builds it next to this test, unless this test is the only target.
fn run(example: &str, database_url: Option<&str>) -> Finished {
    run_with(example, &[], database_url)
}

fn run_with(example: &str, arguments: &[&str], database_url: Option<&str>) -> Finished {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
    let path = profile.join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is missing: run `cargo build --examples` first", path.display());
    let mut command = Command::new(path);
    command
        .args(arguments)
        .env("RUST_BACKTRACE", "0")
        .env_remove("DATABASE_URL")
        .envs(database_url.map(|url| ("DATABASE_URL", url)));
    program::run(&mut command)
}

#[track_caller]
fn ends_with(example: &str, database_url: Option<&str>, ending: &str) {
    let run = run(example, database_url);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{example}: {run:?}");
    let last = run.stdout.lines().last().unwrap_or_default();
    assert!(last.contains(ending), "{example}: {run:?}");
}

#[test]
fn examples_on_sqlite_succeed() {
    for (example, ending) in ON_SQLITE {
        ends_with(example, None, ending);
    }
}

/// It has several files, because it runs on any database.
#[test]
fn the_advisor_succeeds_on_sqlite() {
    ends_with("advisor", None, "Recommended: sell: ");
}

/// It has several files, because it has arguments and a progress bar.
#[test]
fn the_certification_succeeds_on_sqlite() {
    ends_with("certify", None, "The server does what this crate relies on.");
}

/// On each database, all seats are sold, and only those who have one have paid.
#[tokio::test]
async fn the_ticket_checkout_sells_exactly_on_every_database() {
    const SOLD: &str = "Sold are 200 of 200 seats, and 200 payments were captured.";
    ends_with("ticket_checkout", None, SOLD);
    for url in [test_servers::postgres_url(), test_servers::mysql_url()] {
        let run = run_with("ticket_checkout", &["--database-url", &url], None);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
        assert!(run.stdout.lines().last().unwrap_or_default().contains(SOLD), "{run:?}");
        assert!(!run.stdout.contains("\n0 paid too late"), "nobody was late: {run:?}");
    }
}

#[tokio::test]
async fn examples_on_postgres_succeed_and_leave_nothing_behind() {
    let url = test_servers::postgres_url();
    for (example, ending) in ON_POSTGRES {
        ends_with(example, Some(&url), ending);
    }
    let pool = sqlx::PgPool::connect(&url).await.expect("connect to PostgreSQL");
    let schemas = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'example%'";
    let schemas = sqlx::query_scalar::<_, String>(schemas).fetch_all(&pool).await;
    assert_eq!(schemas.expect("the schemas"), [""; 0]);
}

#[test]
fn examples_on_postgres_ask_for_the_url() {
    for (example, _) in ON_POSTGRES {
        let run = run(example, None);
        assert_eq!(run.code, Some(1), "{example}: {run:?}");
        assert!(run.stderr.contains("set DATABASE_URL to a PostgreSQL database"), "{example}: {run:?}");
    }
}

/// Each example is run by a test, is short enough to be read on one page, and shows its `main`.
#[test]
fn every_example_is_tested_and_can_be_pasted() {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"));
    let mut found = Vec::new();
    for entry in directory.read_dir().expect("the examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("an example");
            assert!(text.lines().count() <= 110, "{} is too long", path.display());
            assert!(text.contains("async fn main()"), "{} has no main function", path.display());
            assert!(!text.lines().any(|line| line.starts_with("mod ")), "{} has modules", path.display());
            found.push(path.file_stem().expect("a name").to_string_lossy().into_owned());
        }
    }
    found.sort();
    let mut tested: Vec<_> =
        ON_SQLITE.iter().chain(&ON_POSTGRES).map(|(example, _)| example.to_string()).collect();
    tested.sort();
    assert_eq!(found, tested);
}
