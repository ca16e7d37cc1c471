//! Processes that start at the same time create the crate's tables at the same time.

use atomically::ErrorKind;
use atomically::queue::Queue;
use atomically::{Error, Pessimistic};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, PgPool, Postgres, Sqlite};
use std::time::{Duration, Instant};

use crate::support::servers::Server;
use crate::support::{TestBackend, eventually};

/// The first process has created its table and not yet committed when the second one starts. PostgreSQL's `IF
/// NOT EXISTS` does not see the table, but the unique keys of the catalog do.
async fn create_concurrently<F: Future<Output = Result<(), Error>> + Send + 'static>(
    create: fn(PgPool) -> F,
) {
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
async fn two_processes_create_the_table_of_operations() {
    create_concurrently(
        |pool| async move { Pessimistic::default().on(&pool).create_operation_table().await },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_create_the_table_of_keys() {
    create_concurrently(|pool| async move { Pessimistic::default().on(&pool).create_key_table().await })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_create_the_tables_of_queues() {
    create_concurrently(|pool| async move { Queue::new("jobs", &pool)?.create_tables().await }).await;
}

/// Creates all tables of the crate, as a program does at its start.
async fn create_all<DB: TestBackend>(pool: &sqlx::Pool<DB>) -> Result<(), Error> {
    let db = Pessimistic::default().on(pool);
    db.create_operation_table().await?;
    db.create_key_table().await?;
    Queue::new("jobs", pool)?.create_tables().await
}

/// A process starts while another one writes, or has locked the tables.
async fn tables_that_exist_are_not_locked<DB: TestBackend>(lock: &[&'static str]) {
    let pool = DB::pool(3).await;
    create_all(&pool.pool).await.expect("the tables");
    let mut writer = pool.acquire().await.expect("a connection");
    for sql in lock {
        DB::raw(&mut writer, sql).await.expect("a statement");
    }
    let begun = Instant::now();
    create_all(&pool.pool).await.expect("nothing is missing");
    // Whoever waits for a lock does so for eight seconds.
    assert!(begun.elapsed() < Duration::from_secs(6), "it waited for {:?}", begun.elapsed());
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

/// Creating a missing index waits for writers with a limit, and other writers are not blocked for longer than
/// that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_creating_a_missing_index_blocks_writers_only_briefly() {
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
    // The index is given up after a second, and tried again.
    assert!(begun.elapsed() < Duration::from_secs(6), "it was stopped for {:?}", begun.elapsed());
    sqlx::raw_sql("COMMIT").execute(&mut *writer).await.expect("committed");
    creating.await.expect("no panic").expect("the index");
    let made: bool = sqlx::query_scalar("SELECT to_regclass('atomically_job_dead') IS NOT NULL")
        .fetch_one(&pool.pool)
        .await
        .expect("an answer");
    assert!(made);
}

async fn missing_indexes_are_created<DB: TestBackend>(drop: &[&'static str], count: &str) {
    let pool = DB::pool(2).await;
    create_all(&pool.pool).await.expect("the tables");
    let indexes = async || DB::pool_fetch(&pool.pool, DB::sql(count), &[]).await.expect("a count");
    assert_eq!(indexes().await, 5);
    let mut connection = pool.acquire().await.expect("a connection");
    for sql in drop {
        DB::raw(&mut connection, sql).await.expect("dropped");
    }
    std::mem::drop(connection);
    assert_eq!(indexes().await, 0);
    create_all(&pool.pool).await.expect("the indexes");
    assert_eq!(indexes().await, 5);
}

const DROP_INDEXES: [&str; 5] = [
    "DROP INDEX atomically_job_claim",
    "DROP INDEX atomically_job_unique",
    "DROP INDEX atomically_job_dead",
    "DROP INDEX atomically_job_waiting",
    "DROP INDEX atomically_key_expires_at",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_missing_indexes_are_created() {
    let count =
        "SELECT COUNT(*) FROM pg_indexes WHERE indexname LIKE 'atomically%' AND indexname NOT LIKE '%_pkey'";
    missing_indexes_are_created::<Postgres>(&DROP_INDEXES, count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_missing_indexes_are_created() {
    let drop = [
        "ALTER TABLE atomically_job DROP KEY atomically_job_claim, DROP KEY atomically_job_unique,
         DROP KEY atomically_job_dead, DROP KEY atomically_job_waiting",
        "ALTER TABLE atomically_key DROP KEY atomically_key_expires_at",
    ];
    let count = "SELECT COUNT(DISTINCT index_name) FROM information_schema.statistics
                 WHERE table_schema = DATABASE() AND index_name LIKE 'atomically%'";
    missing_indexes_are_created::<MySql>(&drop, count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_missing_indexes_are_created() {
    let count = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'index' AND name LIKE 'atomically%'";
    missing_indexes_are_created::<Sqlite>(&DROP_INDEXES, count).await;
}

/// Returns how long it took until the lock timeout, on a pool of one connection.
async fn refused<DB: TestBackend>(pool: &sqlx::Pool<DB>) -> Duration {
    let begun = Instant::now();
    let error = Queue::new("jobs", pool).expect("a name").create_tables().await.expect_err("it is locked");
    assert_eq!(error.kind(), ErrorKind::LockTimeout, "{error:?}");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_creation_blocked_by_a_writer_is_a_lock_timeout() {
    let pool = Postgres::pool(2).await;
    create_all(&pool.pool).await.expect("the tables");
    sqlx::raw_sql("DROP INDEX atomically_job_dead").execute(&pool.pool).await.expect("dropped");
    let mut writer = pool.acquire().await.expect("a connection");
    sqlx::raw_sql("BEGIN; DELETE FROM atomically_job").execute(&mut *writer).await.expect("a write");
    let of_one = PoolOptions::<Postgres>::new().max_connections(1).connect(&pool.url).await.expect("a pool");
    let took = refused(&of_one).await;
    assert!((4..15).contains(&took.as_secs()), "{took:?}");
    let limit: String = sqlx::query_scalar("SHOW lock_timeout").fetch_one(&of_one).await.expect("a setting");
    assert_eq!(limit, "0", "the session has its own limit again");
}

async fn table_wait(pool: &sqlx::Pool<MySql>) -> i64 {
    let limit = "SELECT CAST(@@lock_wait_timeout AS SIGNED)";
    sqlx::query_scalar(limit).fetch_one(pool).await.expect("a setting")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_creation_blocked_by_a_reader_is_a_lock_timeout() {
    let pool = MySql::pool(2).await;
    create_all(&pool.pool).await.expect("the tables");
    let drop = "ALTER TABLE atomically_job DROP KEY atomically_job_dead";
    sqlx::raw_sql(drop).execute(&pool.pool).await.expect("dropped");
    let mut reader = pool.acquire().await.expect("a connection");
    let read = "START TRANSACTION; SELECT * FROM atomically_job";
    sqlx::raw_sql(read).execute(&mut *reader).await.expect("a read");
    let of_one = PoolOptions::<MySql>::new().max_connections(1).connect(&pool.url).await.expect("a pool");
    let own = table_wait(&of_one).await;
    let took = refused(&of_one).await;
    assert!((4..15).contains(&took.as_secs()), "{took:?}");
    assert_eq!(table_wait(&of_one).await, own, "the session has its own limit again");
    sqlx::raw_sql("COMMIT").execute(&mut *reader).await.expect("the reader ends");
    Queue::new("jobs", &of_one).expect("a name").create_tables().await.expect("the index");
}

/// No table exists yet, and the whole server is locked for a backup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_creation_blocked_by_a_backup_is_a_lock_timeout() {
    let server = tokio::task::spawn_blocking(Server::mariadb).await.expect("a server");
    let of_one = PoolOptions::<MySql>::new().max_connections(1).connect(server.url()).await.expect("a pool");
    let watcher = PoolOptions::<MySql>::new().max_connections(1).connect(server.url()).await.expect("a pool");
    let mut backup = watcher.acquire().await.expect("a connection");
    sqlx::raw_sql("FLUSH TABLES WITH READ LOCK").execute(&mut *backup).await.expect("locked");
    let took = refused(&of_one).await;
    assert!((4..15).contains(&took.as_secs()), "{took:?}");
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for%lock%'";
    let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *backup).await.expect("the sessions");
    assert_eq!(waiting, 0, "no session is left waiting");
    sqlx::raw_sql("UNLOCK TABLES").execute(&mut *backup).await.expect("unlocked");
    Queue::new("jobs", &of_one).expect("a name").create_tables().await.expect("the tables");
}
