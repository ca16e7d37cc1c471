//! What becomes of jobs.

use std::time::{Duration, SystemTime};

use atomically::queue::{Enqueued, FailOutcome, NewJob, Priority, Queue, Retry};
use atomically::{Backoff, Error, ErrorKind, Pessimistic, TransactorExt as _};

use crate::{QueueTest, ask, claim_one, enqueue, job, lapse, queue};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn a_job_is_there_if_and_only_if_its_transaction_is<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx| {
            assert!(queue.enqueue(tx, job(1)).await?.id().is_some());
            Err::<(), Error>(sqlx::Error::RowNotFound.into())
        })
        .await;
    error.expect_err("its own error");
    assert!(queue.claim(10).await.expect("a claim").is_empty());

    let id = enqueue(&pool, &queue, job(2)).await;
    let claims = queue.claim(10).await.expect("a claim");
    let found: Vec<_> = claims.iter().map(|claim| (claim.id(), claim.token(), claim.attempt())).collect();
    assert_eq!(found, [(id, 1, 1)]);
    assert_eq!(claims[0].payload::<i64>().expect("the payload"), 2);
    assert!(queue.claim(10).await.expect("a claim").is_empty(), "it is claimed");
    let counts = queue.counts().await.expect("the counts");
    assert_eq!((counts.due, counts.claimed, counts.scheduled, counts.dead), (0, 1, 0, 0));
    claims[0].complete().await.expect("complete");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job").await, 0);
    let other = Queue::new("other", &pool).expect("a name");
    enqueue(&pool, &queue, job(3)).await;
    assert!(other.claim(10).await.expect("a claim").is_empty(), "queues are apart");
    assert!(queue.claim(0).await.expect("a claim").is_empty(), "nothing was asked for");
}

pub(crate) async fn turns_go_by_priority_and_then_by_due_time<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
    let mut wanted = Vec::new();
    for (turn, priority, seconds) in [
        (4, Priority::Normal, 10),
        (6, Priority::Low, 99),
        (1, Priority::High, 20),
        (3, Priority::Normal, 30),
        (2, Priority::High, 10),
        (5, Priority::Normal, 5),
    ] {
        let id = enqueue(&pool, &queue, job(turn).priority(priority).run_at(ago(seconds))).await;
        wanted.push((turn, id));
    }
    wanted.sort_unstable();
    let mut got = Vec::new();
    for most in [3, 1, 5] {
        got.extend(queue.claim(most).await.expect("a claim").iter().map(|claim| claim.id()));
        assert_eq!(got.len(), [3, 4, 6][usize::from(most != 3) + usize::from(most == 5)]);
    }
    assert_eq!(got, wanted.iter().map(|(_, id)| *id).collect::<Vec<_>>());
}

pub(crate) async fn a_job_is_not_claimed_before_it_is_due<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, job(1).run_after(HOUR)).await;
    enqueue(&pool, &queue, job(2).run_at(SystemTime::now() + HOUR)).await;
    enqueue(&pool, &queue, job(3).run_after(Duration::MAX)).await;
    assert!(queue.claim(10).await.expect("a claim").is_empty());
    assert_eq!(queue.counts().await.expect("the counts").scheduled, 3);
    let later = "UPDATE atomically_job SET due_at = due_at - 3600000000";
    DB::pool_execute(&pool, DB::sql(later), &[]).await.expect("an hour has passed");
    assert_eq!(queue.claim(10).await.expect("a claim").len(), 2);
}

pub(crate) async fn unique_keys_are_unique_among_the_living<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let other = Queue::new("other", &pool).expect("a name");
    let keyed = |key: &str| job(1).unique(key).expect("a key");
    let add = async |queue: &Queue<DB>, key: &str| {
        let job = keyed(key);
        db.run(async |tx| queue.enqueue(tx, job).await).await.expect("a commit")
    };
    assert!(matches!(add(&queue, "a").await, Enqueued::Added(_)));
    assert_eq!(add(&queue, "a").await, Enqueued::Duplicate);
    // What collations like to take for the same, and another queue.
    for (queue, key) in [(&queue, "A"), (&queue, "a "), (&queue, "ä"), (&queue, ""), (&other, "a")] {
        assert!(matches!(add(queue, key).await, Enqueued::Added(_)), "{key:?}");
    }
    let claim = claim_one(&queue).await;
    assert_eq!(add(&queue, "a").await, Enqueued::Duplicate, "it is still at work");
    claim.complete().await.expect("complete");
    let Enqueued::Added(id) = add(&queue, "a").await else { panic!("the key is free again") };

    let claims = queue.claim(10).await.expect("a claim");
    let claim = claims.iter().find(|claim| claim.id() == id).expect("it is due");
    claim.fail("no", Retry::Never).await.expect("dead");
    assert!(matches!(add(&queue, "a").await, Enqueued::Added(_)), "the dead have no keys");
    let error = queue.requeue(id).await.expect_err("the key is another's now");
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
}

pub(crate) async fn many_are_enqueued_at_once<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let mut jobs: Vec<NewJob> = (0..2_500).map(job).collect();
    for (at, key) in [(0, "k"), (1, "k"), (2_400, "k"), (7, "l")] {
        jobs[at] = job(0).unique(key).expect("a key");
    }
    let added = db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    assert_eq!(added, 2_498);
    assert_eq!(db.run(async |tx| queue.enqueue_many(tx, &[]).await).await.expect("a commit"), 0);
    let mut claimed = 0;
    loop {
        let claims = queue.claim(1_000).await.expect("a claim");
        if claims.is_empty() {
            break;
        }
        claimed += claims.len();
    }
    assert_eq!(claimed, 2_498);
}

pub(crate) async fn a_job_that_fails_is_tried_again_and_dies<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let queue = queue.max_attempts(3).backoff(Backoff::exponential(HOUR, HOUR));
    let id = enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    let fate = claim.fail("first", Retry::Backoff).await.expect("a fate");
    assert!(matches!(fate, FailOutcome::Retried(delay) if delay <= HOUR), "{fate:?}");
    assert_eq!(queue.counts().await.expect("the counts").scheduled, 1);
    assert!(queue.claim(1).await.expect("a claim").is_empty(), "not yet");
    assert!(claim.complete().await.expect_err("it has failed").is_stale_claim());

    lapse(&pool).await;
    let claim = claim_one(&queue).await;
    assert_eq!((claim.attempt(), claim.last_error()), (2, Some("first")));
    let fate = claim.fail("second", Retry::After(Duration::ZERO)).await.expect("a fate");
    assert_eq!(fate, FailOutcome::Retried(Duration::ZERO));

    let claim = claim_one(&queue).await;
    assert_eq!((claim.attempt(), claim.max_attempts()), (3, 3));
    assert_eq!(claim.fail("third", Retry::After(HOUR)).await.expect("a fate"), FailOutcome::Dead);
    lapse(&pool).await;
    assert!(queue.claim(1).await.expect("a claim").is_empty());
    let dead = queue.dead(10).await.expect("the dead");
    assert_eq!((dead.len(), dead[0].id, dead[0].attempts), (1, id, 3));
    assert_eq!((dead[0].json.as_str(), dead[0].last_error.as_deref()), ("1", Some("third")));

    assert!(queue.requeue(id).await.expect("requeued"));
    assert!(!queue.requeue(id).await.expect("it lives"));
    let again = claim_one(&queue).await;
    assert_eq!((again.id(), again.attempt()), (id, 1));
    assert!(again.token() > claim.token(), "tokens only ever grow");
    again.complete().await.expect("complete");
}

pub(crate) async fn a_job_can_be_dead_at_once<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    let long = "\u{fc}\0".repeat(5_000);
    assert_eq!(claim.fail(&long, Retry::Never).await.expect("a fate"), FailOutcome::Dead);
    let dead = queue.dead(1).await.expect("the dead");
    let error = dead[0].last_error.as_deref().expect("an error");
    assert!(error.starts_with("\u{fc}\u{fffd}\u{fc}") && error.len() < 10_000, "{error}");
}

pub(crate) async fn a_job_that_is_released_has_lost_nothing<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, job(1).max_attempts(1)).await;
    let first = claim_one(&queue).await;
    first.release().await.expect("released");
    assert!(first.complete().await.expect_err("given back").is_stale_claim());
    let second = claim_one(&queue).await;
    assert_eq!((second.attempt(), second.token() > first.token()), (1, true));
    assert!(first.complete().await.expect_err("given back").is_stale_claim());
    second.complete().await.expect("complete");
}

pub(crate) async fn a_lapsed_lease_is_taken_over_and_counts<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let id = enqueue(&pool, &queue, job(1)).await;
    let first = claim_one(&queue).await;
    assert!(queue.claim(1).await.expect("a claim").is_empty());
    lapse(&pool).await;
    let second = claim_one(&queue).await;
    assert_eq!((second.id(), second.attempt(), second.token()), (id, 2, first.token() + 1));
    // No lease is shorter than a tenth of a second.
    let hasty = queue.clone().lease(Duration::ZERO);
    lapse(&pool).await;
    claim_one(&hasty).await.extend().await.expect("held");
    assert!(queue.claim(1).await.expect("a claim").is_empty(), "it lapsed at once");
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(claim_one(&queue).await.attempt(), 4);
}

/// It killed its worker each time: nobody else shall try.
pub(crate) async fn a_last_attempt_that_lapses_is_dead<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let poison = enqueue(&pool, &queue, job(1).max_attempts(2)).await;
    let sound = enqueue(&pool, &queue, job(2)).await;
    for _ in 0..2 {
        lapse(&pool).await;
        assert_eq!(queue.claim(10).await.expect("a claim").len(), 2);
    }
    lapse(&pool).await;
    let claims = queue.claim(10).await.expect("a claim");
    assert_eq!(claims.iter().map(|claim| claim.id()).collect::<Vec<_>>(), [sound]);
    let dead = queue.dead(10).await.expect("the dead");
    assert_eq!((dead.len(), dead[0].id, dead[0].attempts), (1, poison, 2));
    assert!(dead[0].last_error.as_deref().is_some_and(|error| error.contains("lapsed")), "{dead:?}");
}

pub(crate) async fn an_extended_lease_holds<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let id = enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    claim.extend().await.expect("held");
    claim.extend().await.expect("held");
    let lapsed = "UPDATE atomically_job SET due_at = 1";
    DB::pool_execute(&pool, DB::sql(lapsed), &[]).await.expect("the first lease lapses");
    assert!(queue.claim(1).await.expect("a claim").is_empty());
    let counts = queue.counts().await.expect("the counts");
    assert_eq!((counts.claimed, counts.due), (1, 0));
    lapse(&pool).await;
    let taken = claim_one(&queue).await;
    assert_eq!((taken.id(), taken.attempt()), (id, 2));
    // The extended lease was the first claim's and protects no other.
    let sql = "UPDATE atomically_job_lease SET until = until + 4000000000000000000";
    DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("an update");
    DB::pool_execute(&pool, DB::sql(lapsed), &[]).await.expect("an update");
    assert_eq!(claim_one(&queue).await.attempt(), 3);
}

/// Else a claim of the one that is done would be a claim of the next one.
pub(crate) async fn ids_are_never_given_out_again<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let first = enqueue(&pool, &queue, job(1)).await;
    let done = claim_one(&queue).await;
    done.complete().await.expect("complete");
    let second = enqueue(&pool, &queue, job(2)).await;
    assert!(second > first);
    let claim = claim_one(&queue).await;
    assert!(done.complete().await.expect_err("it is done").is_stale_claim());
    claim.complete().await.expect("complete");
}

/// A claim begins where the last one ended.
pub(crate) async fn what_is_due_and_behind_is_found<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    let behind = enqueue(&pool, &queue, job(2).run_at(SystemTime::now() - HOUR)).await;
    assert_eq!(claim_one(&queue).await.id(), behind);
    lapse(&pool).await;
    let ids: Vec<_> = queue.claim(5).await.expect("a claim").iter().map(|claim| claim.id()).collect();
    assert_eq!(ids, [claim.id(), behind]);
}

pub(crate) async fn claims_do_not_wait_for_locked_jobs<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    for n in 0..4 {
        enqueue(&pool, &queue, job(n)).await;
    }
    let first = claim_one(&queue).await;
    lapse(&pool).await;
    let others = Queue::new("jobs", &DB::another(&pool.url).await).expect("a name");
    let db = Pessimistic::default().on(&pool).deadline(HOUR);
    let ids = db
        .run(async |tx| {
            first.complete_in(tx).await?;
            let claims = others.claim(10).await?;
            Ok::<_, Error>(claims.iter().map(|claim| claim.id()).collect::<Vec<_>>())
        })
        .await;
    // There is one writer at a time, and that is the one that completes.
    if pool.url.starts_with("sqlite") {
        assert!(ids.expect_err("it waits, and not for ever").is_conflict());
        return;
    }
    let ids = ids.expect("a commit");
    assert_eq!((ids.len(), ids.contains(&first.id())), (3, false));
}

pub(crate) async fn bad_input_is_refused<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    for name in ["", "it's", "a b", "\u{fc}", &"n".repeat(101)] {
        let error = Queue::<DB>::new(name, &pool).expect_err("a bad name");
        assert!(error.to_string().contains("name of a queue"), "{error}");
    }
    enqueue(&pool, &queue, NewJob::new("text").expect("a payload")).await;
    let claim = claim_one(&queue).await;
    let error = claim.payload::<i64>().expect_err("it is a text");
    assert!(error.to_string().contains("the JSON does not fit the type"), "{error}");
    assert!(!error.to_string().contains("text"), "the payload is quoted: {error}");
    let map = std::collections::BTreeMap::from([((1, 2), 3)]);
    NewJob::new(&map).expect_err("JSON has no such keys");
}

pub(crate) async fn payloads_come_back_as_they_were<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let texts =
        ["", "'; DROP TABLE atomically_job; --", "\u{1f980}\0\u{fffd}\\\n", "$1 ? {}", &"x".repeat(300_000)];
    for text in texts {
        enqueue(&pool, &queue, NewJob::new(text).expect("a payload")).await;
        let claim = claim_one(&queue).await;
        assert_eq!(claim.payload::<String>().expect("the payload"), text);
        claim.complete().await.expect("complete");
    }
    // Many at once may be sent in another way; and so may one that nothing else is stored with.
    let jobs: Vec<_> = texts.iter().map(|text| NewJob::new(text).expect("a payload")).collect();
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    for job in jobs {
        let _ = queue.enqueue_alone(job).await.expect("a commit");
    }
    let claims = queue.claim(100).await.expect("a claim");
    let back: Vec<_> = claims.iter().map(|claim| claim.payload::<String>().expect("the payload")).collect();
    assert_eq!(back, texts.repeat(2));
}

/// Next to what is enqueued by itself, on whatever way it is sent.
pub(crate) async fn all_that_a_job_asks_for_is_kept<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let keys = ["plain", "'", "\\", "\"", "{}", "NULL", ",", "\u{fc}"];
    let jobs = |alone: bool| -> Vec<NewJob> {
        let mark = if alone { "alone" } else { "many" };
        let job = |key: &&str| job(1).unique(format!("{mark}{key}")).expect("a key");
        let mut jobs: Vec<_> = keys.iter().map(job).collect();
        let early = self::job(1).unique_until_claimed(mark).expect("a key");
        jobs.push(early.max_attempts(7).priority(Priority::High).run_after(HOUR));
        jobs.push(job(&"past").run_at(SystemTime::UNIX_EPOCH + HOUR));
        jobs
    };
    let many = jobs(false);
    let added = db.run(async |tx| queue.enqueue_many(tx, &many).await).await.expect("a commit");
    assert_eq!(added, 10);
    for job in jobs(true) {
        assert!(matches!(queue.enqueue_alone(job).await.expect("a commit"), Enqueued::Added(_)));
    }
    for job in jobs(true).into_iter().chain(jobs(false)) {
        assert_eq!(queue.enqueue_alone(job).await.expect("a commit"), Enqueued::Duplicate);
    }
    let kept = |which: &str| format!("SELECT COUNT(*) FROM atomically_job WHERE {which}");
    for (which, wanted) in [
        ("priority = 0 AND max_attempts = 7 AND due_at = enqueued_at + 3600000000", 2),
        ("due_at = 3600000000 AND priority = 1 AND max_attempts = 25", 2),
        ("due_at = enqueued_at AND priority = 1 AND max_attempts = 25", 16),
        ("unique_until_claimed AND priority = 0", 2),
        ("unique_until_claimed", 2),
    ] {
        assert_eq!(ask(&pool, &kept(which)).await, wanted, "{which}");
    }
    let found: std::collections::BTreeSet<_> =
        [claim_one(&queue).await.id(), claim_one(&queue).await.id()].into();
    assert_eq!(found.len(), 2);
}

pub(crate) async fn the_dead_are_purged<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..1_500).map(job).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    let kill =
        "UPDATE atomically_job SET due_at = NULL, died_at = enqueued_at - 7200000000 WHERE id % 10 <> 0";
    DB::pool_execute(&pool, DB::sql(kill), &[]).await.expect("most die");
    let claim = claim_one(&queue).await;
    claim.extend().await.expect("held");
    claim.complete().await.expect("complete");
    let held = claim_one(&queue).await;
    held.extend().await.expect("held");
    let old = "UPDATE atomically_job_lease SET until = until - 9000000000";
    DB::pool_execute(&pool, DB::sql(old), &[]).await.expect("time passes");
    assert_eq!(queue.purge(HOUR * 3).await.expect("a purge"), 0, "not yet");
    assert_eq!(queue.purge(HOUR).await.expect("a purge"), 1_350);
    let counts = queue.counts().await.expect("the counts");
    assert_eq!((counts.due, counts.claimed, counts.dead), (148, 1, 0));
    assert!(counts.lag > Duration::ZERO);
    assert_eq!(
        ask(&pool, "SELECT COUNT(*) FROM atomically_job_lease").await,
        1,
        "that of the job that is held"
    );
}

/// A claim that is held up in the middle, with its locks, after it has found its job and before it has stored
/// that.
async fn next_to_a_claim_that_is_held_up<DB: QueueTest>(
    hold: &[&'static str],
    held: &str,
    let_go: &'static str,
) {
    let (pool, queue) = queue::<DB>(4).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..400).map(job).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    let mut holder = pool.acquire().await.expect("a connection");
    for sql in hold {
        DB::raw(&mut holder, sql).await.expect("hold it up");
    }
    let first = queue.clone();
    let first = tokio::spawn(async move { claim_one(&first).await.id() });
    crate::support::eventually(1, async || ask(&pool, held).await).await;
    let claims = Queue::new("jobs", &pool).expect("a name").claim(300).await.expect("a claim");
    assert_eq!(claims.len(), 300, "the claim that is held up keeps more than it has found");
    let _ = db.run(async |tx| queue.enqueue(tx, job(0)).await).await.expect("and nobody from adding to it");
    assert!(!first.is_finished(), "it was not held up");
    DB::raw(&mut holder, let_go).await.expect("let it go");
    let first = first.await.expect("it is done");
    assert!(claims.iter().all(|claim| claim.id() != first), "claimed twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_claims_lock_no_more_than_they_find() {
    next_to_a_claim_that_is_held_up::<sqlx::Postgres>(
        &[
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END'",
            "CREATE TRIGGER hold BEFORE UPDATE ON atomically_job FOR EACH ROW WHEN (NEW.id = 1)
                 EXECUTE FUNCTION hold()",
            "SELECT pg_advisory_lock(7)",
        ],
        "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        "SELECT pg_advisory_unlock(7)",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_claims_lock_no_more_than_they_find() {
    next_to_a_claim_that_is_held_up::<sqlx::MySql>(
        &[
            "CREATE TRIGGER hold BEFORE UPDATE ON atomically_job FOR EACH ROW
                 SET @held = IF(NEW.id = 1, GET_LOCK(DATABASE(), 60), 0)",
            "DO GET_LOCK(DATABASE(), 60)",
        ],
        "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User lock'",
        "DO RELEASE_LOCK(DATABASE())",
    )
    .await;
}
