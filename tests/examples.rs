//! The examples, as their users run them: built, from the outside.

mod support;

// What no run of the example can show, as long as the crate is right: that it would say so if it were not.
#[path = "../examples/flash_sale/report.rs"]
mod report;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atomically::queue::{NewJob, Queue};
use atomically::{Pessimistic, TransactorExt as _};
use report::{Offer, Outcome};

const STRATEGIES: [&str; 4] = ["pessimistic", "optimistic", "serializable", "atomic"];

/// Far more than any of them takes, and less than a CI job that hangs.
const LIMIT: Duration = Duration::from_secs(180);

#[derive(Debug)]
struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    took: Duration,
}

impl Finished {
    /// The number of seats that were sold according to the table.
    #[track_caller]
    fn sold(&self, strategy: &str) -> u64 {
        let mut lines = self.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|line| line.first() == Some(&strategy) && line.len() > 2);
        let line = line.unwrap_or_else(|| panic!("no line for {strategy}: {self:?}"));
        line[1].parse().unwrap_or_else(|_| panic!("no number for {strategy}: {self:?}"))
    }

    #[track_caller]
    fn sold_by_every_strategy(&self, seats: u64) {
        assert_eq!(self.code, Some(0), "{self:?}");
        for strategy in STRATEGIES {
            assert_eq!(self.sold(strategy), seats, "{strategy}: {self:?}");
        }
        assert!(self.stdout.contains(&format!("every strategy sold exactly {seats} seats.")), "{self:?}");
        assert_eq!(self.stderr, "", "progress bars are for terminals");
    }

    /// One line on stderr that says all of this, nothing on stdout, and exit code 2.
    #[track_caller]
    fn refused_with(&self, words: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(2), ""), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word} is not in {self:?}");
        }
    }
}

/// Cargo has built it next to this test, if not told to build this test alone.
fn built(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
    let path = profile.join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is not there: run `cargo build --examples` first", path.display());
    path
}

fn run(example: &str, arguments: &[&str]) -> Finished {
    let started = Instant::now();
    let mut child = Command::new(built(example))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the example");
    while child.try_wait().expect("wait for the example").is_none() {
        if started.elapsed() > LIMIT {
            child.kill().expect("stop the example");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = started.elapsed();
    let output = child.wait_with_output().expect("the example's output");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Finished { code: output.status.code(), stdout, stderr, took }
}

fn small_flash_sale(arguments: &[&str]) -> Finished {
    run("flash_sale", &[&["--buyers", "200", "--seats", "20"], arguments].concat())
}

#[test]
fn flash_sale_on_sqlite() {
    let sale = small_flash_sale(&[]);
    sale.sold_by_every_strategy(20);
    assert!(sale.sold("naive") >= 20, "naive does not oversell on every machine each time: {sale:?}");
    assert!(sale.sold("folklore") <= 20, "SQLite refuses to write after a stale read: {sale:?}");
}

/// Without this, the strategies' success would prove nothing. Where there is one core only, buyers may be lucky.
#[test]
fn flash_sale_oversells_without_the_crate() {
    let oversold =
        (0..20).any(|_| small_flash_sale(&["--strategy", "naive", "--pool", "32"]).sold("naive") > 20);
    assert!(oversold, "200 buyers never got into each other's way");
}

#[test]
fn flash_sale_on_postgres() {
    let sale = small_flash_sale(&["--database-url", &support::servers::postgres_url()]);
    sale.sold_by_every_strategy(20);
}

#[test]
fn flash_sale_on_mariadb() {
    let sale = small_flash_sale(&["--database-url", &support::servers::mysql_url()]);
    sale.sold_by_every_strategy(20);
}

#[test]
fn flash_sale_of_nothing_refuses_everybody() {
    let sale = run("flash_sale", &["--buyers", "50", "--seats", "0"]);
    sale.sold_by_every_strategy(0);
}

#[test]
fn flash_sale_with_fewer_buyers_than_seats() {
    let sale = run("flash_sale", &["--buyers", "10", "--seats", "20", "--strategy", "atomic"]);
    assert_eq!((sale.code, sale.sold("atomic")), (Some(0), 10), "{sale:?}");
    assert!(!sale.stdout.contains("naive"), "it was not asked for: {sale:?}");
}

#[test]
fn flash_sale_explains_bad_arguments_in_one_line() {
    run("flash_sale", &["--buyers", "0"]).refused_with(&["--buyers", "1..="]);
    run("flash_sale", &["--pool", "many"]).refused_with(&["--pool", "many"]);
    run("flash_sale", &["--strategy", "hope"]).refused_with(&["hope", "pessimistic", "atomic", "all"]);
    run("flash_sale", &["--nonsense"]).refused_with(&["--nonsense"]);
    run("flash_sale", &["--database-url", "here"]).refused_with(&["`here`", "postgres://"]);
}

#[test]
fn flash_sale_explains_an_unreachable_database_in_time() {
    for url in ["postgres://me:secret@127.0.0.1:1/x", "mysql://me:secret@127.0.0.1:1/x"] {
        let sale = run("flash_sale", &["--database-url", url]);
        sale.refused_with(&["cannot reach", "127.0.0.1:1/x"]);
        assert!(!sale.stderr.contains("secret"), "{sale:?}");
        assert!(sale.took < Duration::from_secs(10), "{sale:?}");
    }
    // One that takes connections and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("postgres://{}/x", mute.local_addr().expect("its address"));
    let sale = run("flash_sale", &["--database-url", &url]);
    sale.refused_with(&["cannot reach", "no answer within 5s"]);
    assert!(sale.took < Duration::from_secs(15), "{sale:?}");
}

#[test]
fn flash_sale_would_notice_a_broken_promise() {
    let offer = Offer { buyers: 30, seats: 20 };
    let right = Outcome {
        name: "some strategy".to_owned(),
        vouched_for: true,
        told_sold: 20,
        told_sold_out: 10,
        first_error: None,
        attempts: 40,
        seats_left: 0,
        tickets: 20,
        elapsed: Duration::from_secs(1),
        waits: vec![Duration::from_millis(1); 30],
    };
    let broken = |outcome: &Outcome| outcome.broken_promises(offer).join(" ");

    assert_eq!(broken(&right), "");
    assert!(
        broken(&Outcome { tickets: 21, told_sold: 21, told_sold_out: 9, ..right.clone() })
            .contains("oversold")
    );
    assert!(broken(&Outcome { tickets: 19, seats_left: 1, ..right.clone() }).contains("undersold"));
    assert!(broken(&Outcome { seats_left: 1, ..right.clone() }).contains("lost count"));
    assert!(broken(&Outcome { told_sold: 19, told_sold_out: 11, ..right.clone() }).contains("told 19"));
    let lost = Outcome { told_sold_out: 9, first_error: Some("out of luck".to_owned()), ..right.clone() };
    assert_eq!(broken(&lost), "some strategy lost 1 buyer, the first to: out of luck.");

    assert!(
        report::render(offer, std::slice::from_ref(&right))
            .ends_with("\n\nSome strategy sold exactly 20 seats.\n")
    );
    assert!(report::render(offer, &[right, lost]).contains("1 of 2 strategies broke a promise"));
}

#[test]
fn custom_strategy() {
    let example = run("custom_strategy", &[]);
    assert_eq!((example.code, example.stderr.as_str()), (Some(0), ""), "{example:?}");
    assert!(example.stdout.contains("the counter says 200"), "{example:?}");
}

/// The examples that tell a story, each with how the story ends.
const STORIES: [(&str, &str); 6] = [
    ("bank_transfer", "The bank held 1000 before, and holds 1000 now."),
    ("seat_booking", "no seat left, one ticket, for"),
    ("audit_trail", "payments 1 and 2, and one note."),
    ("order_stock", "orders 1, 3 and 4, and 3 of 10 left in stock."),
    ("job_worker", "each of 6 parcels once, and nothing by Ann or Bob."),
    ("outbox", "orders 1 and 3, and the warehouse has each of them once."),
];

#[track_caller]
fn stories_end_well(arguments: &[&str]) {
    for (example, ending) in STORIES {
        let told = run(example, arguments);
        assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""), "{example}: {told:?}");
        let last = told.stdout.lines().last().unwrap_or_default();
        assert!(last.contains(ending), "{example}: {told:?}");
    }
}

#[test]
fn stories_on_sqlite() {
    stories_end_well(&[]);
}

#[test]
fn stories_on_postgres() {
    stories_end_well(&["--database-url", &support::servers::postgres_url()]);
}

#[test]
fn stories_on_mariadb() {
    stories_end_well(&["--database-url", &support::servers::mysql_url()]);
}

#[tokio::test]
async fn stories_leave_no_table_behind() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let url = format!("sqlite://{}?mode=rwc", directory.path().join("stories.db").display());
    stories_end_well(&["--database-url", &url]);
    let pool = sqlx::SqlitePool::connect(&url).await.expect("open the database");
    let tables =
        sqlx::query_scalar::<_, String>("SELECT name FROM sqlite_master WHERE name <> 'sqlite_sequence'")
            .fetch_all(&pool)
            .await;
    assert_eq!(tables.expect("the tables"), [""; 0]);
}

#[tokio::test]
async fn stories_leave_the_queues_of_others_alone() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let url = format!("sqlite://{}?mode=rwc", directory.path().join("stories.db").display());
    let pool = sqlx::SqlitePool::connect(&url).await.expect("open the database");
    let queue = Queue::new("theirs", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    let enqueued =
        Pessimistic::default().on(&pool).run(async |tx| queue.enqueue(tx, NewJob::new(&1)?).await).await;
    assert!(enqueued.is_ok(), "{enqueued:?}");
    stories_end_well(&["--database-url", &url]);
    let queues = sqlx::query_scalar::<_, String>("SELECT queue FROM atomically_job").fetch_all(&pool).await;
    assert_eq!(queues.expect("the jobs"), ["theirs"]);
    assert_eq!(queue.claim(2).await.expect("a claim").len(), 1);
}

#[test]
fn stories_explain_what_keeps_them_from_beginning() {
    for (example, _) in STORIES {
        run(example, &["--nonsense"]).refused_with(&["--nonsense"]);
        run(example, &["--database-url", "here"]).refused_with(&["`here`", "postgres://"]);
        let unreachable = run(example, &["--database-url", "postgres://me:secret@127.0.0.1:1/x"]);
        unreachable.refused_with(&["cannot reach", "127.0.0.1:1/x"]);
        assert!(!unreachable.stderr.contains("secret"), "{unreachable:?}");
    }
}
