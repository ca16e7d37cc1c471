//! One turn of a contender.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use crate::contender::Contender;
use crate::ledger::Ledger;
use crate::workload::Workload;

/// The result of a turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) transactions: i64,
    pub(crate) per_second: f64,
    /// The expected changes; `None` if the contender does not report the accounts that it has drawn.
    pub(crate) ledger: Option<Ledger>,
}

/// Runs all callers of a workload at the same time, until the time is over and the last call has returned.
pub(crate) async fn turn(
    contender: &Arc<dyn Contender>,
    workload: Workload,
    length: Duration,
) -> Result<Turn> {
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..workload.callers() {
        let contender = contender.clone();
        callers.spawn(async move {
            let mut random: SmallRng = rand::make_rng();
            let (mut done, mut ledger) = (0_i64, Ledger::default());
            while started.elapsed() < length {
                let work = workload.next(&mut random);
                contender.perform(work).await?;
                ledger.record(work);
                done += 1;
            }
            anyhow::Ok((done, ledger))
        });
    }
    let (mut transactions, mut ledger) = (0, Ledger::default());
    while let Some(caller) = callers.join_next().await {
        let (done, changes) = caller??;
        transactions += done;
        ledger.merge(&changes);
    }
    let seconds = started.elapsed().as_secs_f64();
    contender.settled().await;
    #[expect(clippy::cast_precision_loss, reason = "no turn has 2^52 transactions")]
    Ok(Turn { transactions, per_second: transactions as f64 / seconds, ledger: Some(ledger) })
}
