//! The semantics, written once over `DB: TestBackend` and run on every database.

#![allow(dead_code, reason = "SQLite does not use the tests that need a server")]

pub(crate) mod cancellation;
pub(crate) mod coalescing;
pub(crate) mod commit_outcome;
pub(crate) mod connection_reuse;
pub(crate) mod engines;
pub(crate) mod exploration;
pub(crate) mod failures;
pub(crate) mod faults;
pub(crate) mod histories;
pub(crate) mod gate;
pub(crate) mod hooks;
pub(crate) mod increments;
pub(crate) mod limits;
pub(crate) mod lock_knowledge;
pub(crate) mod lock_order;
pub(crate) mod locks;
pub(crate) mod misuse;
pub(crate) mod network;
pub(crate) mod observation;
pub(crate) mod observers;
pub(crate) mod options;
pub(crate) mod outcomes;
pub(crate) mod pools;
pub(crate) mod promises;
pub(crate) mod on_connection;
pub(crate) mod raw_access;
pub(crate) mod savepoints;
pub(crate) mod schedules;
pub(crate) mod use_cases;
pub(crate) mod write_skew;

/// Defines the tests that every database has to pass.
#[macro_export]
macro_rules! conformance {
    ($database:ty) => {
        use $crate::conformance::{
            cancellation, engines, failures, faults, gate, histories, hooks, increments, limits,
            lock_knowledge, lock_order, locks, misuse, observation, observers, options, outcomes, pools,
            promises, on_connection, raw_access, savepoints, schedules, use_cases, write_skew,
        };
        use $crate::conformance::cancellation::every_poll::{self, dropped_jobs, dropped_requests};
        use $crate::conformance::coalescing::{
            callers, calls, contended_rows, lost_connections, stored_sums,
        };
        use $crate::conformance::connection_reuse::{endings, next_run, pool_users};
        use $crate::conformance::exploration::{anomalies, lost_updates, transfers, unfinished};
        use $crate::conformance::gate::under_load;

        $crate::conformance!(@tests $database;
            engines::the_engine_is_the_product_and_version_of_the_server,
            engines::a_lock_that_the_engine_lacks_is_refused_before_it_is_sent,
            increments::pessimistic_is_exact,
            increments::optimistic_is_exact_and_retries,
            increments::serializable_is_exact_and_retries,
            increments::atomic_is_exact,
            increments::atomic_apply_is_exact,
            increments::custom_strategy_is_exact,
            increments::unprotected_increments_lose_updates,
            write_skew::serializable_keeps_one_doctor_on_call,
            outcomes::returns_the_units_own_error_and_rolls_back,
            outcomes::retries_conflicts_whatever_the_error_type,
            outcomes::retries_a_stale_version,
            outcomes::a_missing_row_exhausts_the_attempts,
            outcomes::aborts_if_more_than_one_row_is_updated,
            outcomes::units_run_in_spawned_tasks_and_through_dyn_transactors,
            outcomes::refuses_transaction_control_statements,
            outcomes::commits_statements_run_through_raw_access,
            outcomes::detects_a_rollback_through_raw_access,
            raw_access::reports_a_raw_commit_before_the_units_own_error,
            raw_access::does_not_retry_a_conflict_after_a_raw_commit,
            raw_access::retries_conflicts_of_raw_statements,
            raw_access::retries_ignored_conflicts_of_raw_statements,
            on_connection::retries_a_conflict_in_a_connection_function,
            on_connection::retries_an_ignored_conflict_in_a_connection_function,
            on_connection::dropping_a_connection_function_aborts_the_transaction,
            on_connection::units_can_return_sqlx_errors,
            pools::refuses_a_nested_run_after_new_connect_options,
            outcomes::commits_after_a_stream_is_dropped_between_rows,
            outcomes::apply_returns_affected_rows_and_typed_errors,
            every_poll::dropped_runs_store_all_or_nothing,
            every_poll::dropped_runs_that_resolve_commits_store_all_or_nothing,
            every_poll::dropped_runs_with_savepoints_store_all_or_nothing,
            every_poll::dropped_single_statements_store_all_or_nothing,
            dropped_requests::dropped_and_resent_requests_take_effect_once,
            dropped_requests::dropped_and_resent_parts_of_a_unit_take_effect_once,
            dropped_jobs::dropped_claims_lose_no_job,
            dropped_jobs::dropped_completions_can_be_repeated,
            dropped_jobs::dropped_units_store_effects_and_completion_together,
            cancellation::dropping_a_statement_aborts_the_transaction,
            failures::constraint_violations_identify_the_constraint,
            failures::ignoring_a_violation_loses_nothing_silently,
            failures::retries_a_serialization_failure,
            limits::a_panicking_unit_rolls_back_and_releases_its_connection,
            limits::times_out_on_an_exhausted_pool,
            limits::times_out_on_a_locked_row,
            limits::a_slow_unit_fails_at_its_deadline,
            limits::restores_the_sessions_limits_after_each_run,
            limits::accepts_limits_longer_than_servers_can_represent,
            limits::releases_the_connection_before_the_backoff,
            options::sets_and_resets_every_isolation_level,
            options::read_only_refuses_writes_and_is_reset,
            options::sets_and_resets_timeouts,
            options::refuses_options_that_the_database_does_not_support,
            options::every_row_lock_is_acquired_or_unsupported,
            savepoints::a_unit_continues_after_a_violation_in_a_savepoint,
            savepoints::savepoints_can_be_nested,
            savepoints::ignoring_a_failure_in_a_savepoint_loses_nothing_silently,
            savepoints::dropping_a_savepoint_aborts_the_transaction,
            observation::observers_are_notified_of_every_step,
            observation::reports_every_run_outcome,
            observation::observers_receive_the_failure_of_a_statement,
            observation::reports_an_idle_unit_while_it_is_idle,
            observation::reports_a_blocking_unit_afterwards,
            observation::a_unit_that_waits_for_a_lock_is_not_idle,
            observation::observers_are_notified_of_a_wait_at_the_gate,
            observation::measures_the_wait_for_a_connection,
            observers::an_observer_panic_does_not_affect_the_run,
            observers::an_observer_panic_during_unwinding_does_not_abort_the_process,
            hooks::hooks_run_once_in_order_after_the_last_attempt,
            hooks::rollback_hooks_run_once_after_the_last_attempt,
            hooks::hooks_of_a_rolled_back_savepoint_run_as_rolled_back,
            hooks::hooks_run_after_the_connection_is_released,
            hooks::a_panicking_hook_does_not_affect_the_result,
            hooks::hooks_finish_after_the_caller_is_dropped,
            gate::waiting_units_hold_no_connection_and_run_in_order,
            gate::the_gate_skips_runs_that_stopped_waiting,
            gate::a_dropped_run_leaves_the_gate,
            under_load::gated_units_never_conflict,
            gate::adaptive_locks_hot_keys_and_stops_when_they_cool,
            gate::backoffs_and_hooks_hold_no_gate_permit,
            gate::strategies_record_every_attempt,
            gate::fails_when_the_retry_budget_is_spent,
            under_load::every_unit_ends_by_its_deadline_under_load,
            pools::a_gate_does_not_stall_a_small_pool,
            gate::uses_the_key_of_the_innermost_options,
            increments::adaptive_is_exact,
            locks::lock_rows_returns_the_missing_keys,
            locks::lock_rows_takes_any_number_of_keys,
            histories::pessimistic_histories_are_strictly_serializable,
            histories::serializable_histories_are_serializable,
            histories::optimistic_histories_lose_no_update,
            histories::atomic_histories_lose_no_append,
            histories::adaptive_histories_lose_no_update,
            histories::detects_a_unit_that_commits_twice,
            histories::concurrent_workloads_share_a_table,
            histories::histories_with_operation_rows_are_strictly_serializable,
            histories::a_rolled_back_append_is_not_an_anomaly,
            histories::serializable_histories_have_no_write_skew,
            histories::snapshot_histories_have_no_read_skew,
            misuse::refuses_a_nested_run,
            misuse::reports_a_unit_that_waits_for_a_second_connection,
            misuse::idle_events_report_an_exhausted_pool,
            misuse::refuses_calls_on_the_units_own_pool,
            misuse::get_or_create_retries_a_unique_violation,
            lost_updates::reading_and_writing_in_two_transactions_loses_updates,
            lost_updates::guarded_sales_lose_no_update,
            anomalies::serializable_prevents_write_skew,
            anomalies::a_guarded_seat_is_booked_once,
            transfers::three_transfers_conserve_money,
            lost_updates::a_counterexample_is_displayed_as_swim_lanes,
            unfinished::an_exploration_that_cannot_start_returns_a_typed_error,
            unfinished::a_set_up_that_fails_is_repeated,
            unfinished::a_unit_that_waits_for_another_one_at_a_barrier_is_stuck,
            unfinished::a_unit_that_is_always_retried_is_endless,
            unfinished::dropping_an_exploration_leaves_no_open_transaction,
            schedules::a_cache_that_outlives_the_set_up_makes_schedules_diverge,
            schedules::a_set_up_that_resets_too_little_makes_schedules_diverge,
            schedules::several_statements_in_one_text_are_a_gap,
            schedules::raw_access_is_a_gap,
            schedules::a_unit_with_few_attempts_is_run_until_they_are_exhausted,
            schedules::reaching_the_default_limit_fails_the_assertion,
            schedules::a_complete_report_has_the_maximum_number_of_preemptions,
            schedules::every_unit_of_a_client_may_wait_for_its_first_lock,
            schedules::concurrent_units_of_one_client_are_an_error,
            schedules::a_dropped_unit_is_not_concurrent_with_the_next_one,
            schedules::a_passing_schedule_can_be_replayed,
            schedules::a_lock_timeout_of_the_transactor_is_ignored,
            promises::get_or_create_creates_one_row,
            promises::a_savepoint_survives_a_unique_violation,
            promises::commit_hooks_run_once_per_commit,
            promises::operation_rows_do_not_conflict,
            promises::single_statements_lose_no_update,
            promises::faults_are_injected_into_every_schedule,
            promises::gates_admit_every_client,
            faults::every_strategy_survives_every_fault,
            faults::detects_a_retry_after_an_unknown_commit,
            faults::detects_an_effect_outside_of_the_transaction,
            faults::faults_are_the_databases_own_errors,
            faults::refuses_to_check_a_unit_that_never_commits,
            faults::refuses_to_check_a_unit_that_is_never_retried,
            faults::refuses_to_check_a_unit_behind_an_opaque_transactor,
            faults::detects_an_effect_of_later_attempts,
            faults::faults_can_delay_a_step,
            lock_order::reports_transfers_in_opposite_orders,
            lock_order::accepts_opposite_orders_of_rows_locked_in_advance,
            lock_order::reports_a_cycle_of_three_orders,
            lock_order::records_the_order_of_failed_and_dropped_runs,
            lock_order::tracks_each_attempt_separately,
            lock_order::lists_locks_whose_rows_are_unknown,
            lock_order::records_the_order_of_explored_units,
            lock_knowledge::an_unknown_order_fails_the_consistency_assertion,
            lock_knowledge::reports_unique_keys_in_opposite_orders,
            lock_knowledge::treats_a_schema_qualified_name_as_the_same_table,
            lock_knowledge::a_missing_row_does_not_guard_other_locks,
            lock_knowledge::distinguishes_rows_by_composite_key,
            calls::each_call_returns_its_own_outcome,
            calls::calls_made_during_a_batch_share_the_next_batch,
            calls::a_database_error_fails_only_the_calls_that_caused_it,
            calls::updates_any_number_of_keys_once_each,
            contended_rows::outcomes_match_a_serial_order,
            contended_rows::loses_no_update_among_other_writers,
            contended_rows::returns_each_value_once,
            callers::dropping_a_caller_cancels_only_its_own_call,
            callers::a_caller_dropped_before_the_locks_are_acquired_stores_nothing,
            callers::calls_fail_at_their_deadlines_and_store_nothing,
            callers::a_full_queue_refuses_calls_immediately,
            callers::refuses_a_call_inside_of_a_unit,
            callers::every_caller_gets_the_error_of_a_closed_pool,
            stored_sums::does_not_change_values_that_are_not_integers,
            stored_sums::refuses_sums_that_a_double_cannot_represent,
            calls::keys_can_be_text,
            lost_connections::a_runtime_shutdown_leaves_no_caller_waiting,
            use_cases::transfers_keep_the_total_and_refuse_overdrafts,
            use_cases::the_last_seat_is_sold_once_with_a_version_check,
            use_cases::the_last_seat_is_sold_once_with_a_row_lock,
            use_cases::a_note_that_fails_in_a_savepoint_does_not_lose_its_payment,
            use_cases::a_mail_is_sent_once_for_each_committed_order,
        );
        $crate::conformance!(@alone $database;
            next_run::the_next_run_reuses_the_connection,
            pool_users::a_connection_serves_a_limited_number_of_runs_in_a_row,
            next_run::the_longest_waiting_run_is_next,
            next_run::a_dropped_waiter_loses_no_connection,
            pool_users::other_users_of_the_pool_are_not_starved,
            pool_users::uses_connections_that_are_returned_to_the_pool,
            pool_users::loses_no_connection_when_two_become_available,
            endings::closing_the_pool_ends_connection_reuse,
            endings::a_connection_ends_with_its_runtime,
            pools::calls_before_acquire_for_every_run,
        );
    };
    // Tests that need a server with row locks.
    (server $database:ty) => {
        use $crate::conformance::{commit_outcome, network};

        $crate::conformance!($database);
        $crate::conformance!(@tests $database;
            lost_updates::an_unguarded_read_modify_write_loses_updates,
            anomalies::finds_write_skew_below_serializable,
            anomalies::finds_double_booking_without_a_guard,
            transfers::opposite_lock_orders_deadlock,
            transfers::a_common_lock_order_does_not_deadlock,
            promises::advisory_locks_exclude_each_other,
            promises::skip_locked_takes_each_row_once,
            failures::retries_a_deadlock_victim,
            failures::fails_if_the_unit_ignores_a_deadlock,
            failures::nowait_and_lock_timeouts_have_different_errors,
            failures::retries_a_unit_whose_session_was_killed,
            limits::replaces_a_dead_pooled_connection,
            on_connection::does_not_commit_a_transaction_that_a_connection_function_broke,
            engines::the_engine_is_queried_once_for_each_pool,
            network::times_out_if_no_server_listens,
            network::times_out_on_a_silent_connection,
            network::a_commit_without_a_response_is_unknown,
            commit_outcome::resolves_a_commit_without_a_response,
            commit_outcome::retries_a_read_only_commit_without_a_response,
            options::retries_a_unit_that_exceeds_its_idle_timeout,
            commit_outcome::a_commit_stays_unknown_if_the_deadline_passes,
            commit_outcome::applies_every_transfer_exactly_once_with_operation_rows,
            commit_outcome::applies_every_transfer_once_or_reports_it_unknown,
            commit_outcome::a_naive_retry_loop_applies_some_transfers_twice,
            locks::rows_locked_in_a_common_order_never_deadlock,
            locks::lock_rows_waits_for_locked_rows,
            misuse::does_not_retry_a_missing_parameter,
            limits::deadline_errors_report_an_earlier_lock_timeout,
            cancellation::timed_out_callers_do_not_accumulate_server_sessions,
            pool_users::no_connection_is_closed_while_the_pool_tests_it,
            locks::advisory_locks_end_with_the_transaction,
            locks::a_rolled_back_advisory_lock_can_be_acquired_again,
            lock_order::reports_advisory_locks_in_opposite_orders,
            lock_order::accepts_opposite_orders_behind_a_common_lock,
            lock_knowledge::a_released_session_lock_does_not_guard_other_locks,
            lock_knowledge::an_advisory_lock_keyed_by_a_column_is_unknown,
            lock_knowledge::treats_differently_spelled_advisory_keys_as_the_same_lock,
            lock_knowledge::a_lock_that_is_not_granted_does_not_guard_other_locks,
            lock_knowledge::a_skipped_row_does_not_guard_other_locks,
            lock_order::reports_an_upgrade_from_a_shared_lock,
            lock_order::savepoints_release_the_locks_that_the_server_releases,
            lock_order::does_not_record_a_refused_lock,
            lock_order::tracks_concurrent_runs_separately,
            options::row_locks_wait_fail_or_skip,
            savepoints::retries_a_deadlock_ignored_in_a_savepoint,
            savepoints::a_unit_continues_after_a_refused_lock_in_a_savepoint,
            hooks::runs_the_unknown_hook_after_an_unknown_commit,
            histories::detects_a_lost_update_without_a_guard,
            histories::detects_read_skew_at_read_committed,
            histories::detects_write_skew_below_serializable,
            network::retries_after_losing_the_connection_before_the_commit,
            lost_connections::retries_a_batch_that_lost_its_connection,
            lost_connections::every_caller_gets_the_error_of_an_unknown_commit,
            lost_connections::a_commit_is_unknown_after_its_runtime_shuts_down,
            contended_rows::a_locked_row_does_not_delay_other_rows,
            contended_rows::a_call_during_a_slow_batch_runs_in_another_batch,
            lost_connections::dropping_the_last_handle_cancels_its_batch,
        );
        $crate::conformance!(@alone $database;
            endings::replaces_a_reused_connection_that_died,
            pool_users::dropping_a_run_during_before_acquire_closes_no_connection,
        );
    };
    // Tests that run on a single-threaded runtime.
    (@alone $database:ty; $($module:ident :: $test:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $test() {
                $module::$test::<$database>().await;
            }
        )*
    };
    (@tests $database:ty; $($module:ident :: $test:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $module::$test::<$database>().await;
            }
        )*
    };
}
