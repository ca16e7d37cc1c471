//! This crate.

use std::sync::Arc;

use ::atomically::queue::{Claim, NewJob, Queue, Worker, complete_all_in};
use ::atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _};
use anyhow::Result;
use async_trait::async_trait;
use futures_util::future::try_join_all;
use sqlx::{PgPool, Postgres};
use tokio::sync::watch;

use super::contender::{Contender, Handled};
use super::{CALLERS, CONNECTIONS};
use crate::contender::pool;

/// How jobs are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// With `claim` and `complete`.
    ByHand,
    /// With a `Worker`, which runs each handler in a task of its own.
    Worker,
}

pub(super) struct Atomically {
    pool: PgPool,
    db: PoolTransactor<Postgres, Pessimistic>,
    queue: Queue<Postgres>,
    work: Work,
}

impl Atomically {
    pub(super) async fn new(url: &str, work: Work) -> Result<Self> {
        let pool = pool(url, CONNECTIONS, false).await?;
        let queue = Queue::new("bench", &pool)?.reuse_connections().persistent(true);
        queue.create_tables().await?;
        Ok(Self { db: Pessimistic::default().on(&pool).reuse_connections(), pool, queue, work })
    }

    async fn by_hand(
        &self,
        batch: usize,
        handled: &Handled,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), Error> {
        while !*stop.borrow() {
            let claims = self.queue.claim(batch).await?;
            claims.iter().for_each(|_| handled.one());
            match &claims[..] {
                [] => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                [claim] => claim.complete().await?,
                claims => self.db.run(async |tx| complete_all_in(tx, claims).await).await?,
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Contender for Atomically {
    fn name(&self) -> &'static str {
        match self.work {
            Work::ByHand => "atomically",
            Work::Worker => "atomically, Worker",
        }
    }

    fn enqueues(&self) -> &'static [usize] {
        if self.work == Work::Worker { &[] } else { &[10, 100, 1_000] }
    }

    fn takes(&self) -> &'static [usize] {
        if self.work == Work::Worker { &[16, 100] } else { &[10, 100, 1_000] }
    }

    async fn enqueue(&self, jobs: usize) -> Result<()> {
        let jobs = (0..jobs).map(|n| NewJob::new(&n)).collect::<Result<Vec<_>, _>>()?;
        let jobs = &jobs[..];
        match jobs {
            [job] => drop(self.queue.enqueue_alone(job.clone()).await?),
            jobs => drop(self.db.run(async |tx| self.queue.enqueue_many(tx, jobs).await).await?),
        }
        Ok(())
    }

    async fn work(
        &self,
        batch: usize,
        handled: &'static Handled,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        match self.work {
            Work::ByHand => {
                try_join_all((0..CALLERS).map(|_| self.by_hand(batch, handled, &stop))).await?;
            }
            Work::Worker => {
                let worker = Worker::new(&self.queue).handlers(batch.max(CALLERS));
                let handler = move |_: Arc<Claim<Postgres>>| async move {
                    handled.one();
                    Ok(())
                };
                worker.run(stop.wait_for(|stop| *stop), handler).await;
            }
        }
        Ok(())
    }

    async fn left(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM atomically_job").fetch_one(&self.pool).await?)
    }

    async fn clear(&self) -> Result<()> {
        sqlx::query("TRUNCATE atomically_job, atomically_job_lease").execute(&self.pool).await?;
        Ok(())
    }
}
