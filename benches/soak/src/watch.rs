//! How many sessions and how much memory a run takes.

use std::time::Duration;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::database::SoakDatabase;

const PAUSE: Duration = Duration::from_millis(500);

/// The figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// The maximum number of sessions, apart from those of the watch and the faults.
    pub(crate) sessions: usize,
    /// The resident memory of this process in KiB, over time.
    pub(crate) memory: Vec<u64>,
}

pub(crate) struct Watch {
    stop: watch::Sender<bool>,
    running: JoinHandle<Watched>,
}

impl Watch {
    pub(crate) fn start<DB: SoakDatabase>(direct: Pool<DB>) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let running = tokio::spawn(async move {
            let mut watched = Watched::default();
            let own = direct.options().get_max_connections() as usize - 1;
            while timeout(PAUSE, stopped.wait_for(|stopped| *stopped)).await.is_err() {
                watched.memory.extend(resident());
                // The server cannot be queried during an outage.
                if let Ok(sessions) = DB::integers(&direct, DB::SESSIONS.to_owned()).await {
                    watched.sessions = watched.sessions.max(sessions.len().saturating_sub(own));
                }
            }
            watched
        });
        Self { stop, running }
    }

    pub(crate) async fn stop(self) -> Watched {
        self.stop.send_replace(true);
        self.running.await.unwrap_or_default()
    }
}

/// The resident memory of this process, in KiB, where the system reports it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
