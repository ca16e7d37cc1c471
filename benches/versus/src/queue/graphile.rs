//! `graphile_worker`, the port of Graphile Worker.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions, WorkerUtils,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::watch;

use super::contender::{Contender, Handled};
use super::{CALLERS, CONNECTIONS};
use crate::contender::pool;

#[derive(Debug, Clone, Deserialize, Serialize)]
struct Job(usize);

#[derive(Debug, Clone)]
struct Counter(&'static Handled);

impl TaskHandler for Job {
    const IDENTIFIER: &'static str = "job";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(Counter(handled)) = context.get_ext::<Counter>() {
            handled.one();
        }
        Ok::<(), String>(())
    }
}

pub(super) struct Graphile {
    pool: PgPool,
    utils: WorkerUtils,
}

impl Graphile {
    pub(super) async fn new(url: &str) -> Result<Self> {
        let pool = pool(url, CONNECTIONS, false).await?;
        let utils = Self::options(&pool).init().await?.create_utils();
        Ok(Self { pool, utils })
    }

    fn options(pool: &PgPool) -> WorkerOptions {
        WorkerOptions::default()
            .pg_pool(pool.clone())
            .concurrency(CALLERS)
            .poll_interval(Duration::from_millis(10))
            .listen_os_shutdown_signals(false)
            .define_job::<Job>()
    }
}

#[async_trait]
impl Contender for Graphile {
    fn name(&self) -> &'static str {
        "graphile_worker"
    }

    fn enqueues(&self) -> &'static [usize] {
        &[10, 100, 1_000]
    }

    fn takes(&self) -> &'static [usize] {
        &[10, 100, 1_000]
    }

    async fn enqueue(&self, jobs: usize) -> Result<()> {
        if jobs == 1 {
            self.utils.add_job(Job(0), JobSpec::default()).await?;
        } else {
            let spec = JobSpec::default();
            let jobs: Vec<_> = (0..jobs).map(|n| (Job(n), &spec)).collect();
            self.utils.add_jobs(&jobs).await?;
        }
        Ok(())
    }

    /// The batch sizes are those of its local queue; completions within a millisecond are combined.
    async fn work(
        &self,
        batch: usize,
        handled: &'static Handled,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut options = Self::options(&self.pool).add_extension(Counter(handled));
        if batch > 1 {
            options = options
                .concurrency(batch.min(64))
                .local_queue(LocalQueueConfig::default().with_size(batch))
                .complete_job_batch_delay(Duration::from_millis(1));
        }
        let worker = options.init().await?;
        // `run` alone waits for a poll or a notification before each job.
        if batch == 1 {
            tokio::select! {
                ended = worker.run_once() => ended?,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        }
        let stopping = async {
            let _ = stop.wait_for(|stop| *stop).await;
            worker.request_shutdown();
        };
        tokio::join!(worker.run(), stopping).0?;
        Ok(())
    }

    async fn left(&self) -> Result<i64> {
        let count = "SELECT count(*) FROM graphile_worker._private_jobs";
        Ok(sqlx::query_scalar(count).fetch_one(&self.pool).await?)
    }

    async fn clear(&self) -> Result<()> {
        sqlx::query("TRUNCATE graphile_worker._private_jobs CASCADE").execute(&self.pool).await?;
        Ok(())
    }
}
