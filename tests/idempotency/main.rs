//! Idempotency keys: written once over `DB: Keeps` and run on every database.

#![allow(dead_code, reason = "SQLite has no use for what takes a server")]

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
            outcomes::every_strategy_and_level_replays,
            outcomes::a_value_that_is_run_twice_is_fresh_once,
            outcomes::a_transactor_behind_a_pointer_will_do,
            outcomes::another_request_is_a_mismatch,
            outcomes::own_errors_leave_no_key,
            outcomes::no_effect_is_stored_without_its_key,
            outcomes::a_failure_that_was_hidden_leaves_no_key,
            outcomes::a_part_is_done_once,
            outcomes::a_part_that_fails_leaves_nothing,
            outcomes::a_part_inside_of_itself_is_in_progress,
            twins::what_is_newer_than_the_snapshot_is_seen,
            upkeep::a_missing_table_says_so,
            upkeep::responses_that_are_no_json_say_so,
            upkeep::found_and_released,
            upkeep::an_expired_key_is_a_new_one,
            upkeep::purged_in_batches,
            exploration::two_twins_in_every_interleaving,
            exploration::two_twins_take_over_in_every_interleaving,
            exploration::a_look_before_the_work_is_not_enough,
            exploration::every_fault_at_every_step,
            exploration::a_part_is_safe_to_run_again,
            $($also)*
        );
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_newer_is_a_failure_or_seen_on_mariadb() {
    twins::what_is_newer_is_a_failure_or_seen().await;
}

keys!(on_any sqlite, sqlx::Sqlite;);
keys!(on_any postgres, sqlx::Postgres;
    twins::a_twin_waits_and_is_answered,
    twins::a_twin_takes_over_what_failed,
    twins::an_expired_key_is_taken_over_once,
    twins::waiting_in_vain_is_in_progress,
    twins::one_of_many_runs,
    twins::the_limit_is_for_the_key_alone,
    upkeep::a_key_that_is_taken_over_meanwhile_is_not_purged,
    commits::an_unanswered_commit_is_found,
    commits::one_trace_is_enough,
    commits::a_first_attempt_that_is_still_there_is_fenced,
    commits::requests_through_a_cutting_proxy_have_one_effect_and_one_answer,
);
keys!(on_any mariadb, sqlx::MySql;
    twins::a_twin_waits_and_is_answered,
    twins::a_twin_takes_over_what_failed,
    twins::an_expired_key_is_taken_over_once,
    twins::waiting_in_vain_is_in_progress,
    twins::one_of_many_runs,
    twins::the_limit_is_for_the_key_alone,
    upkeep::a_key_that_is_taken_over_meanwhile_is_not_purged,
    commits::an_unanswered_commit_is_found,
    commits::one_trace_is_enough,
    commits::a_first_attempt_that_is_still_there_is_fenced,
    commits::requests_through_a_cutting_proxy_have_one_effect_and_one_answer,
);
