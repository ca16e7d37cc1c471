//! One contender at work for a moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use crate::contender::Contender;
use crate::workload::Workload;

/// What was done in a turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) transactions: i64,
    pub(crate) per_second: f64,
}

/// All callers of a workload at once, until the time is over and the last of them has its answer.
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
            let mut done: i64 = 0;
            while started.elapsed() < length {
                contender.perform(workload.next(&mut random)).await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut transactions = 0;
    while let Some(done) = callers.join_next().await {
        transactions += done??;
    }
    let seconds = started.elapsed().as_secs_f64();
    contender.settled().await;
    #[expect(clippy::cast_precision_loss, reason = "nobody does 2^52 transactions in a turn")]
    Ok(Turn { transactions, per_second: transactions as f64 / seconds })
}
