//! One turn of a contender at one kind of work.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{Either, select, try_join_all};
use tokio::sync::watch;
use tokio::time::sleep;

use super::CALLERS;
use super::contender::{Contender, Handled};

/// The time limit of a turn.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    EnqueueOne,
    EnqueueBatch,
    DrainOne,
    DrainBatch,
}

impl Work {
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::EnqueueOne => "enqueue, one in a transaction",
            Self::EnqueueBatch => "enqueue, in batches",
            Self::DrainOne => "claim and complete, one at a time",
            Self::DrainBatch => "claim and complete, in batches",
        }
    }

    pub(super) const fn is_batched(self) -> bool {
        matches!(self, Self::EnqueueBatch | Self::DrainBatch)
    }

    pub(super) fn batches(self, contender: &dyn Contender) -> &'static [usize] {
        match self {
            Self::EnqueueOne | Self::DrainOne => &[1],
            Self::EnqueueBatch => contender.enqueues(),
            Self::DrainBatch => contender.takes(),
        }
    }
}

/// Returns the jobs per second; fails if a job was lost or processed twice.
pub(super) async fn turn(contender: &dyn Contender, work: Work, batch: usize, jobs: usize) -> Result<f64> {
    contender.clear().await?;
    match work {
        Work::EnqueueOne | Work::EnqueueBatch => enqueue(contender, batch, jobs).await,
        Work::DrainOne | Work::DrainBatch => {
            enqueue(contender, 1_000, jobs).await?;
            drain(contender, batch, jobs).await
        }
    }
}

pub(super) async fn enqueue(contender: &dyn Contender, batch: usize, jobs: usize) -> Result<f64> {
    let batch = batch.min(jobs / CALLERS);
    let each = jobs / CALLERS / batch;
    let started = Instant::now();
    let caller = async || {
        for _ in 0..each {
            contender.enqueue(batch).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    try_join_all((0..CALLERS).map(|_| caller())).await?;
    let took = started.elapsed();
    let (left, wanted) = (contender.left().await?, i64::try_from(each * batch * CALLERS)?);
    ensure!(left == wanted, "{} enqueued {wanted} jobs, of which {left} are there", contender.name());
    Ok(wanted as f64 / took.as_secs_f64())
}

/// Measured from the first job on, so that the start of the workers does not count.
async fn drain(contender: &dyn Contender, batch: usize, jobs: usize) -> Result<f64> {
    let handled: &Handled = Box::leak(Box::default());
    let jobs = jobs / CALLERS * CALLERS;
    let empty = async {
        while handled.count() < jobs {
            sleep(Duration::from_millis(1)).await;
        }
        while contender.left().await? > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        Ok::<_, anyhow::Error>(Instant::now())
    };
    let end = while_it_works(contender, batch, handled, empty).await??;
    ensure!(handled.count() == jobs, "{} did {} of {jobs} jobs", contender.name(), handled.count());
    let first = handled.first().context("nothing was done")?;
    Ok(jobs as f64 / (end - first).as_secs_f64())
}

/// Lets a contender work until the future is ready.
pub(super) async fn while_it_works<T>(
    contender: &dyn Contender,
    batch: usize,
    handled: &'static Handled,
    until: impl Future<Output = T>,
) -> Result<T> {
    let (stop, stopped) = watch::channel(false);
    let work = pin!(contender.work(batch, handled, stopped));
    let until = pin!(tokio::time::timeout(LIMIT, until));
    match select(until, work).await {
        Either::Left((done, work)) => {
            stop.send_replace(true);
            work.await?;
            done.with_context(|| format!("{} did {} jobs in {LIMIT:?}", contender.name(), handled.count()))
        }
        Either::Right((ended, _)) => {
            ended?;
            anyhow::bail!("{} stopped by itself after {} jobs", contender.name(), handled.count())
        }
    }
}
