//! Skipping equivalent schedules skips no outcome.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use atomically::testing::{Client, explore};
use atomically::{Error, Isolation, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Postgres;

use crate::conformance::exploration::{Unguarded, all, database};
use crate::support::TestBackend as _;

const COUNTER: &str = "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)";
const READS: usize = 4;
const INCREMENTS: i64 = 3;

/// What the reader has seen, in order.
type Seen = [i64; READS];

async fn read(tx: &mut Tx<Postgres>) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    for seen in &mut seen {
        *seen = Postgres::fetch(tx, Postgres::sql("SELECT value FROM counter WHERE id = 1"), &[]).await?;
    }
    Ok(seen)
}

async fn increment(db: Client<'_, PoolTransactor<Postgres, Unguarded>>) -> Result<(), Error> {
    for _ in 0..INCREMENTS {
        db.run(async |tx: &mut Tx<Postgres>| {
            let query = Postgres::sql("UPDATE counter SET value = value + 1 WHERE id = 1");
            let done = Postgres::execute(tx, query, &[]).await?;
            tx.expect_one(done)
        })
        .await?;
    }
    Ok(())
}

/// Each statement of the reader sees what is committed by then: every sequence that does not decrease. An
/// exploration that took dependent steps for independent ones would find fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skipping_equivalent_schedules_hides_no_outcome() {
    let pool = database::<Postgres>(COUNTER, 2).await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    let outcomes: Arc<Mutex<BTreeSet<Seen>>> = Arc::default();
    let reader = {
        let outcomes = outcomes.clone();
        async move |tx: &mut Tx<Postgres>| {
            let seen = read(tx).await?;
            outcomes.lock().expect("no panic").insert(seen);
            Ok::<_, Error>(())
        }
    };
    let report = explore(&pool)
        .set_up(|pool| all(pool, &["DELETE FROM counter", "INSERT INTO counter VALUES (1, 0)"]))
        .unit("reader", &db, reader)
        .client("writer", &db, increment)
        .skip_equivalent()
        .run()
        .await
        .expect("explored");
    report.assert_passes();
    assert!(report.complete && report.schedules < 1_000, "{report}");
    println!("{} schedules", report.schedules);
    let outcomes = outcomes.lock().expect("no panic");
    assert!(outcomes.iter().all(|seen| seen.is_sorted()), "{outcomes:?}");
    assert_eq!(outcomes.len(), 35, "4 values over 0 to 3 that do not decrease: 7 over 3; {report}");
}
