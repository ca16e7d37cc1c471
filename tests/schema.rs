//! Processes that start at the same time make the crate's tables at the same time.

mod support;

use atomically::idempotency::KeyStore;
use atomically::queue::{Queue, QueueBackend};
use atomically::{Error, Pessimistic};
use sqlx::{PgPool, Postgres};
use std::time::{Duration, Instant};

use sqlx::{MySql, Sqlite};
use support::{TestBackend, eventually};

/// The first has made its table and not yet committed when the second comes. PostgreSQL's `IF NOT EXISTS` does not see
/// it, and its unique keys do.
async fn two_at_once<F: Future<Output = Result<(), Error>> + Send + 'static>(create: fn(PgPool) -> F) {
    let pool = Postgres::pool(4).await;
    let hold = "CREATE FUNCTION hold() RETURNS event_trigger LANGUAGE plpgsql AS
            $$BEGIN PERFORM pg_advisory_xact_lock(7); END$$;
        CREATE EVENT TRIGGER hold ON ddl_command_end EXECUTE FUNCTION hold()";
    sqlx::raw_sql(hold).execute(&pool.pool).await.expect("what holds up the first");
    let mut holder = pool.acquire().await.expect("a connection");
    sqlx::raw_sql("SELECT pg_advisory_lock(7)").execute(&mut *holder).await.expect("hold it up");
    let waiting = async || {
        let count = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&pool.pool).await.expect("a count")
    };
    let first = tokio::spawn(create(pool.pool.clone()));
    eventually(1, waiting).await;
    let second = tokio::spawn(create(pool.pool.clone()));
    eventually(2, waiting).await;
    sqlx::raw_sql("SELECT pg_advisory_unlock(7)").execute(&mut *holder).await.expect("let it go");
    for creator in [first, second] {
        creator.await.expect("no panic").expect("the tables");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_make_the_table_of_operations() {
    two_at_once(|pool| async move { Pessimistic::default().on(&pool).create_operation_table().await }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_make_the_table_of_keys() {
    two_at_once(|pool| async move { Pessimistic::default().on(&pool).create_key_table().await }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_make_the_tables_of_queues() {
    two_at_once(|pool| async move { Queue::new("jobs", &pool)?.create_tables().await }).await;
}

/// Makes all tables of the crate, as a program does that starts.
async fn create_all<DB: TestBackend + QueueBackend + KeyStore>(pool: &sqlx::Pool<DB>) -> Result<(), Error> {
    let db = Pessimistic::default().on(pool);
    db.create_operation_table().await?;
    db.create_key_table().await?;
    Queue::new("jobs", pool)?.create_tables().await
}

/// A process starts while another one writes, or has the tables locked altogether.
async fn tables_that_exist_are_not_locked<DB: TestBackend + QueueBackend + KeyStore>(lock: &[&'static str]) {
    let pool = DB::pool(3).await;
    create_all(&pool.pool).await.expect("the tables");
    let mut writer = pool.acquire().await.expect("a connection");
    for sql in lock {
        DB::raw(&mut writer, sql).await.expect("a statement");
    }
    let begun = Instant::now();
    create_all(&pool.pool).await.expect("nothing is missing");
    assert!(begun.elapsed() < Duration::from_secs(2), "it waited for {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_tables_that_exist_are_not_locked() {
    let write = "INSERT INTO atomically_job (queue, priority, max_attempts, enqueued_at, payload)
                 VALUES ('jobs', 1, 1, 0, '')";
    let keys = "LOCK TABLE atomically_key, atomically_operation";
    tables_that_exist_are_not_locked::<Postgres>(&["BEGIN", write, keys]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_tables_that_exist_are_not_locked() {
    let lock = "LOCK TABLES atomically_job WRITE, atomically_job_lease WRITE, atomically_key WRITE,
                atomically_operation WRITE";
    tables_that_exist_are_not_locked::<MySql>(&[lock]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_tables_that_exist_are_not_locked() {
    tables_that_exist_are_not_locked::<Sqlite>(&["BEGIN IMMEDIATE"]).await;
}

/// An index that is missing is waited for with a limit, and the other writers are not stopped meanwhile for longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_an_index_that_is_missing_stops_no_writer_for_long() {
    let pool = Postgres::pool(4).await;
    create_all(&pool.pool).await.expect("the tables");
    sqlx::raw_sql("DROP INDEX atomically_job_dead").execute(&pool.pool).await.expect("dropped");
    let mut writer = pool.acquire().await.expect("a connection");
    let write = "INSERT INTO atomically_job (queue, priority, max_attempts, enqueued_at, payload)
                 VALUES ('jobs', 1, 1, 0, '')";
    sqlx::raw_sql("BEGIN").execute(&mut *writer).await.expect("begun");
    sqlx::raw_sql(write).execute(&mut *writer).await.expect("a write");
    let creating = tokio::spawn({
        let pool = pool.pool.clone();
        async move { create_all(&pool).await }
    });
    let waiting = async || {
        let count = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&pool.pool).await.expect("a count")
    };
    eventually(1, waiting).await;
    let begun = Instant::now();
    sqlx::raw_sql(write).execute(&pool.pool).await.expect("a write of another session");
    assert!(begun.elapsed() < Duration::from_secs(3), "it was stopped for {:?}", begun.elapsed());
    sqlx::raw_sql("COMMIT").execute(&mut *writer).await.expect("committed");
    creating.await.expect("no panic").expect("the index");
    let made: bool = sqlx::query_scalar("SELECT to_regclass('atomically_job_dead') IS NOT NULL")
        .fetch_one(&pool.pool)
        .await
        .expect("an answer");
    assert!(made);
}
