//! Histories of appends and reads, which are searched for anomalies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use atomically::testing::history::{Appends, ListAppend, TransactionOutcome};
use atomically::{Isolation, Pessimistic, Serializable, Transactor};
use sqlx::Pool;
use tokio::task::JoinHandle;

use crate::database::SoakDatabase;
use crate::ledger::Ledger;

const SESSIONS: u32 = 4;
pub(crate) const CONNECTIONS: u32 = SESSIONS + 1;

pub(crate) struct Lists {
    stopped: Arc<AtomicBool>,
    task: JoinHandle<(u64, Vec<String>)>,
}

impl Lists {
    pub(crate) fn start<DB: SoakDatabase>(pool: &Pool<DB>, ledger: &Arc<Ledger>, seed: u64) -> Self {
        let stopped = Arc::<AtomicBool>::default();
        let (pool, ledger, stop) = (pool.clone(), ledger.clone(), stopped.clone());
        Self { stopped, task: tokio::spawn(async move { record(&pool, &ledger, seed, &stop).await }) }
    }

    /// Returns how many histories were checked, and what was wrong with them.
    pub(crate) async fn stop(self) -> (u64, Vec<String>) {
        self.stopped.store(true, SeqCst);
        match self.task.await {
            Ok(checked) => checked,
            Err(error) => (0, vec![format!("the history checker panicked: {error}")]),
        }
    }
}

/// Records one history after the other. One whose lists cannot be read during an outage is not checked.
async fn record<DB: SoakDatabase>(
    pool: &Pool<DB>,
    ledger: &Ledger,
    seed: u64,
    stopped: &AtomicBool,
) -> (u64, Vec<String>) {
    let strategies: [Arc<dyn Transactor<DB>>; 2] =
        [Arc::new(Serializable::default().on(pool)), Arc::new(Pessimistic::default().on(pool))];
    let (mut checked, mut anomalies) = (0, Vec::new());
    for round in 0_u64.. {
        if stopped.load(SeqCst) {
            break;
        }
        let db = &strategies[usize::from(round % 2 == 1)];
        let lists = ListAppend::new().sessions(SESSIONS).transactions(25).appends(Appends::Guarded);
        let Ok(history) = lists.seed(seed ^ round).run(pool, &**db).await else { continue };
        ledger.count(history.count(TransactionOutcome::Committed) as u64);
        match history.check() {
            Ok(report) => {
                checked += 1;
                anomalies.extend(report.forbidden_at(Isolation::Serializable).map(ToString::to_string));
            }
            Err(error) => anomalies.push(error.to_string()),
        }
    }
    (checked, anomalies)
}
