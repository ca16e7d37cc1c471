//! Rows with BEGIN and writes with COMMIT, whose statements sessions keep prepared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, Event, Pessimistic, TransactorExt as _, UnitEvent};
use tokio::task::JoinSet;

use crate::{Pooled, ROUNDS, TASKS};

/// The sessions behind the pooler are not those that have prepared the statements. Transactions that notice
/// run again, until no statement is kept any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_change_cost_a_few_attempts_and_no_update() {
    let pooled = Pooled::start(true).await;
    let pool = pooled.clients(TASKS).await;
    let failed = Arc::new(AtomicU32::new(0));
    let count = failed.clone();
    let db = Pessimistic::default().on(&pool).reuse_connections().observed_by(move |event: &Event<'_>| {
        if let Event::Unit { event: UnitEvent::AttemptFailed { .. }, .. } = event {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let db = db.clone();
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                db.on_rows("counter", "id", [2_i64, 1])
                    .reading::<(i64, i64)>("id, value")
                    .run(async |tx, rows| -> Result<_, Error> {
                        for (id, value) in rows {
                            let update = "UPDATE counter SET value = $1 WHERE id = $2 AND value = $3";
                            let update = sqlx::query(update).bind(value + 1).bind(id).bind(value);
                            tx.at_commit(update)?.expect_one();
                        }
                        Ok(())
                    })
                    .await
                    .expect("a commit");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic");
    }
    assert_eq!(pooled.sum().await, 2 * i64::from(TASKS) * ROUNDS);
    let failed = failed.load(Ordering::Relaxed);
    assert!(failed <= TASKS, "{failed} attempts failed");
}
