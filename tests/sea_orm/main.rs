//! SeaORM's entities inside units of work, on every database.

mod entities;
mod increments;
mod locks;
mod nested;
mod queries;
mod swallowed;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod support;

use atomically::sea_orm::SeaOrmBackend;
use support::{TestBackend, TestPool, on_every_database};

on_every_database! {
    increments::pessimistic_is_exact,
    increments::optimistic_with_versions_is_exact,
    increments::atomic_is_exact,
    increments::serializable_is_exact,
    increments::adaptive_with_versions_is_exact,
    queries::entities_are_stored_with_json_and_enums,
    queries::related_entities_are_found,
    queries::nested_active_models_are_saved,
    queries::rows_are_streamed,
    queries::statements_of_sea_query_run_with_and_without_sea_orm,
    queries::errors_keep_their_kind,
    nested::a_nested_transaction_that_is_rolled_back_leaves_nothing,
    nested::a_nested_transaction_that_is_dropped_is_rolled_back,
    nested::a_unit_that_ends_with_a_dropped_nested_transaction_is_rolled_back,
    nested::nested_transactions_end_in_order,
    nested::options_of_nested_transactions_are_refused,
    swallowed::a_swallowed_conflict_is_retried,
    swallowed::a_swallowed_constraint_fails_the_unit_on_postgres_or_is_an_ordinary_error,
    locks::every_schedule_of_two_increments_is_exact,
}

/// A database that both crates support.
trait Database: TestBackend + SeaOrmBackend {}

impl<DB: TestBackend + SeaOrmBackend> Database for DB {}

/// An empty database with the tables of the entities, and one event with a counter at zero.
async fn database<DB: Database>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    for sql in entities::tables::<DB>() {
        DB::pool_execute(&pool, DB::sql(&sql), &[]).await.expect("a table");
    }
    let event = DB::sql("INSERT INTO event (id, seats, version) VALUES (1, 0, 1)");
    DB::pool_execute(&pool, event, &[]).await.expect("an event");
    pool
}

/// The counter of the event.
async fn seats<DB: Database>(pool: &TestPool<DB>) -> i64 {
    DB::pool_fetch(pool, DB::sql("SELECT seats FROM event WHERE id = 1"), &[]).await.expect("a number")
}
