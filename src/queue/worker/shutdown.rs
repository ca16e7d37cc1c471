//! What a worker does between the signal and its end.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Worker;
use crate::error::Error;
use crate::events::JobEvent;
use crate::queue::search::JobsFound;
use crate::queue::{Claim, QueueBackend};

/// How long cancelled handlers and the release of their jobs may take after the grace. What does not end
/// until then is dropped, and left to the lease.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl<DB: QueueBackend> Worker<DB> {
    /// Lets the handlers finish, then cancels them; gives back what a claim brings that was not answered yet.
    pub(super) async fn wind_down(
        &self,
        unanswered: Option<impl Future<Output = Result<JobsFound<DB>, Error>>>,
        mut running: JoinSet<()>,
        stop: watch::Sender<bool>,
    ) {
        let gives_back = async {
            if let Some(claim) = unanswered {
                self.give_back(claim.await).await;
            }
        };
        let all_done = async { while running.join_next().await.is_some() {} };
        if timeout(self.grace, async { tokio::join!(all_done, gives_back) }).await.is_ok() {
            return;
        }
        stop.send_replace(true);
        let _ = timeout(LAST_WORDS, async { while running.join_next().await.is_some() {} }).await;
    }

    async fn give_back(&self, found: Result<JobsFound<DB>, Error>) {
        for claim in self.report(found) {
            match claim.release().await {
                Ok(()) => self.watchers.tell(JobEvent::Released { id: claim.id() }),
                Err(error) => self.watchers.tell(JobEvent::Trouble { error: &error }),
            }
        }
    }

    /// Tells the observers what a claim has brought, and returns its jobs.
    pub(super) fn report(&self, found: Result<JobsFound<DB>, Error>) -> Vec<Claim<DB>> {
        let JobsFound { claims, died } = match found {
            Ok(found) => found,
            Err(error) => {
                self.watchers.tell(JobEvent::Trouble { error: &error });
                return Vec::new();
            }
        };
        for id in died {
            self.watchers.tell(JobEvent::Dead { id, error: crate::queue::spent::LAPSED });
        }
        if !claims.is_empty() {
            self.watchers.tell(JobEvent::Claimed { jobs: claims.len() });
        }
        claims
    }
}
