//! The shutdown of a worker.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Worker;
use crate::backend::Backend;
use crate::error::Error;
use crate::events::JobEvent;
use crate::queue::claim::Claim;
use crate::queue::claiming::ClaimedJobs;
use crate::queue::sql::LEASE_EXPIRED;

/// How long cancelled handlers and the release of their jobs may take after the grace period. After that they
/// are dropped, and the jobs wait for their leases to expire.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

impl<DB: Backend> Worker<DB> {
    /// Lets the handlers finish and then cancels them. Releases the jobs of a claim that is still in flight.
    pub(super) async fn shut_down(
        &self,
        in_flight: Option<impl Future<Output = Result<ClaimedJobs<DB>, Error>>>,
        mut running: JoinSet<()>,
        stop: watch::Sender<bool>,
    ) {
        let all_released = async {
            if let Some(claim) = in_flight {
                self.release(claim.await).await;
            }
        };
        let all_finished = async { while running.join_next().await.is_some() {} };
        if timeout(self.grace, async { tokio::join!(all_finished, all_released) }).await.is_ok() {
            return;
        }
        stop.send_replace(true);
        let _ = timeout(RELEASE_TIMEOUT, async { while running.join_next().await.is_some() {} }).await;
    }

    async fn release(&self, claimed: Result<ClaimedJobs<DB>, Error>) {
        for claim in self.report_claimed(claimed) {
            match claim.release().await {
                Ok(()) => self.reporter.report(JobEvent::Released { id: claim.id() }),
                Err(error) => self.reporter.report(JobEvent::Trouble { error: &error }),
            }
        }
    }

    /// Reports the result of a claim, and returns its jobs.
    pub(super) fn report_claimed(&self, claimed: Result<ClaimedJobs<DB>, Error>) -> Vec<Claim<DB>> {
        let ClaimedJobs { claims, died, interrupted } = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                self.reporter.report(JobEvent::Trouble { error: &error });
                return Vec::new();
            }
        };
        if let Some(error) = interrupted {
            self.reporter.report(JobEvent::Trouble { error: &error });
        }
        for id in died {
            self.reporter.report(JobEvent::Dead { id, error: LEASE_EXPIRED });
        }
        if !claims.is_empty() {
            self.reporter.report(JobEvent::Claimed { jobs: claims.len() });
        }
        claims
    }
}
