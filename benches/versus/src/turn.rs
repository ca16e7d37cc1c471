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
    /// The latency in milliseconds that 99 of 100 transactions do not exceed; `None` if the contender does not
    /// report latencies.
    pub(crate) p99: Option<f64>,
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
            let (mut latencies, mut ledger) = (Vec::new(), Ledger::default());
            let mut now = started;
            while now - started < length {
                let work = workload.next(&mut random);
                contender.perform(work).await?;
                ledger.record(work);
                let began = std::mem::replace(&mut now, Instant::now());
                latencies.push(now - began);
            }
            anyhow::Ok((latencies, ledger))
        });
    }
    let (mut latencies, mut ledger) = (Vec::new(), Ledger::default());
    while let Some(caller) = callers.join_next().await {
        let (more, changes) = caller??;
        latencies.extend(more);
        ledger.merge(&changes);
    }
    let seconds = started.elapsed().as_secs_f64();
    contender.settled().await;
    let transactions = i64::try_from(latencies.len())?;
    #[expect(clippy::cast_precision_loss, reason = "no turn has 2^52 transactions")]
    let per_second = transactions as f64 / seconds;
    Ok(Turn { transactions, per_second, p99: p99(latencies), ledger: Some(ledger) })
}

/// Returns the 99th percentile, in milliseconds.
fn p99(mut latencies: Vec<Duration>) -> Option<f64> {
    let index = latencies.len() * 99 / 100;
    (index < latencies.len()).then(|| latencies.select_nth_unstable(index).1.as_secs_f64() * 1000.0)
}
