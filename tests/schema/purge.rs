//! Purging what has expired.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::queue::{NewJob, Queue, Retry};
use atomically::{
    Begin, Error, Event, Isolation, Options, Pessimistic, Purge, PurgeEvent, PurgedTable, Resolve, Schema,
    SchemaPart, TransactorExt as _, Tx,
};
use sqlx::Pool;
use tokio::sync::Notify;

use crate::support::{ServerBackend, TestBackend, eventually};

/// What a purge did: the table, and the number of rows unless it failed.
type Noted = (PurgedTable, Option<u64>);

/// Records the events of a purge.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Noted>>>);

impl Notes {
    fn observe(&self, event: &Event<'_>) {
        let Event::Purge { event } = event else { return };
        self.0.lock().expect("the notes").push(match *event {
            PurgeEvent::Deleted { table, rows } => (table, Some(rows)),
            PurgeEvent::Failed { table, .. } => (table, None),
            _ => return,
        });
    }

    fn take(&self) -> Vec<Noted> {
        std::mem::take(&mut *self.0.lock().expect("the notes"))
    }
}

async fn change<DB: TestBackend>(pool: &Pool<DB>, sql: &str) -> u64 {
    DB::pool_execute(pool, DB::sql(sql), &[]).await.expect("a change")
}

/// A key that has expired.
fn expired_key<DB: TestBackend>() -> &'static str {
    if DB::NAME == "SQLite" {
        "INSERT INTO atomically_key (digest, fingerprint, run, created_at, expires_at)
         VALUES (randomblob(32), '', '', 1, 2)"
    } else {
        "INSERT INTO atomically_key (digest, fingerprint, run, created_at, expires_at)
         VALUES ('1', '', '', '2001-01-01', '2001-01-02')"
    }
}

/// Makes all operations old.
fn age_operations<DB: TestBackend>() -> &'static str {
    if DB::NAME == "SQLite" {
        "UPDATE atomically_operation SET recorded_at = 1"
    } else {
        "UPDATE atomically_operation SET recorded_at = '2001-01-01'"
    }
}

async fn run_with_operation<DB: TestBackend>(pool: &Pool<DB>) {
    let options = Options::new().resolve_commits(Resolve::Operation);
    let db = Pessimistic::default().on(pool).options(options);
    db.run(async |_: &mut Tx<DB>| Ok::<_, Error>(())).await.expect("a commit");
}

pub(crate) async fn what_has_expired_is_purged_and_counted<DB: TestBackend>() {
    let pool = DB::pool(4).await;
    Schema::new().create(&pool.pool).await.expect("created");
    for _ in 0..2 {
        run_with_operation(&pool).await;
    }
    assert_eq!(change(&pool, age_operations::<DB>()).await, 2);
    run_with_operation(&pool).await;
    change(&pool, expired_key::<DB>()).await;
    let [one, other] = ["one", "other"].map(|name| Queue::new(name, &pool.pool).expect("a name"));
    for queue in [&one, &other, &other] {
        let _ = queue.enqueue_alone(NewJob::new(&1).expect("a payload")).await.expect("a job");
        queue.claim(1).await.expect("a claim")[0].fail("no", Retry::Never).await.expect("dead");
    }
    change(&pool, "INSERT INTO atomically_job_lease VALUES (77, 1, 1)").await;
    for (id, part, column, confirmed_at) in
        [(1, 0, "one", "1"), (1, 1, "one", "1"), (2, 0, "other", "1"), (3, 0, "one", "NULL")]
    {
        let hold = "INSERT INTO atomically_hold \
                    (id, part, token, target, row_key, amount, expires_at, confirmed_at)";
        change(&pool, &format!("{hold} VALUES ({id}, {part}, 1, '{column}', '1', 1, 2, {confirmed_at})"))
            .await;
    }
    // Confirmed within the last hour.
    let confirmed = "UPDATE atomically_hold SET confirmed_at = ? WHERE id = 4";
    change(
        &pool,
        "INSERT INTO atomically_hold SELECT 4, part, token, target, row_key, amount, expires_at, 1 \
        FROM atomically_hold WHERE id = 3",
    )
    .await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let now = i64::try_from(now.as_micros()).expect("a time");
    DB::pool_execute(&pool, DB::sql(confirmed), &[now]).await.expect("confirmed");

    let notes = Notes::default();
    let seen = notes.clone();
    let hour = Duration::from_secs(60 * 60);
    let purge = Purge::new(&pool.pool).observed_by(move |event: &Event<'_>| seen.observe(event));
    let purged = purge.once().await.expect("nothing was selected");
    assert_eq!(purged, atomically::Purged::default());
    assert_eq!(notes.take(), []);

    let purge = purge.keys().operations(hour).dead_jobs(&one, Duration::ZERO);
    let purge = purge.dead_jobs(&other, Duration::ZERO).confirmed_holds(hour);
    let purged = purge.once().await.expect("purged");
    assert_eq!((purged.keys, purged.operations, purged.jobs, purged.job_leases), (1, 2, 3, 1));
    assert_eq!(purged.holds, 3);
    let tables = [
        (PurgedTable::Keys, Some(1)),
        (PurgedTable::Operations, Some(2)),
        (PurgedTable::JobLeases, Some(1)),
        (PurgedTable::Jobs, Some(1)),
        (PurgedTable::JobLeases, Some(0)),
        (PurgedTable::Jobs, Some(2)),
        (PurgedTable::Holds, Some(3)),
    ];
    assert_eq!(notes.take(), tables);
    assert_eq!(purge.once().await.expect("nothing is left"), atomically::Purged::default());
    let left = DB::sql("SELECT COUNT(*) FROM atomically_operation");
    assert_eq!(DB::pool_fetch(&pool, left, &[]).await.expect("a count"), 1, "it is not old");
    let left = DB::sql("SELECT COUNT(*) FROM atomically_hold WHERE id IN (3, 4)");
    assert_eq!(DB::pool_fetch(&pool, left, &[]).await.expect("a count"), 2, "active, or confirmed lately");
}

pub(crate) async fn a_table_that_cannot_be_purged_does_not_keep_others_from_it<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    Schema::new().only(&[SchemaPart::Operations]).create(&pool.pool).await.expect("created");
    run_with_operation(&pool).await;
    change(&pool, age_operations::<DB>()).await;
    let notes = Notes::default();
    let seen = notes.clone();
    let purge = Purge::new(&pool.pool).keys().operations(Duration::from_secs(60));
    let purge = purge.observed_by(move |event: &Event<'_>| seen.observe(event));
    let error = purge.once().await.expect_err("there are no keys");
    assert!(error.to_string().contains("create atomically_key"), "{error}");
    assert_eq!(notes.take(), [(PurgedTable::Keys, None), (PurgedTable::Operations, Some(1))]);
}

pub(crate) async fn purges_repeat_until_shutdown<DB: TestBackend>() {
    let pool = DB::pool(3).await;
    Schema::new().create(&pool.pool).await.expect("created");
    let (notes, stop) = (Notes::default(), Arc::new(Notify::new()));
    let (seen, stopped) = (notes.clone(), stop.clone());
    let purge = Purge::new(&pool.pool).keys().observed_by(move |event: &Event<'_>| seen.observe(event));
    let purging = tokio::spawn(async move {
        purge.every(Duration::ZERO, stopped.notified()).await;
    });
    let mut passes = Vec::new();
    eventually(true, async || {
        passes.extend(notes.take());
        !passes.is_empty()
    })
    .await;
    assert!(passes.iter().all(|pass| *pass == (PurgedTable::Keys, Some(0))), "{passes:?}");
    change(&pool, expired_key::<DB>()).await;
    eventually(true, async || {
        passes.extend(notes.take());
        passes.contains(&(PurgedTable::Keys, Some(1)))
    })
    .await;
    stop.notify_one();
    purging.await.expect("it ends");
}

/// A unit that is still open has written an operation. The purge neither waits for it nor deletes its row.
async fn purging_operations_does_not_wait_for_open_units<DB: ServerBackend>() {
    let pool = DB::pool(4).await;
    Schema::new().create(&pool.pool).await.expect("created");
    for _ in 0..2 {
        run_with_operation(&pool).await;
    }
    change(&pool, age_operations::<DB>()).await;
    let (open, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let unit = tokio::spawn({
        let (pool, open, finish) = (pool.pool.clone(), open.clone(), finish.clone());
        async move {
            let options =
                Options::new().resolve_commits(Resolve::Operation).deadline(Duration::from_secs(60));
            let db = Pessimistic::default().on(&pool).options(options);
            db.run(async |_: &mut Tx<DB>| {
                open.notify_one();
                finish.notified().await;
                Ok::<_, Error>(())
            })
            .await
        }
    });
    open.notified().await;
    // A purge that waited would end at its own deadline, because the unit waits for this test.
    let purge = Purge::new(&pool.pool).operations(Duration::from_secs(3600));
    let purged = purge.options(Options::new().deadline(Duration::from_secs(20))).once().await;
    assert_eq!(purged.expect("purged").operations, 2);
    finish.notify_one();
    unit.await.expect("no panic").expect("a commit");
    let left = DB::sql("SELECT COUNT(*) FROM atomically_operation");
    assert_eq!(DB::pool_fetch(&pool, left, &[]).await.expect("a count"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purging_operations_does_not_wait_for_open_units_on_postgres() {
    purging_operations_does_not_wait_for_open_units::<sqlx::Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purging_operations_does_not_wait_for_open_units_on_mariadb() {
    purging_operations_does_not_wait_for_open_units::<sqlx::MySql>().await;
}

/// Such as options that the database does not have, and one by which the purge itself would write an
/// operation in each batch.
pub(crate) async fn upkeep_ignores_the_options_of_units<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let db = Pessimistic::default().on(&pool.pool);
    for options in [
        Options::new().resolve_commits(Resolve::Operation),
        Options::new().deferrable().begin(Begin::Exclusive).idle_timeout(Duration::from_secs(1)),
        Options::new().isolation(Isolation::Serializable).read_only(),
    ] {
        let db = db.clone().options(options);
        db.create_operation_table().await.expect("the table of operations");
        db.create_key_table().await.expect("the table of keys");
        run_with_operation(&pool.pool).await;
        change(&pool, age_operations::<DB>()).await;
        let purging = db.purge_operations(Duration::ZERO);
        let purged = tokio::time::timeout(Duration::from_secs(20), purging).await.expect("it ends");
        assert_eq!(purged.expect("purged"), 1);
        let left = DB::sql("SELECT COUNT(*) FROM atomically_operation");
        assert_eq!(DB::pool_fetch(&pool, left, &[]).await.expect("a count"), 0);
    }
}
