//! Rows that are locked with BEGIN, writes that are sent with COMMIT, and savepoints that are released with
//! either, on every database.

mod additions;
mod at_commit;
mod bank;
mod on_rows;
mod round_trips;
mod savepoints;
mod schedules;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod values;

use support::on_every_database;

on_every_database!(
    additions::no_addition_is_part_of_a_transaction_that_was_left_open,
    on_rows::the_unit_receives_its_rows_in_the_order_of_the_keys,
    on_rows::missing_rows_are_reported_before_the_unit_runs,
    on_rows::transfers_in_opposite_directions_never_deadlock,
    on_rows::every_strategy_transfers_without_a_lost_update,
    on_rows::a_stale_read_runs_the_unit_again,
    on_rows::the_rows_are_the_key_of_the_run,
    on_rows::a_row_that_cannot_be_decoded_is_an_error,
    on_rows::the_error_of_an_unknown_table_names_it,
    on_rows::too_many_keys_are_refused,
    on_rows::no_keys_name_no_rows,
    on_rows::a_repeated_request_is_replayed_although_its_row_is_gone,
    at_commit::kept_statements_run_in_order_after_the_unit,
    at_commit::a_stale_version_runs_the_whole_unit_again,
    at_commit::an_update_of_several_rows_fails_the_run,
    at_commit::a_comparison_with_null_is_not_retried,
    at_commit::a_constraint_violation_names_the_statement_and_stores_nothing,
    at_commit::a_deadlock_at_the_commit_runs_the_unit_again,
    at_commit::a_savepoint_that_is_rolled_back_drops_its_statements,
    at_commit::a_unit_that_fails_sends_no_kept_statement,
    at_commit::a_read_only_transaction_keeps_no_statement,
    at_commit::other_statements_are_refused,
    at_commit::hooks_run_after_the_kept_statements,
    at_commit::observers_see_the_kept_statements,
    at_commit::a_statement_with_a_comment_at_its_end_is_sent,
    at_commit::a_statement_whose_end_is_uncertain_is_sent_on_its_own,
    savepoints::a_savepoint_undoes_those_that_ended_inside_of_it,
    savepoints::the_units_own_savepoints_outlive_one_that_ended,
    savepoints::random_savepoints_keep_what_succeeded,
    savepoints::the_connection_itself_can_be_used_after_a_savepoint,
    schedules::no_schedule_of_two_transfers_loses_an_update,
    schedules::faults_at_every_step_leave_one_effect,
    values::values_arrive_as_they_were_bound,
    values::text_cannot_become_part_of_a_statement,
);

mod postgres_server {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lock_timeout_at_the_commit_is_reported_as_one() {
        crate::at_commit::a_lock_timeout_at_the_commit_is_reported_as_one::<sqlx::Postgres>().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lost_response_to_the_commit_is_unknown() {
        crate::at_commit::a_lost_response_to_the_commit_is_unknown::<sqlx::Postgres>().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lock_timeout_at_the_opening_is_reported_as_one() {
        crate::on_rows::a_lock_timeout_at_the_opening_is_reported_as_one::<sqlx::Postgres>().await;
    }
}

mod mariadb_server {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lock_timeout_at_the_commit_is_reported_as_one() {
        crate::at_commit::a_lock_timeout_at_the_commit_is_reported_as_one::<sqlx::MySql>().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lost_response_to_the_commit_is_unknown() {
        crate::at_commit::a_lost_response_to_the_commit_is_unknown::<sqlx::MySql>().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lock_timeout_at_the_opening_is_reported_as_one() {
        crate::on_rows::a_lock_timeout_at_the_opening_is_reported_as_one::<sqlx::MySql>().await;
    }
}
