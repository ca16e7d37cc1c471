//! Ordered and limited jobs beside unordered ones, with many keys.
//!
//! `cargo bench -p benches --bench queue -- keys [postgres] [mariadb] [sqlite]`; without a name, PostgreSQL.
//! The kinds of jobs have tables of their own and take turns, so that other load on the machine affects them
//! alike. Each turn gives a ratio to unordered jobs. Tables that an earlier run has filled, on a server that
//! is still there, are used again.

use std::time::{Duration, Instant};

use atomically::queue::{Claim, NewJob, Queue, complete_all_in};
use atomically::{Backend, Options, Pessimistic, PoolTransactor, Schema, TransactorExt as _};
use sqlx::Pool;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;

const TURNS: usize = 21;
const JOBS_PER_KEY: usize = 10;
const LIMIT: u32 = 3;
/// The number of jobs of a batch, and of batches and of single jobs in a turn.
const BATCH: usize = 100;
const BATCHES: usize = 10;
const SINGLES: usize = 300;

/// The steps that a turn measures.
const STEPS: [&str; 4] =
    ["claim, 1 at a time", "claim, 100 at a time", "complete, 1 at a time", "complete, 100 at a time"];

/// A kind of jobs: its name, the prefix of its tables, and a job with this number and key.
type Kind = (&'static str, &'static str, fn(NewJob, String) -> NewJob);

const KINDS: [Kind; 3] = [
    ("unordered", "unordered_", |job, _| job),
    ("ordered", "ordered_", |job, key| job.in_order_of(key).expect("a key")),
    ("at most 3", "limited_", |job, key| job.at_most(key, LIMIT).expect("a key")),
];

pub(super) async fn compare() {
    let names: Vec<_> = std::env::args().collect();
    let is_wanted = |name: &str| names.iter().any(|argument| argument == name);
    let is_only_postgres = !is_wanted("mariadb") && !is_wanted("sqlite");
    if is_wanted("postgres") || is_only_postgres {
        let url = test_servers::postgres_url();
        let pool = PgPoolOptions::new().max_connections(4).connect(&url).await.expect("PostgreSQL");
        let contenders = fill_all(&pool, 100_000).await;
        sqlx::query("VACUUM ANALYZE").execute(&pool).await.expect("clean");
        take_turns("PostgreSQL, a million jobs of 100 000 keys", &contenders).await;
    }
    if is_wanted("mariadb") {
        let url = test_servers::mysql_url();
        let pool = MySqlPoolOptions::new().max_connections(4).connect(&url).await.expect("MariaDB");
        let contenders = fill_all(&pool, 20_000).await;
        take_turns("MariaDB, 200 000 jobs of 20 000 keys", &contenders).await;
    }
    if is_wanted("sqlite") {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pool = super::sqlite(directory.path()).await;
        let contenders = fill_all(&pool, 20_000).await;
        take_turns("SQLite, 200 000 jobs of 20 000 keys", &contenders).await;
    }
}

struct Contender<DB: Backend> {
    queue: Queue<DB>,
    db: PoolTransactor<DB, Pessimistic>,
}

async fn fill_all<DB: Backend>(pool: &Pool<DB>, keys: usize) -> Vec<Contender<DB>> {
    let mut contenders = Vec::new();
    for (name, prefix, job) in KINDS {
        let schema = Schema::prefixed(prefix).expect("a prefix");
        let options = Options::new().schema(schema).deadline(Duration::from_secs(60));
        let queue = Queue::new("bench", pool).expect("a name").options(options.clone());
        let queue = queue.reuse_connections().persistent(true);
        queue.create_tables().await.expect("the tables");
        let db = Pessimistic::default().on(pool).reuse_connections().options(options);
        contenders.push(Contender { queue: queue.clone(), db: db.clone() });
        if queue.counts().await.expect("the counts").due > 0 {
            continue;
        }
        let started = Instant::now();
        let numbers: Vec<_> = (0..keys * JOBS_PER_KEY).collect();
        for numbers in numbers.chunks(1_000) {
            let new = |n: &usize| job(NewJob::new(n).expect("a payload"), format!("key {}", n % keys));
            let jobs: Vec<_> = numbers.iter().map(new).collect();
            db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
        }
        super::report(&format!("{name}: enqueue, 1000 in a transaction"), numbers.len(), started.elapsed());
    }
    contenders
}

/// Reports the medians of the rates, and of the ratios to unordered jobs of the same turn with their ranges.
async fn take_turns<DB: Backend>(what: &str, contenders: &[Contender<DB>]) {
    let mut turns = Vec::new();
    for turn in 0..=TURNS {
        let mut of_turn = Vec::new();
        for contender in contenders {
            of_turn.push(contender.turn().await);
        }
        // The first turn is the warm-up.
        if turn > 0 {
            turns.push(of_turn);
        }
    }
    println!("{what}; medians of {TURNS} turns, the ratios with quartiles");
    for (step, name) in STEPS.iter().enumerate() {
        for (kind, (kind_name, ..)) in KINDS.iter().enumerate() {
            let times = turns.iter().map(|turn| turn[kind][step].as_secs_f64());
            let ratios = turns.iter().map(|turn| turn[kind][step].div_duration_f64(turn[0][step]));
            let [_, time, _] = quartiles(times.collect());
            let [low, ratio, high] = quartiles(ratios.collect());
            let micros = time * 1e6;
            println!("  {name:<24} {kind_name:<10} {micros:>7.0} us  {ratio:>5.2} ({low:.2} to {high:.2})");
        }
    }
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

impl<DB: Backend> Contender<DB> {
    /// Returns the time per job, or per batch, of each step.
    async fn turn(&self) -> [Duration; STEPS.len()] {
        let mut singles: Vec<Claim<DB>> = Vec::new();
        let started = Instant::now();
        for _ in 0..SINGLES {
            singles.extend(self.queue.claim(1).await.expect("a claim"));
        }
        let claiming = started.elapsed() / SINGLES as u32;
        assert_eq!(singles.len(), SINGLES, "each claim finds a job");
        let (mut batch_claiming, mut batch_completing) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..BATCHES {
            let started = Instant::now();
            let claims = self.queue.claim(BATCH).await.expect("a claim");
            batch_claiming += started.elapsed() / BATCHES as u32;
            assert_eq!(claims.len(), BATCH);
            let started = Instant::now();
            self.db.run(async |tx| complete_all_in(tx, &claims).await).await.expect("a commit");
            batch_completing += started.elapsed() / BATCHES as u32;
        }
        let started = Instant::now();
        for claim in singles {
            claim.complete().await.expect("complete");
        }
        [claiming, batch_claiming, started.elapsed() / SINGLES as u32, batch_completing]
    }
}
