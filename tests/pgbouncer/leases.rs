//! Leases, whose holders have another server connection for each transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::lease::{Lease, lead};
use atomically::{Error, Pessimistic, TransactorExt as _};
use tokio::task::JoinSet;

use crate::support::servers::Server;
use crate::{Pooled, TASKS, change, no_setting_is_left_behind};

async fn leaders_take_turns(prepared_statements: bool) {
    let pooled = Pooled::start(prepared_statements).await;
    let pool = pooled.clients(TASKS).await;
    // Longer than a busy machine keeps a renewal from its turn.
    let ttl = Duration::from_secs(5);
    let lease = Lease::new("report", &pool).ttl(ttl).poll_every(Duration::from_millis(10));
    lease.create_tables().await.expect("the tables");
    let (db, leading) = (Pessimistic::default().on(&pool), Arc::<AtomicU32>::default());
    let mut leaders = JoinSet::new();
    for leader in 0..TASKS {
        let (db, lease, leading) = (db.clone(), lease.clone(), leading.clone());
        leaders.spawn(async move {
            lead(&lease, async |held| {
                assert_eq!(leading.fetch_add(1, SeqCst), 0, "there is a leader already");
                if leader == 0 {
                    // It has to be renewed.
                    tokio::time::sleep(ttl + ttl / 2).await;
                }
                db.run(async |tx| {
                    let update = "UPDATE counter SET value = value + $1 WHERE id = 1";
                    change(tx, update, 1, prepared_statements).await?;
                    held.check_in(tx).await
                })
                .await?;
                leading.fetch_sub(1, SeqCst);
                Ok::<_, Error>(())
            })
            .await
        });
    }
    while let Some(led) = leaders.join_next().await {
        led.expect("no panic").expect("it has led");
    }
    assert_eq!(pooled.sum().await, i64::from(TASKS));
    no_setting_is_left_behind(&pooled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_work() {
    leaders_take_turns(false).await;
    if Server::pgbouncer_prepares() {
        leaders_take_turns(true).await;
    }
}
