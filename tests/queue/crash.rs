//! Workers whose processes are killed or suspended.

use std::env;
use std::future::pending;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use atomically::queue::{Claim, NewJob, Queue, Worker};
use atomically::{Backoff, Event, JobEvent, Pessimistic, TransactorExt as _};
use futures_util::future::BoxFuture;
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Pool, Postgres, Sqlite};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::support::{TestBackend, TestPool};
use crate::{ask, effects, job, queue, write_ledger};

const BLOWS: i64 = 25;
const PORTION: i64 = 800;
const JOBS: i64 = BLOWS * PORTION;
const WORKERS: [usize; 3] = [3, 3, 2];
const HANDLERS: usize = 4;
const LEASE: Duration = Duration::from_millis(500);
/// Far longer than the test takes, so that it fails instead of hanging.
const LIMIT: Duration = Duration::from_secs(300);

const PROCESS: &str = "crash::a_process_of_the_storm";
const URL: &str = "ATOMICALLY_STORM_URL";
const COUNT: &str = "ATOMICALLY_STORM_WORKERS";

fn storm_queue<DB: TestBackend>(pool: &Pool<DB>) -> Queue<DB> {
    let queue = Queue::new("jobs", pool).expect("a name");
    queue.lease(LEASE).max_attempts(1_000).backoff(Backoff::none())
}

/// Runs workers until the shutdown signal.
async fn work<DB: TestBackend>(pool: Pool<DB>, shutdown: impl Future + Send) {
    let lost = pool.clone();
    let worker = Worker::new(&storm_queue(&pool))
        .handlers(HANDLERS)
        .poll_every(Duration::from_millis(100))
        .observed_by(move |event: &Event<'_>| {
            if let Event::Job { event: JobEvent::LeaseLost { id }, .. } = event {
                let (lost, id) = (lost.clone(), *id);
                tokio::spawn(async move {
                    DB::pool_execute(&lost, DB::sql("INSERT INTO lost VALUES (?)"), &[id])
                        .await
                        .expect("noted");
                });
            }
        });
    let db = Pessimistic::default().on(&pool);
    let handler = |claim: Arc<Claim<DB>>| {
        let db = db.clone();
        async move {
            sleep(Duration::from_millis(claim.id().unsigned_abs() % 4)).await;
            db.run(async |tx| {
                write_ledger(tx, &claim).await?;
                claim.complete_in(tx).await
            })
            .await?;
            Ok(())
        }
    };
    worker.run(shutdown, handler).await;
}

/// The jobs per killed process. With all of them enqueued at once, jobs with expired leases would wait behind
/// the rest.
async fn enqueue_portion<DB: TestBackend>(pool: &Pool<DB>, blow: i64) {
    let (queue, db) = (storm_queue(pool), Pessimistic::default().on(pool));
    let jobs: Vec<NewJob> = (blow * PORTION..(blow + 1) * PORTION).map(job).collect();
    let added = db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    assert_eq!(added, PORTION.unsigned_abs());
}

async fn calm<DB: TestBackend>() -> TestPool<DB> {
    let (pool, _) = queue::<DB>(2).await;
    DB::pool_execute(&pool, DB::sql("CREATE TABLE lost (job BIGINT NOT NULL)"), &[]).await.expect("a table");
    pool
}

pub(crate) async fn until<DB: TestBackend>(pool: &Pool<DB>, sql: &str, wanted: i64) {
    let reached = async {
        while ask(pool, sql).await < wanted {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(LIMIT, reached).await.is_err() {
        panic!("{sql}: wanted {wanted}, and it is {}", ask(pool, sql).await);
    }
}

const DONE: &str = "SELECT COUNT(*) FROM ledger";

async fn all_were_done_exactly_once<DB: TestBackend>(pool: &Pool<DB>) {
    let queue = storm_queue(pool);
    let left = "SELECT COUNT(*) FROM ledger WHERE NOT EXISTS (SELECT 1 FROM atomically_job)";
    until(pool, left, JOBS).await;
    let distinct = ask(pool, "SELECT COUNT(DISTINCT job) FROM ledger").await;
    assert_eq!((effects(pool).await, distinct), (JOBS, JOBS));
    assert_eq!(queue.counts().await.expect("the counts").dead, 0);
    let taken_over = ask(pool, "SELECT COUNT(*) FROM ledger WHERE token > 1").await;
    assert!(taken_over >= BLOWS, "{taken_over} jobs were taken over, after {BLOWS} blows");
}

/// A process with several workers: an ignored test of this binary. It ends when its standard input is closed,
/// at the latest with this process.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(test: &str, url: &str, workers: usize) -> Self {
        let mut command = Command::new(env::current_exe().expect("the path of this test"));
        command.args(["--exact", test, "--ignored", "--nocapture"]);
        command.env(URL, url).env(COUNT, workers.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        Self(command.spawn().expect("a process"))
    }

    pub(crate) fn signal(&self, signal: &str) {
        let kill = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(kill.is_ok_and(|status| status.success()), "kill {signal}");
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("dead");
    }

    pub(crate) async fn drain(mut self) {
        drop(self.0.stdin.take());
        let ended = timeout(LIMIT, spawn_blocking(move || self.0.wait())).await.expect("it ends");
        assert!(ended.expect("waited").expect("its status").success(), "it drained badly");
    }
}

/// The arguments of a process that a test has started.
pub(crate) fn arguments() -> (String, usize) {
    let workers = env::var(COUNT).expect("a number").parse().expect("a number");
    (env::var(URL).expect("started by a test"), workers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "one of the processes that the tests start"]
async fn a_process_of_the_storm() {
    let (url, workers) = arguments();
    if url.starts_with("postgres") {
        be_a_process::<Postgres>(&url, workers).await
    } else {
        be_a_process::<MySql>(&url, workers).await
    }
}

async fn be_a_process<DB: TestBackend>(url: &str, workers: usize) {
    let pool = PoolOptions::<DB>::new().max_connections(8).connect(url).await.expect("a pool");
    run_workers(workers, |shutdown| work(pool.clone(), shutdown)).await;
}

/// Runs workers until the standard input is closed, and then sends each of them the shutdown signal.
pub(crate) async fn run_workers<F>(workers: usize, work: impl Fn(BoxFuture<'static, ()>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let workers: Vec<_> = (0..workers)
        .map(|_| {
            let mut stopped = stopped.clone();
            tokio::spawn(work(Box::pin(async move { drop(stopped.wait_for(|stopped| *stopped).await) })))
        })
        .collect();
    spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .expect("a thread")
        .expect("the end");
    stop.send_replace(true);
    for worker in workers {
        worker.await.expect("it drains");
    }
}

async fn killed_processes<DB: TestBackend>() {
    let pool = calm::<DB>().await;
    let mut processes: Vec<_> =
        WORKERS.iter().map(|workers| Process::start(PROCESS, &pool.url, *workers)).collect();
    for blow in 0..BLOWS {
        enqueue_portion(&pool, blow).await;
        until(&pool, DONE, blow * PORTION + PORTION / 2).await;
        // Processes are killed in turn, at random moments.
        let victim = usize::try_from(blow).expect("small") % WORKERS.len();
        if blow % 4 == 3 {
            processes[victim].signal("-STOP");
            // All jobs complete, except those it may have locked; the others that it holds are taken over.
            let locked = i64::try_from(WORKERS[victim] * HANDLERS).expect("small");
            until(&pool, DONE, (blow + 1) * PORTION - locked).await;
            sleep(LEASE * 2).await;
            processes[victim].signal("-CONT");
        } else {
            let killed = std::mem::replace(
                &mut processes[victim],
                Process::start(PROCESS, &pool.url, WORKERS[victim]),
            );
            killed.kill();
        }
    }
    until(&pool, DONE, JOBS).await;
    for process in processes {
        process.drain().await;
    }
    all_were_done_exactly_once(&pool).await;
    let lost = ask(&pool, "SELECT COUNT(*) FROM lost").await;
    assert!(lost > 0, "no worker continued after its lease was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_runs_every_job_exactly_once_despite_killed_processes() {
    killed_processes::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_runs_every_job_exactly_once_despite_killed_processes() {
    killed_processes::<MySql>().await;
}

/// Within one process, dropping a worker comes closest to killing it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_runs_every_job_exactly_once_despite_dropped_workers() {
    let pool = calm::<Sqlite>().await;
    let shared = PoolOptions::<Sqlite>::new().max_connections(4).connect(&pool.url).await.expect("a pool");
    let start = || -> JoinHandle<()> { tokio::spawn(work(shared.clone(), pending::<()>())) };
    let mut workers: Vec<_> = (0..WORKERS.iter().sum()).map(|_| start()).collect();
    for blow in 0..BLOWS {
        enqueue_portion(&pool, blow).await;
        until(&pool, DONE, blow * PORTION + PORTION / 2).await;
        let victim = usize::try_from(blow).expect("small") % workers.len();
        let dropped = std::mem::replace(&mut workers[victim], start());
        dropped.abort();
        assert!(dropped.await.expect_err("dropped").is_cancelled());
    }
    until(&pool, DONE, JOBS).await;
    all_were_done_exactly_once(&pool).await;
    for worker in workers {
        worker.abort();
    }
}
