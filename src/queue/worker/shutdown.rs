//! The shutdown of a worker.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::Worker;
use super::working::WorkerJobs;
use crate::backend::Backend;
use crate::error::Error;
use crate::events::JobEvent;
use crate::queue::claim::Claim;
use crate::queue::claiming::ClaimedJobs;
use crate::queue::completing::release_held;
use crate::queue::sql::LEASE_EXPIRED;

/// How long cancelled handlers and the release of their jobs may take after the grace period. After that they
/// are dropped, and the jobs wait for their leases to expire.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

impl<DB: Backend> Worker<DB> {
    /// Lets the handlers finish and then cancels them. Releases the jobs that no handler has started, and
    /// those of a claim that is still in flight.
    pub(super) async fn shut_down(&self, jobs: WorkerJobs<'_, DB>, stop: watch::Sender<bool>) {
        let WorkerJobs { claim, ready, mut running, mut releasing, .. } = jobs;
        let all_released = async {
            self.release(ready.into()).await;
            if let Some(claim) = claim {
                self.release(self.report_claimed(claim.await)).await;
            }
            while releasing.join_next().await.is_some() {}
        };
        let all_finished = async { while running.join_next().await.is_some() {} };
        if timeout(self.grace, async { tokio::join!(all_finished, all_released) }).await.is_ok() {
            return;
        }
        stop.send_replace(true);
        let _ = timeout(RELEASE_TIMEOUT, async { while running.join_next().await.is_some() {} }).await;
    }

    /// Releases jobs that no handler has started.
    pub(super) fn release(&self, claims: Vec<Claim<DB>>) -> impl Future<Output = ()> + Send + use<DB> {
        let (queue, reporter) = (self.queue.clone(), self.reporter.clone());
        async move {
            // A job with a limit gives its slot to another one, which takes a transaction of its own.
            let together: Vec<_> = claims.iter().filter(|claim| claim.slot_of_limit().is_empty()).collect();
            let released = match &together[..] {
                [] => HashSet::new(),
                claims => release_held(&queue, claims).await.unwrap_or_default(),
            };
            for claim in claims {
                let is_released = released.contains(&claim.id());
                match if is_released { Ok(()) } else { claim.release().await } {
                    Ok(()) => reporter.report(JobEvent::Released { id: claim.id() }),
                    Err(error) if error.is_stale_claim() => {
                        reporter.report(JobEvent::LeaseLost { id: claim.id() });
                    }
                    Err(error) => reporter.report(JobEvent::Trouble { error: &error }),
                }
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
