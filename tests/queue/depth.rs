//! The depth of a queue.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::queue::{Depth, Priority, Queue, Worker};
use atomically::{Event, JobEvent};
use tokio::sync::oneshot;

use crate::support::{TestBackend, eventually};
use crate::{ask, claim_one, enqueue, job, queue};

/// `ready` counts what a claim would find: not jobs that are scheduled, claimed, dead or in another queue.
pub(crate) async fn the_depth_counts_the_claimable_jobs<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    assert_eq!(queue.depth().await.expect("a depth"), Depth::default());

    let other = Queue::new("others", &pool).expect("a name");
    enqueue(&pool, &other, job(0)).await;
    let others = enqueue(&pool, &other, job(0)).await;
    let held = enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    assert_eq!(claim.id(), held);
    for priority in [Priority::High, Priority::Normal, Priority::Normal, Priority::Low] {
        enqueue(&pool, &queue, job(2).priority(priority)).await;
    }
    enqueue(&pool, &queue, job(3).run_after(Duration::from_secs(3600))).await;
    for id in [others, enqueue(&pool, &queue, job(4)).await, enqueue(&pool, &queue, job(5)).await] {
        let dead = format!("UPDATE atomically_job SET due_at = NULL, died_at = 1 WHERE id = {id}");
        DB::pool_execute(&pool, DB::sql(&dead), &[]).await.expect("dead");
    }
    // The oldest job has the lowest priority.
    let oldest = "UPDATE atomically_job SET due_at = due_at - 90000000 WHERE queue = 'jobs' AND priority = 2";
    DB::pool_execute(&pool, DB::sql(oldest), &[]).await.expect("a minute and a half ago");
    let depth = queue.depth().await.expect("a depth");
    assert_eq!((depth.ready, depth.dead), (4, 2));
    assert!((90..3600).contains(&depth.oldest.as_secs()), "{depth:?}");
    let [high, normal, low] = depth.oldest_by_priority;
    assert!(low == depth.oldest && high.max(normal) < Duration::from_secs(60), "{depth:?}");

    // A job with an expired lease is ready; one with an extended lease is not.
    let lapse = "UPDATE atomically_job SET due_at = 1 WHERE claimed_at IS NOT NULL";
    DB::pool_execute(&pool, DB::sql(lapse), &[]).await.expect("it lapses");
    let depth = queue.depth().await.expect("a depth");
    assert_eq!(depth.ready, 5);
    assert!(depth.oldest > Duration::from_secs(3600), "{depth:?}");
    claim.extend().await.expect("it is still held");
    let depth = queue.depth().await.expect("a depth");
    assert_eq!((depth.ready, depth.oldest.as_secs() < 3600), (4, true), "{depth:?}");
    assert_eq!(queue.claim(10).await.expect("a claim").len(), 4, "as many as were ready");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job").await, 10);
}

/// The depth is reported at the start and at intervals, also while handlers are busy. Without observers, the
/// database is not queried.
pub(crate) async fn a_worker_reports_the_depth<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    for n in 0..3 {
        enqueue(&pool, &queue, job(n)).await;
    }
    let reported = Arc::new(Mutex::new(Vec::new()));
    let notes = reported.clone();
    let worker = Worker::new(&queue)
        .handlers(1)
        .grace(Duration::ZERO)
        .poll_every(Duration::from_secs(3600))
        .depth_every(Duration::ZERO)
        .observed_by(move |event: &Event<'_>| {
            if let Event::Job { queue: "jobs", event: JobEvent::Depth { ready, dead, .. } } = event {
                notes.lock().expect("the notes").push((*ready, *dead));
            }
        });
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(async move { worker.run(stopped, |_| std::future::pending()).await });
    let last = async || reported.lock().expect("the notes").last().copied();
    eventually(Some((2, 0)), last).await;
    enqueue(&pool, &queue, job(3)).await;
    eventually(Some((3, 0)), last).await;
    let _ = stop.send(());
    running.await.expect("no panic");
}
