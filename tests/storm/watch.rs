//! The view of an operator: how many sessions there are, and how long jobs wait.

use std::fs;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use sqlx::pool::PoolOptions;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::clock::{Clock, now};
use crate::server::StormServer;

const PAUSE: Duration = Duration::from_millis(20);

/// The largest figures observed.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) samples: u64,
    /// The maximum number of sessions of the callers, and of the workers.
    pub(crate) callers: i64,
    pub(crate) workers: i64,
    /// The longest wait of the oldest claimable job, outages excluded; and when it was observed.
    pub(crate) overdue: Duration,
    pub(crate) overdue_at: Duration,
    /// The load of the machine, where the system reports it: every twenty seconds, or once for a short storm.
    pub(crate) loads: Vec<f64>,
}

/// Between two readings of the load.
const LOAD_PAUSE: Duration = Duration::from_secs(20);

/// The number of running processes of the machine, averaged over a minute.
fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

pub(crate) struct Watch<DB> {
    stopped: Arc<AtomicBool>,
    running: JoinHandle<Watched>,
    database: PhantomData<DB>,
}

impl<DB: StormServer> Watch<DB> {
    pub(crate) async fn start(url: &str, clock: &Arc<Clock>) -> Self {
        // Short, because the pool's pauses between two attempts to connect grow with it.
        let pool = PoolOptions::<DB>::new().max_connections(1).acquire_timeout(Duration::from_millis(500));
        let pool = pool.connect(url).await.expect("a connection");
        let (stopped, clock) = (Arc::new(AtomicBool::new(false)), clock.clone());
        let stop = stopped.clone();
        let running = tokio::spawn(async move {
            let mut watched = Watched::default();
            while !stop.load(SeqCst) {
                // The server cannot be queried during an outage.
                let _ = look::<DB>(&pool, &clock, &mut watched).await;
                let looks = u32::try_from(watched.loads.len()).expect("a small number");
                if clock.elapsed() >= LOAD_PAUSE * looks {
                    watched.loads.push(load().unwrap_or(f64::NAN));
                }
                sleep(PAUSE).await;
            }
            watched
        });
        Self { stopped, running, database: PhantomData }
    }

    pub(crate) async fn stop(self) -> Watched {
        self.stopped.store(true, SeqCst);
        self.running.await.expect("the watch")
    }
}

async fn look<DB: StormServer>(
    pool: &sqlx::Pool<DB>,
    clock: &Clock,
    watched: &mut Watched,
) -> sqlx::Result<()> {
    let ask = async |sql: &str| DB::pool_fetch(pool, DB::sql(sql), &[]).await;
    watched.callers = watched.callers.max(ask(&DB::sessions("app")).await?);
    watched.workers = watched.workers.max(ask(&DB::sessions("jobs")).await?);
    let read_at = now();
    let oldest = ask(&format!(
        "SELECT COALESCE(MIN(due_at), {read_at}) FROM atomically_job WHERE due_at <= {read_at} AND COALESCE(
             (SELECT lease.until FROM atomically_job_lease AS lease WHERE lease.job_id = atomically_job.id
              AND lease.token = atomically_job.token), 0) <= {read_at}"
    ))
    .await?;
    let waited = clock.waited(oldest, read_at);
    if waited > watched.overdue {
        (watched.overdue, watched.overdue_at) = (waited, clock.elapsed());
    }
    watched.samples += 1;
    Ok(())
}
