//! Workers on all nodes that claim from one queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::queue::{Claim, NewJob, Queue};
use atomically::{Error, Options, Pessimistic, TransactorExt as _};
use sqlx::{MySql, MySqlConnection, Pool};
use tokio::time::{Instant, sleep};

use crate::support::eventually;
use crate::{Database, all};

const JOBS: i64 = 600;
const WORKERS_OF_A_NODE: usize = 3;
const CLAIMED_AT_ONCE: usize = 4;
/// Short enough for jobs of a failed claim to be claimed again.
const LEASE: Duration = Duration::from_secs(4);
/// Far longer than the jobs take, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const TABLE: &str = "CREATE TABLE effect (n BIGINT AUTO_INCREMENT PRIMARY KEY, job BIGINT NOT NULL)";

#[derive(Default)]
struct Work {
    /// Effects that were acknowledged.
    done: AtomicUsize,
    acknowledged: Mutex<Vec<i64>>,
    /// How often each claim was handed out.
    claims: Mutex<BTreeMap<(i64, i64), u32>>,
    unknown: AtomicUsize,
    failed: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_claimed_on_all_nodes_have_one_effect() {
    jobs_have_one_effect(Database::with(&[TABLE]).await, None).await;
}

/// The jobs that the workers of the dead node had claimed are done by others when their leases expire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_have_one_effect_when_a_node_is_killed() {
    jobs_have_one_effect(Database::with(&[TABLE]).await, Some(2)).await;
}

async fn jobs_have_one_effect(mut database: Database, killed: Option<usize>) {
    let queue = queue(&database.pools[0]);
    queue.create_tables().await.expect("the tables of the queue");
    database.catch_up().await;
    let jobs: Vec<NewJob> = (0..JOBS).map(|job| NewJob::new(&job).expect("a job")).collect();
    let db = Pessimistic::default().on(&database.pools[0]);
    let added = db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("the jobs");
    assert_eq!(added, JOBS.unsigned_abs());
    database.catch_up().await;

    let work = Arc::new(Work::default());
    let pools = database.pools.iter().flat_map(|pool| std::iter::repeat_n(pool, WORKERS_OF_A_NODE));
    let workers: Vec<_> = pools.map(|pool| worker(pool.clone(), work.clone())).collect();
    let workers = tokio::spawn(all(workers));
    if let Some(node) = killed {
        eventually(true, async || work.done.load(SeqCst) > JOBS as usize / 4).await;
        database.kill(node);
    }
    workers.await.expect("no worker dies");
    let effects = database.audited(read).await;

    let acknowledged = work.acknowledged.lock().expect("what was acknowledged");
    let lost = acknowledged.iter().filter(|job| !effects.contains_key(job)).count();
    let undone = (0..JOBS).filter(|job| !effects.contains_key(job)).count();
    let twice = effects.values().filter(|times| **times > 1).count();
    let claims = work.claims.lock().expect("the claims");
    let claimed_twice = claims.values().filter(|times| **times > 1).count();
    let report = format!(
        "of {JOBS} jobs {undone} have no effect and {twice} have several; of {} acknowledged effects {lost} \
         are lost; of {} claims {claimed_twice} were handed out more than once ({} completions failed, {} \
         are unknown)",
        acknowledged.len(),
        claims.len(),
        work.failed.load(SeqCst),
        work.unknown.load(SeqCst),
    );
    println!("{report}");
    assert!(undone + twice + lost + claimed_twice == 0, "{report}");
}

fn queue(pool: &Pool<MySql>) -> Queue<MySql> {
    let options = Options::new().deadline(Duration::from_secs(6));
    Queue::new("work", pool).expect("a queue").lease(LEASE).options(options)
}

/// Claims and completes until all jobs are reported as done, or the time limit is reached.
async fn worker(pool: Pool<MySql>, work: Arc<Work>) {
    let (start, queue) = (Instant::now(), queue(&pool));
    while work.done.load(SeqCst) < JOBS as usize && start.elapsed() < PATIENCE {
        let claims = queue.claim(CLAIMED_AT_ONCE).await.unwrap_or_default();
        for claim in &claims {
            let mut handed_out = work.claims.lock().expect("the claims");
            *handed_out.entry((claim.id(), claim.token())).or_default() += 1;
        }
        for claim in &claims {
            handle(&pool, claim, &work).await;
        }
        if claims.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn handle(pool: &Pool<MySql>, claim: &Claim<MySql>, work: &Work) {
    let job: i64 = claim.payload().expect("the number of a job");
    let db = Pessimistic::default().on(pool);
    let effect = db.run(async |tx| {
        sqlx::query("INSERT INTO effect (job) VALUES (?)").bind(job).execute(&mut *tx).await?;
        claim.complete_in(tx).await?;
        Ok::<_, Error>(())
    });
    match effect.await {
        Ok(()) => {
            work.acknowledged.lock().expect("what was acknowledged").push(job);
            work.done.fetch_add(1, SeqCst);
        }
        Err(error) if error.is_commit_unknown() => _ = work.unknown.fetch_add(1, SeqCst),
        Err(_) => _ = work.failed.fetch_add(1, SeqCst),
    }
}

/// How many effects each job had.
async fn read(mut node: MySqlConnection) -> BTreeMap<i64, i64> {
    let effects = sqlx::query_as("SELECT job, COUNT(*) FROM effect GROUP BY job").fetch_all(&mut node);
    let effects: Vec<(i64, i64)> = effects.await.expect("the effects");
    effects.into_iter().collect()
}
