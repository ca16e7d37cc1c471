//! Everything that uses the crate's tables.

use std::sync::Arc;
use std::time::Duration;

use atomically::holds::{Confirmation, HoldKey, HoldOutcome, Holds};
use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome, once_in};
use atomically::lease::Lease;
use atomically::queue::{Claim, JobState, NewJob, Queue, Reschedule, Retry, Worker, complete_all_in};
use atomically::testing::{Fault, Faults, Moment};
use atomically::{
    Error, Event, Options, Pessimistic, PoolTransactor, Purge, Resolve, Schema, TransactorExt as _, Tx,
    UnitEvent,
};
use sqlx::Pool;
use tokio::sync::{Notify, Semaphore};

use crate::support::{TestBackend, eventually};

fn job() -> NewJob {
    NewJob::new(&1).expect("a payload")
}

/// Uses each statement of the crate on its tables. There must be tables with the names of this schema only.
pub(crate) async fn use_all_features<DB: TestBackend>(pool: &Pool<DB>, schema: Schema)
where
    i64: HoldKey<DB>,
{
    let options = Options::new().schema(schema);
    let db = Pessimistic::default().on(pool).options(options.clone());
    use_keys_and_operations(pool, schema).await;
    // A name that looks like that of a table.
    let queue = Queue::new("atomically_job", pool).expect("a name").options(options.clone());
    use_queue(pool, schema, &queue).await;
    assert_eq!(queue.doctor().await.expect("an answer"), []);
    let lease = Lease::new("atomically_lease", pool).options(options.clone());
    use_lease(pool, &lease).await;
    use_holds(pool, &options).await;
    lease.create_tables().await.expect("nothing is missing");
    let purge = Purge::new(pool).options(options).keys().operations(Duration::ZERO);
    purge.dead_jobs(&queue, Duration::ZERO).once().await.expect("purged");
    db.create_key_table().await.expect("nothing is missing");
    db.create_operation_table().await.expect("nothing is missing");
    queue.create_tables().await.expect("nothing is missing");
}

async fn use_keys_and_operations<DB: TestBackend>(pool: &Pool<DB>, schema: Schema) {
    let db = Pessimistic::default().on(pool).options(Options::new().schema(schema));
    let key = |name: &str| IdempotencyKey::new("scope", name).expect("a key");
    let work = async |_: &mut Tx<DB>| Ok::<_, Error>(7);
    for outcome in [Outcome::Fresh(7), Outcome::Replayed(7)] {
        assert_eq!(db.once(&key("a")).run(work).await.expect("an outcome"), outcome);
        let part = async |tx: &mut Tx<DB>| once_in(tx, &key("b")).run(work).await;
        assert_eq!(db.run(part).await.expect("an outcome"), outcome);
    }
    assert!(db.keys().find(&key("a")).await.expect("found out").is_some());
    assert!(db.keys().release(&key("a")).await.expect("released"));

    // The first commit is not acknowledged, and is found by its row.
    let resolving = db.clone().options(Options::new().resolve_commits(Resolve::Operation));
    let unheard = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    assert_eq!(unheard.on(&resolving).run(work).await.expect("a commit"), 7);
}

async fn use_holds<DB: TestBackend>(pool: &Pool<DB>, options: &Options)
where
    i64: HoldKey<DB>,
{
    for sql in [
        "CREATE TABLE IF NOT EXISTS stock (id BIGINT PRIMARY KEY, free BIGINT)",
        "DELETE FROM stock",
        "INSERT INTO stock VALUES (1, 9)",
    ] {
        DB::pool_execute(pool, DB::sql(sql), &[]).await.expect(sql);
    }
    let db = Pessimistic::default().on(pool);
    for single_statement in [true, false] {
        let holds = Holds::<DB, i64>::on(pool, "stock", "id", "free").options(options.clone());
        let holds = holds.single_statement(single_statement);
        holds.create_tables().await.expect("nothing is missing");
        let hold = async |ttl| match holds.hold(1, 1, ttl).await.expect("an answer") {
            HoldOutcome::Held(hold) => hold,
            other => panic!("{other:?}"),
        };
        let hour = Duration::from_secs(3600);
        let (bought, released, expired) = (hold(hour).await, hold(hour).await, hold(Duration::ZERO).await);
        let found = holds.find(bought.id(), bought.token()).await.expect("an answer").expect("it is active");
        let confirm = async |tx: &mut Tx<DB>| found.confirm_in(tx).await;
        assert_eq!(db.run(confirm).await.expect("in time"), Confirmation::Confirmed);
        assert_eq!(db.run(confirm).await.expect("told apart"), Confirmation::AlreadyConfirmed);
        assert!(released.release().await.expect("released"));
        eventually(true, async || {
            holds.sweep().await.expect("swept");
            holds.find(expired.id(), expired.token()).await.expect("an answer").is_none()
        })
        .await;
        assert_eq!(holds.purge(Duration::ZERO).await.expect("purged"), 1);
    }
    DB::pool_execute(pool, DB::sql("DROP TABLE stock"), &[]).await.expect("dropped");
}

async fn use_lease<DB: TestBackend>(pool: &Pool<DB>, lease: &Lease<DB>) {
    let mut used = 0;
    for _ in 0..20 {
        used += u32::from(is_renewed_and_released(pool, lease).await);
        if used == 2 {
            return;
        }
    }
    panic!("the machine was too busy each time to renew the lease in time");
}

/// Acquires, renews, checks and releases the lease. Returns false if it expired meanwhile.
async fn is_renewed_and_released<DB: TestBackend>(pool: &Pool<DB>, lease: &Lease<DB>) -> bool {
    let renewed = Arc::new(Semaphore::new(0));
    let counter = renewed.clone();
    let observed = lease.clone().ttl(Duration::from_secs(3)).observed_by(move |event: &Event<'_>| {
        if let Event::Unit { event: UnitEvent::StatementDone { sql, failure: None, .. }, .. } = event
            && sql.starts_with("UPDATE ")
            && sql.contains("atomically_lease_expiry SET until")
        {
            counter.add_permits(1);
        }
    });
    let held = observed.acquire(Duration::from_secs(60)).await.expect("an answer").expect("it is free");
    let other = lease.try_acquire().await.expect("an answer");
    tokio::select! {
        permit = renewed.acquire() => drop(permit.expect("a renewal")),
        () = held.lost() => return false,
    }
    let db = Pessimistic::default().on(pool);
    let checked = db.run(async |tx: &mut Tx<DB>| held.check_in(tx).await).await;
    if held.is_lost() {
        return false;
    }
    assert!(other.is_none(), "there were two holders");
    checked.expect("it is held");
    held.release().await.expect("released");
    true
}

async fn use_queue<DB: TestBackend>(pool: &Pool<DB>, schema: Schema, queue: &Queue<DB>) {
    // The queue knows its tables, whatever the transaction's options are.
    for db in [
        Pessimistic::default().on(pool),
        Pessimistic::default().on(pool).options(Options::new().schema(schema)),
    ] {
        let enqueues = async |tx: &mut Tx<DB>| {
            let unique = || job().unique("atomically_job");
            assert!(queue.enqueue(tx, unique()?).await?.id().is_some());
            assert!(queue.enqueue(tx, unique()?).await?.id().is_none());
            queue.enqueue_many(tx, &[job(), job(), job()]).await
        };
        assert_eq!(db.run(enqueues).await.expect("enqueued"), 3);
        let _ = queue.enqueue_alone(job()).await.expect("enqueued");
        assert_eq!(
            (queue.counts().await.expect("counts").due, queue.depth().await.expect("depth").ready),
            (5, 5)
        );

        let claims = queue.claim(10).await.expect("claims");
        let [extends, fails, releases, reschedules, completes] =
            <[Claim<DB>; 5]>::try_from(claims).expect("five");
        extends.extend().await.expect("extended");
        db.run(async |tx| extends.complete_in(tx).await).await.expect("complete");
        fails.fail("no", Retry::Never).await.expect("dead");
        releases.release().await.expect("released");
        let later = Reschedule::after(Duration::ZERO).payload(&2).expect("a payload");
        db.run(async |tx| reschedules.reschedule_in(tx, later).await).await.expect("rescheduled");
        completes.complete().await.expect("complete");
        let dead = queue.dead(10).await.expect("dead jobs");
        assert!(queue.requeue(dead[0].id).await.expect("requeued"));
        let claims = queue.claim(2).await.expect("claims");
        db.run(async |tx| complete_all_in(tx, &claims).await).await.expect("complete");
        run_worker(queue).await;
        use_keys(&db, queue).await;
    }
}

/// Ordered and limited jobs, and the calls for operators.
async fn use_keys<DB: TestBackend>(db: &PoolTransactor<DB, Pessimistic>, queue: &Queue<DB>) {
    let ordered = || job().in_order_of("atomically_job").expect("a key");
    let limited = || job().at_most("atomically_job", 1).expect("a key");
    let jobs = [ordered(), ordered(), limited(), limited()];
    assert_eq!(db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("enqueued"), 4);
    for _ in 0..2 {
        let claims = queue.claim(10).await.expect("claims");
        assert_eq!(
            (claims.len(), queue.list(JobState::Claimed, None, 10).await.expect("a list").len()),
            (2, 2)
        );
        db.run(async |tx| complete_all_in(tx, &claims).await).await.expect("complete");
    }
    let id = queue.enqueue_alone(limited()).await.expect("enqueued").id().expect("no duplicate");
    let claim = queue.claim(1).await.expect("a claim").remove(0);
    claim.snooze(Duration::ZERO).await.expect("snoozed");
    let claim = queue.claim(1).await.expect("a claim").remove(0);
    claim.fail("no", Retry::Never).await.expect("dead");
    assert_eq!(queue.requeue_many(&[id]).await.expect("requeued"), 1);
    assert!(queue.pause().await.expect("paused") && queue.is_paused().await.expect("an answer"));
    assert!(queue.claim(1).await.expect("a claim").is_empty());
    assert!(queue.resume().await.expect("resumed"));
    assert!(queue.cancel(id).await.expect("cancelled") && queue.get(id).await.expect("an answer").is_none());
    assert!(!queue.discard(id).await.expect("an answer"));
}

/// Runs a worker until it has completed the last job.
async fn run_worker<DB: TestBackend>(queue: &Queue<DB>) {
    let done = Arc::new(Notify::new());
    let completes = done.clone();
    let worker = Worker::new(queue).poll_every(Duration::from_millis(20));
    worker
        .run(done.notified(), move |claim: Arc<Claim<DB>>| {
            let completes = completes.clone();
            async move {
                claim.complete().await?;
                completes.notify_one();
                Ok(())
            }
        })
        .await;
    assert_eq!(queue.counts().await.expect("counts").due, 0);
}

pub(crate) async fn all_features_work_with_a_prefix<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let pool = DB::pool(8).await;
    let schema = Schema::prefixed("app_").expect("a prefix");
    schema.create(&pool.pool).await.expect("created");
    use_all_features(&pool.pool, schema).await;
    assert_eq!(schema.check(&pool.pool).await.expect("checked"), []);
    // A second prefix on the same connections: statements that they keep prepared name the right tables.
    let other = Schema::prefixed("other_").expect("a prefix");
    other.create(&pool.pool).await.expect("created");
    use_all_features(&pool.pool, other).await;
    assert_eq!(
        Schema::new().check(&pool.pool).await.expect("checked").len(),
        10,
        "there are no other tables"
    );
}
