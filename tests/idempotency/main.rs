//! Tests of idempotency keys, written once over `DB: Keeps` and run on every database.

#![allow(dead_code, reason = "SQLite has no tests that need a server")]

mod commits;
mod exploration;
mod keeps;
mod outcomes;
mod round_trips;
#[path = "../support/mod.rs"]
mod support;
mod twins;
mod upkeep;

macro_rules! keys {
    ($name:ident, $database:ty; $($module:ident :: $test:ident),* $(,)?) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$module::$test::<$database>().await;
                }
            )*
        }
    };
    (on_any $name:ident, $database:ty; $($also:tt)*) => {
        keys!($name, $database;
            outcomes::responses_are_replayed_under_every_strategy_and_isolation_level,
            outcomes::a_builder_that_is_run_twice_is_fresh_once,
            outcomes::once_works_on_a_dyn_transactor,
            outcomes::a_different_request_with_the_same_key_is_a_mismatch,
            outcomes::an_error_of_the_unit_leaves_no_key,
            outcomes::no_effect_is_stored_without_its_key,
            outcomes::a_discarded_failure_leaves_no_key,
            outcomes::once_in_runs_a_part_once,
            outcomes::a_part_that_fails_leaves_neither_effect_nor_key,
            outcomes::a_nested_part_with_the_same_key_is_in_progress,
            twins::a_key_newer_than_the_snapshot_is_found,
            upkeep::a_missing_table_is_reported,
            upkeep::a_response_that_is_not_json_is_reported,
            upkeep::keys_are_found_and_released,
            upkeep::an_expired_key_counts_as_new,
            upkeep::expired_keys_are_purged_in_batches,
            exploration::twins_have_one_effect_in_every_interleaving,
            exploration::twins_take_over_an_expired_key_once_in_every_interleaving,
            exploration::checking_before_the_work_does_not_prevent_a_second_effect,
            exploration::a_run_survives_every_fault_at_every_step,
            exploration::once_in_is_safe_to_retry,
            $($also)*
        );
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_newer_than_the_snapshot_is_found_or_a_conflict_on_mariadb() {
    twins::a_key_newer_than_the_snapshot_is_found_or_a_conflict().await;
}

keys!(on_any sqlite, sqlx::Sqlite;);
keys!(on_any postgres, sqlx::Postgres;
    twins::a_twin_waits_for_the_response,
    twins::a_twin_takes_over_the_key_of_a_failed_run,
    twins::an_expired_key_is_taken_over_once,
    twins::a_wait_that_times_out_is_in_progress,
    twins::one_of_many_twins_runs,
    twins::the_wait_limit_applies_to_the_key_only,
    upkeep::a_key_that_is_taken_over_concurrently_is_not_purged,
    commits::a_commit_whose_response_was_lost_is_found,
    commits::a_key_makes_an_operation_row_unnecessary,
    commits::an_open_transaction_of_an_earlier_attempt_is_fenced,
    commits::a_timeout_of_the_next_attempt_does_not_hide_an_unknown_commit,
    commits::requests_over_an_unreliable_network_have_one_effect_and_one_response,
);
keys!(on_any mariadb, sqlx::MySql;
    twins::a_twin_waits_for_the_response,
    twins::a_twin_takes_over_the_key_of_a_failed_run,
    twins::an_expired_key_is_taken_over_once,
    twins::a_wait_that_times_out_is_in_progress,
    twins::one_of_many_twins_runs,
    twins::the_wait_limit_applies_to_the_key_only,
    upkeep::a_key_that_is_taken_over_concurrently_is_not_purged,
    commits::a_commit_whose_response_was_lost_is_found,
    commits::a_key_makes_an_operation_row_unnecessary,
    commits::an_open_transaction_of_an_earlier_attempt_is_fenced,
    commits::a_timeout_of_the_next_attempt_does_not_hide_an_unknown_commit,
    commits::requests_over_an_unreliable_network_have_one_effect_and_one_response,
);
