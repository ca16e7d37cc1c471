//! Requests with keys of their own that lock a common row when they claim their key. A client of another node
//! changes that row, so some changes hit a claim in progress.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
use atomically::{Error, Pessimistic};
use sqlx::{MySql, MySqlConnection, Pool};
use tokio::time::Instant;

use crate::{Database, all};

const CLIENTS_OF_A_NODE: usize = 4;
const LOAD: Duration = Duration::from_secs(8);
/// A load on a busy machine goes on until there were enough conflicts, but not for longer.
const MAX_LOAD: Duration = Duration::from_secs(60);
const CONFLICTS: u64 = 100;

const TABLES: [&str; 2] = [
    "CREATE TABLE counter (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)",
    "CREATE TABLE payment (n BIGINT AUTO_INCREMENT PRIMARY KEY, request BIGINT NOT NULL)",
];

/// Each key refers to the row, and thereby locks it.
const REFER: &str = "ALTER TABLE atomically_key ADD COLUMN counter BIGINT NOT NULL DEFAULT 1,
    ADD FOREIGN KEY (counter) REFERENCES counter (id)";

#[derive(Default)]
struct Load {
    next: AtomicI64,
    attempts: AtomicU64,
}

impl Load {
    fn goes_on(&self, start: Instant) -> bool {
        let conflicts = self.attempts.load(SeqCst).saturating_sub(self.next.load(SeqCst).unsigned_abs());
        start.elapsed() < LOAD || (start.elapsed() < MAX_LOAD && conflicts <= 2 * CONFLICTS)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_whose_claims_conflict_have_one_effect() {
    let database = Database::with(&TABLES).await;
    let pool = &database.pools[0];
    Pessimistic::default().on(pool).create_key_table().await.expect("the table of keys");
    for sql in ["INSERT INTO counter VALUES (1, 0)", REFER] {
        sqlx::raw_sql(sql).execute(pool).await.expect(sql);
    }
    database.catch_up().await;
    let load = Arc::new(Load::default());
    let pools = database.pools.iter().flat_map(|pool| std::iter::repeat_n(pool, CLIENTS_OF_A_NODE));
    let others: Vec<_> = database.pools.iter().map(|pool| change(pool.clone(), load.clone())).collect();
    let others = tokio::spawn(all(others));
    let outcomes = all(pools.map(|pool| client(pool.clone(), load.clone()))).await;
    let changes: u64 = others.await.expect("no panic").into_iter().sum();
    let (count, payments) = database.audited(read).await;

    let outcomes: Vec<_> = outcomes.into_iter().flatten().collect();
    let paid = |request: &i64| payments.get(request).copied().unwrap_or_default();
    let acknowledged: Vec<i64> =
        outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(request, _)| *request).collect();
    let lost = acknowledged.iter().filter(|request| paid(request) == 0).count();
    let twice = payments.values().filter(|times| **times > 1).count();
    let errors: Vec<_> =
        outcomes.iter().filter_map(|(request, outcome)| Some((request, outcome.as_ref().err()?))).collect();
    let stored = errors.iter().filter(|(request, _)| paid(request) > 0).count();
    let attempts = load.attempts.load(SeqCst);
    let report = format!(
        "of {} acknowledged requests {lost} have no payment; {twice} were paid several times; {} ended with \
         an error, and {stored} of them were paid ({:?}); {count} claims are stored; {attempts} payments \
         were begun, and the row was changed {changes} times",
        acknowledged.len(),
        errors.len(),
        errors.first().map(|(_, error)| error.to_string()),
    );
    println!("{report}");
    assert!(attempts > acknowledged.len() as u64 + CONFLICTS, "there were few conflicts: {report}");
    let is_right = lost == 0 && twice == 0 && errors.is_empty() && count == acknowledged.len() as i64;
    assert!(is_right, "{report}");
}

async fn client(pool: Pool<MySql>, load: Arc<Load>) -> Vec<(i64, Result<(), Error>)> {
    let (start, mut outcomes) = (Instant::now(), Vec::new());
    while load.goes_on(start) {
        let request = load.next.fetch_add(1, SeqCst);
        outcomes.push((request, pay(&pool, &load, request).await));
    }
    outcomes
}

async fn pay(pool: &Pool<MySql>, load: &Load, request: i64) -> Result<(), Error> {
    let key = IdempotencyKey::new("payments", request.to_string()).expect("a key");
    let db = Pessimistic::default().on(pool).attempts(10_000);
    let attempts = &load.attempts;
    let once = db.once(&key);
    let outcome = once.run(async |tx| {
        attempts.fetch_add(1, SeqCst);
        sqlx::query("INSERT INTO payment (request) VALUES (?)").bind(request).execute(&mut *tx).await?;
        Ok::<_, Error>(request)
    });
    assert_eq!(outcome.await?, Outcome::Fresh(request), "the key is unique");
    Ok(())
}

/// Changes the row that the claims refer to, and returns the number of changes.
async fn change(pool: Pool<MySql>, load: Arc<Load>) -> u64 {
    let (start, mut changes) = (Instant::now(), 0);
    while load.goes_on(start) {
        let change = sqlx::query("UPDATE counter SET n = n + 1 WHERE id = 1").execute(&pool);
        changes += u64::from(change.await.is_ok());
    }
    changes
}

/// The number of claims, and how often each request was paid.
async fn read(mut node: MySqlConnection) -> (i64, BTreeMap<i64, i64>) {
    let count = sqlx::query_scalar("SELECT COUNT(*) FROM atomically_key")
        .fetch_one(&mut node)
        .await
        .expect("the count");
    let payments = "SELECT request, COUNT(*) FROM payment GROUP BY request";
    let payments: Vec<(i64, i64)> =
        sqlx::query_as(payments).fetch_all(&mut node).await.expect("the payments");
    (count, payments.into_iter().collect())
}
