//! Holders of leases that commit under them, and lose them to faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use atomically::lease::{Held, Lease};
use atomically::{Error, Pessimistic, TransactorExt as _, Tx};
use rand::RngExt as _;
use sqlx::Pool;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::database::{LEASES, SoakDatabase};
use crate::ledger::Ledger;

const HOLDERS: u32 = 4;
pub(crate) const CONNECTIONS: u32 = HOLDERS + 2;

pub(crate) struct Holders {
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    stopped: AtomicBool,
    held: AtomicU64,
    stored: AtomicU64,
    unknown: AtomicU64,
    stale: AtomicU64,
    wrong: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct HoldersReport {
    pub(crate) held: u64,
    pub(crate) stored: u64,
    pub(crate) unknown: u64,
    /// Commits that were refused, because the lease was lost.
    pub(crate) stale: u64,
    /// Commits that found that a later holder had committed.
    pub(crate) wrong: u64,
}

impl Holders {
    pub(crate) fn start<DB: SoakDatabase>(pool: &Pool<DB>, ledger: &Arc<Ledger>) -> Self {
        let (counts, mut tasks) = (Arc::<Counts>::default(), JoinSet::new());
        for _ in 0..HOLDERS {
            let (pool, counts, ledger) = (pool.clone(), counts.clone(), ledger.clone());
            tasks.spawn(async move { hold(&pool, &counts, &ledger).await });
        }
        Self { counts, tasks }
    }

    pub(crate) async fn stop(self) -> HoldersReport {
        self.counts.stopped.store(true, Relaxed);
        self.tasks.join_all().await;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let Counts { held, stored, unknown, stale, wrong, .. } = &*self.counts;
        HoldersReport {
            held: count(held),
            stored: count(stored),
            unknown: count(unknown),
            stale: count(stale),
            wrong: count(wrong),
        }
    }
}

async fn hold<DB: SoakDatabase>(pool: &Pool<DB>, counts: &Counts, ledger: &Ledger) {
    while !counts.stopped.load(Relaxed) {
        let id = rand::rng().random_range(1..=LEASES);
        let lease = Lease::new(&format!("soak-{id}"), pool).ttl(Duration::from_millis(800));
        let Ok(Some(held)) = lease.try_acquire().await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        counts.held.fetch_add(1, Relaxed);
        let commits = rand::rng().random_range(1..30);
        for _ in 0..commits {
            sleep(Duration::from_millis(5)).await;
            let counter = match commit(pool, id, &held).await {
                Ok(1) => {
                    ledger.count(1);
                    &counts.stored
                }
                Ok(_) => &counts.wrong,
                Err(error) if error.is_stale_claim() => &counts.stale,
                Err(error) if error.is_commit_unknown() => &counts.unknown,
                Err(_) => continue,
            };
            counter.fetch_add(1, Relaxed);
            if std::ptr::eq(counter, &counts.stale) {
                break;
            }
        }
        // Some are forgotten, as by a process that ends.
        if rand::rng().random_bool(0.7) {
            let _ = held.release().await;
        } else {
            std::mem::forget(held);
        }
    }
}

/// Commits under the lease, unless a later holder has committed.
async fn commit<DB: SoakDatabase>(pool: &Pool<DB>, lease: i64, held: &Held<DB>) -> Result<u64, Error> {
    let token = held.token();
    let db = Pessimistic::default().on(pool);
    db.run(async |tx: &mut Tx<DB>| {
        held.check_in(tx).await?;
        let update = "UPDATE fenced SET token = ?, commits = commits + 1 WHERE lease = ? AND token <= ?";
        Ok::<_, Error>(DB::execute(tx, DB::sql(update), &[token, lease, token]).await?)
    })
    .await
}
