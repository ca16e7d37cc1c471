//! Processes that start at the same time make the crate's tables at the same time.

mod support;

use atomically::queue::Queue;
use atomically::{Error, Pessimistic};
use sqlx::{PgPool, Postgres};
use support::{TestBackend as _, eventually};

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
