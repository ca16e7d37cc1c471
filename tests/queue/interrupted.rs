//! Claims that an error ends after a part of them.

use std::time::{Duration, Instant};

use atomically::queue::Queue;

use crate::support::{TestBackend, TestPool, eventually};
use crate::worker::{LONG, noted, start, stopped, worker};
use crate::{ask, enqueue, job, lapse, queue};

/// A trigger that refuses to change the job whose payload is 666.
const REFUSING: [(&str, &str); 3] = [
    (
        "PostgreSQL",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF OLD.payload = '666' THEN RAISE 'refused'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON atomically_job FOR EACH ROW EXECUTE FUNCTION refuse()",
    ),
    (
        "MySQL",
        "CREATE TRIGGER refuse BEFORE UPDATE ON atomically_job FOR EACH ROW
             IF OLD.payload = '666' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF",
    ),
    (
        "SQLite",
        "CREATE TRIGGER refuse BEFORE UPDATE ON atomically_job WHEN OLD.payload = '666'
             BEGIN SELECT RAISE(ABORT, 'refused'); END",
    ),
];

/// The first statement claims a job and finds a spent one; the second one, for another job, fails.
async fn poisoned<DB: TestBackend>() -> (TestPool<DB>, Queue<DB>) {
    let (pool, queue) = queue::<DB>(3).await;
    enqueue(&pool, &queue, job(0).max_attempts(1)).await;
    assert_eq!(queue.claim(1).await.expect("a claim").len(), 1);
    lapse(&pool).await;
    for n in [1, 666] {
        enqueue(&pool, &queue, job(n)).await;
    }
    let (_, refusing) = REFUSING.into_iter().find(|(name, _)| *name == DB::NAME).expect("a trigger");
    let mut connection = pool.acquire().await.expect("a connection");
    DB::raw(&mut connection, refusing).await.expect("a trigger");
    drop(connection);
    // Another process, which starts at the front of the index.
    let other = Queue::new("jobs", &pool).expect("a name");
    (pool, other)
}

pub(crate) async fn a_claim_returns_the_jobs_that_precede_an_error<DB: TestBackend>() {
    let (_pool, queue) = poisoned::<DB>().await;
    let claims = queue.claim(2).await.expect("a part");
    assert_eq!(claims.len(), 1);
    // With nothing to return, the error is. PostgreSQL reports an error before it releases the locks of the
    // transaction, and a claim leaves out what is locked.
    let limit = Instant::now() + Duration::from_secs(30);
    let error = loop {
        match queue.claim(2).await {
            Ok(claims) => assert!(claims.is_empty() && Instant::now() < limit, "{claims:?}"),
            Err(error) => break error,
        }
    };
    assert!(error.failure().is_some(), "{error:?}");
}

pub(crate) async fn a_worker_reports_an_error_after_a_part_of_a_claim<DB: TestBackend>() {
    let (pool, queue) = poisoned::<DB>().await;
    let (worker, events) = worker(&queue);
    let worker = worker.handlers(2).poll_every(LONG);
    let (stop, running) = start(worker, |_| async { Ok(()) });
    // The spent job and the refused one stay.
    eventually(2, async || ask(&pool, "SELECT COUNT(*) FROM atomically_job").await).await;
    stopped(stop, running).await;
    let noted = noted(&events);
    let index_of = |part: &str| noted.iter().position(|event| event.starts_with(part));
    let (trouble, completed) = (index_of("trouble: "), index_of("completed "));
    assert!(trouble.is_some() && trouble < completed, "with the claim that it ended: {noted:?}");
    assert!(index_of("dead ").is_some(), "{noted:?}");
}
