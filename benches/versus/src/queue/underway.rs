//! `underway`.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use async_trait::async_trait;
use futures_util::future::try_join_all;
use sqlx_0_8::postgres::PgPoolOptions;
use sqlx_0_8::{PgPool, Postgres, Transaction};
use tokio::sync::watch;
use underway::task::Result as TaskResult;
use underway::{Queue, Task, Worker};

use super::contender::{Contender, Handled};
use super::{CALLERS, CONNECTIONS};

/// Counts jobs in the counter that is set.
#[derive(Debug, Clone, Default)]
struct Counted(Arc<Mutex<Option<&'static Handled>>>);

impl Task for Counted {
    type Input = usize;
    type Output = ();

    async fn execute(&self, transaction: Transaction<'_, Postgres>, _input: usize) -> TaskResult<()> {
        if let Some(handled) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            handled.one();
        }
        transaction.commit().await?;
        Ok(())
    }
}

pub(super) struct Underway {
    pool: PgPool,
    queue: Arc<Queue<Counted>>,
    task: Counted,
}

impl Underway {
    pub(super) async fn new(url: &str) -> Result<Self> {
        // A handler holds a connection while it looks for the next job on another one.
        let options = PgPoolOptions::new().max_connections(2 * CONNECTIONS).test_before_acquire(false);
        let pool = options.connect(url).await?;
        underway::run_migrations(&pool).await?;
        let queue = Arc::new(Queue::builder().name("bench").pool(pool.clone()).build().await?);
        Ok(Self { pool, queue, task: Counted::default() })
    }
}

#[async_trait]
impl Contender for Underway {
    fn name(&self) -> &'static str {
        "underway"
    }

    fn enqueues(&self) -> &'static [usize] {
        &[10, 100, 1_000]
    }

    /// Jobs are processed one at a time; the batch size is the number of callers.
    fn takes(&self) -> &'static [usize] {
        &[8, 16]
    }

    async fn enqueue(&self, jobs: usize) -> Result<()> {
        if jobs == 1 {
            self.queue.enqueue(&self.pool, &self.task, &0).await?;
        } else {
            let jobs: Vec<_> = (0..jobs).collect();
            self.queue.enqueue_multi(&self.pool, &self.task, &jobs).await?;
        }
        Ok(())
    }

    async fn work(&self, batch: usize, handled: &'static Handled, stop: watch::Receiver<bool>) -> Result<()> {
        *self.task.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(handled);
        let worker = Worker::new(self.queue.clone(), self.task.clone());
        let caller = async || {
            while !*stop.borrow() {
                if worker.process_next_task().await?.is_none() {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        try_join_all((0..batch.max(CALLERS)).map(|_| caller())).await?;
        Ok(())
    }

    async fn left(&self) -> Result<i64> {
        let count = "SELECT count(*) FROM underway.task WHERE state IN ('pending', 'in_progress')";
        Ok(sqlx_0_8::query_scalar(count).fetch_one(&self.pool).await?)
    }

    async fn clear(&self) -> Result<()> {
        sqlx_0_8::query("TRUNCATE underway.task CASCADE").execute(&self.pool).await?;
        Ok(())
    }
}
