//! The semantics, written once over `DB: TestBackend` and run on every database.

#![allow(dead_code, reason = "SQLite has no use for what takes a server")]

pub(crate) mod cancellation;
pub(crate) mod coalescing;
pub(crate) mod commit_outcome;
pub(crate) mod connection_reuse;
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

/// The tests that every database has to pass.
#[macro_export]
macro_rules! conformance {
    ($database:ty) => {
        use $crate::conformance::{
            cancellation, failures, faults, gate, histories, hooks, increments, limits,
            lock_knowledge, lock_order, locks, misuse, observation, observers, options, outcomes, pools,
            promises, on_connection, raw_access, savepoints, schedules, use_cases, write_skew,
        };
        use $crate::conformance::cancellation::every_poll::{self, dropped_jobs, dropped_requests};
        use $crate::conformance::coalescing::{
            answers, callers, contended_rows, lost_connections, stored_sums,
        };
        use $crate::conformance::connection_reuse::{endings, next_run, pool_users};
        use $crate::conformance::exploration::{anomalies, lost_updates, transfers, unfinished};
        use $crate::conformance::gate::under_load;

        $crate::conformance!(@tests $database;
            increments::pessimistic_is_exact,
            increments::optimistic_is_exact_and_retries,
            increments::serializable_is_exact_and_retries,
            increments::atomic_is_exact,
            increments::atomic_apply_is_exact,
            increments::a_strategy_of_ones_own_is_exact,
            increments::naive_loses_updates,
            write_skew::serializable_prevents_it,
            outcomes::own_errors_come_back_and_roll_back,
            outcomes::any_error_type_lets_conflicts_through,
            outcomes::a_stale_version_is_run_again,
            outcomes::a_missing_row_ends_exhausted,
            outcomes::more_rows_than_one_end_the_unit,
            outcomes::a_unit_can_be_spawned_and_boxed,
            outcomes::transaction_control_is_refused,
            outcomes::raw_access_commits_what_it_did,
            outcomes::a_transaction_ended_through_raw_access_is_noticed,
            raw_access::a_commit_before_an_own_error_is_reported,
            raw_access::a_commit_before_a_conflict_is_not_run_again,
            raw_access::conflicts_are_retried,
            raw_access::swallowed_conflicts_are_retried,
            on_connection::a_conflict_in_a_function_is_retried,
            on_connection::a_conflict_in_a_function_that_the_unit_ignores_is_retried,
            on_connection::a_dropped_function_ends_the_transaction,
            on_connection::a_unit_may_end_with_an_error_of_sqlx,
            pools::a_nested_run_is_refused_after_new_connect_options,
            outcomes::streams_may_be_given_up_between_rows,
            outcomes::apply_counts_rows_and_reports_errors,
            every_poll::runs_leave_nothing_behind,
            every_poll::resolved_commits_leave_nothing_behind,
            every_poll::savepoints_leave_nothing_behind,
            every_poll::lone_statements_leave_nothing_behind,
            dropped_requests::requests_have_one_effect,
            dropped_requests::parts_of_a_unit_have_one_effect,
            dropped_jobs::claims_lose_no_job,
            dropped_jobs::completions_lose_no_job,
            dropped_jobs::completions_in_a_unit_go_with_its_effects,
            cancellation::a_dropped_statement_kills_the_transaction,
            failures::constraint_violations_say_which,
            failures::a_swallowed_violation_is_never_a_silent_loss,
            failures::a_serialization_conflict_is_run_again,
            limits::a_panic_leaks_nothing,
            limits::an_exhausted_pool_is_a_typed_error_in_time,
            limits::a_locked_row_is_a_typed_error_in_time,
            limits::a_slow_unit_meets_its_deadline,
            limits::no_limit_is_left_behind,
            limits::limits_may_be_longer_than_servers_can_count,
            limits::a_backoff_holds_no_connection,
            options::every_level_is_set_and_gone,
            options::read_only_refuses_writes_and_is_gone,
            options::timeouts_are_set_and_gone,
            options::refuses_options_that_the_database_does_not_support,
            options::every_row_lock_is_taken_or_refused,
            savepoints::a_rescued_violation_lets_the_unit_go_on,
            savepoints::savepoints_nest,
            savepoints::a_scope_that_hides_a_failure_is_not_ok,
            savepoints::a_dropped_scope_ends_the_transaction,
            observation::observers_are_notified_of_every_step,
            observation::every_end_has_its_name,
            observation::observers_get_the_failure_of_a_statement,
            observation::a_unit_that_idles_is_reported_while_it_does,
            observation::a_unit_that_blocks_is_reported_afterwards,
            observation::a_unit_that_waits_for_a_lock_is_not_idle,
            observation::observers_are_notified_of_a_wait_at_the_gate,
            observation::a_wait_for_the_pool_is_counted,
            observers::a_panic_of_an_observer_changes_nothing,
            observers::an_observer_may_panic_while_its_unit_unwinds,
            hooks::hooks_run_once_in_order_after_the_last_attempt,
            hooks::rolled_back_for_good_says_so_once,
            hooks::hooks_of_a_savepoint_go_with_it,
            hooks::hooks_run_with_the_connection_given_back,
            hooks::a_hook_that_panics_hides_nothing,
            hooks::hooks_go_on_when_the_caller_has_gone,
            gate::waiting_holds_nothing_and_keeps_the_order,
            gate::the_gate_skips_runs_that_stopped_waiting,
            gate::a_dropped_run_leaves_the_gate,
            under_load::behind_a_gate_there_are_no_conflicts,
            gate::adaptive_locks_hot_keys_and_stops_when_they_cool,
            gate::pauses_and_hooks_hold_no_place,
            gate::strategies_record_every_attempt,
            gate::a_spent_budget_is_a_typed_error,
            under_load::every_unit_ends_by_its_deadline_under_load,
            pools::a_gate_does_not_stall_a_small_pool,
            gate::keys_travel_with_the_options,
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
            histories::an_append_in_a_rolled_back_savepoint_is_not_missed,
            histories::serializable_histories_have_no_write_skew,
            histories::snapshot_histories_have_no_read_skew,
            misuse::a_run_inside_of_a_run_is_refused,
            misuse::a_second_connection_differs_from_a_busy_pool,
            misuse::an_idle_unit_reports_an_exhausted_pool,
            misuse::calls_on_the_pool_of_a_unit_are_refused,
            misuse::get_or_create_needs_one_more_look,
            lost_updates::reading_and_writing_in_two_transactions_loses_updates,
            lost_updates::guarded_sales_lose_no_update,
            anomalies::serializable_prevents_write_skew,
            anomalies::a_guarded_seat_is_booked_once,
            transfers::three_transfers_conserve_money,
            lost_updates::a_counterexample_is_displayed_as_swim_lanes,
            unfinished::an_exploration_that_cannot_start_returns_a_typed_error,
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
            faults::a_commit_that_is_run_again_is_found,
            faults::an_effect_outside_of_the_transaction_is_found,
            faults::a_fault_is_what_the_database_would_say,
            faults::a_unit_that_never_commits_is_not_checked,
            faults::a_unit_that_is_never_run_again_is_not_checked,
            faults::does_not_check_a_unit_behind_an_opaque_transactor,
            faults::an_effect_of_later_attempts_is_found,
            faults::a_step_can_be_held_back,
            lock_order::opposite_transfers_are_reported,
            lock_order::rows_locked_first_are_not,
            lock_order::three_orders_can_make_a_circle,
            lock_order::records_the_order_of_failed_and_dropped_runs,
            lock_order::attempts_are_transactions_of_their_own,
            lock_order::lists_locks_whose_rows_are_unknown,
            lock_order::records_the_order_of_explored_units,
            lock_knowledge::an_unknown_order_fails_the_consistency_assertion,
            lock_knowledge::unique_keys_in_opposite_orders_are_not_missed,
            lock_knowledge::a_schema_does_not_make_another_table,
            lock_knowledge::a_row_that_is_not_there_is_no_gate,
            lock_knowledge::rows_of_a_composite_key_are_told_apart,
            answers::each_call_returns_its_own_outcome,
            answers::calls_behind_a_batch_share_the_next_one,
            answers::a_refusal_of_the_database_fails_only_its_calls,
            answers::any_number_of_keys_is_changed_once_each,
            contended_rows::the_outcomes_are_those_of_a_serial_order,
            contended_rows::nothing_is_lost_among_others_on_the_same_rows,
            contended_rows::each_value_is_handed_out_once,
            callers::a_dropped_caller_takes_only_its_own_call_along,
            callers::a_caller_dropped_before_the_locks_stores_nothing,
            callers::a_deadline_is_kept_and_nothing_is_stored,
            callers::a_full_queue_refuses_calls_at_once,
            callers::a_call_inside_of_a_unit_is_refused,
            callers::every_caller_gets_the_error_of_a_closed_pool,
            stored_sums::numbers_that_are_not_integers_are_unchanged,
            stored_sums::what_a_double_cannot_hold_is_refused,
            answers::keys_may_be_text,
            lost_connections::a_runtime_shutdown_leaves_no_caller_waiting,
            use_cases::transfers_keep_the_total_and_refuse_overdrafts,
            use_cases::the_last_seat_is_sold_once_with_a_version_check,
            use_cases::the_last_seat_is_sold_once_with_a_row_lock,
            use_cases::a_note_that_fails_in_a_savepoint_does_not_lose_its_payment,
            use_cases::a_mail_is_sent_once_for_each_committed_order,
        );
        $crate::conformance!(@alone $database;
            next_run::a_run_leaves_its_connection_to_the_next,
            pool_users::a_connection_passes_by_the_pool_now_and_then,
            next_run::the_run_that_waited_longest_is_next,
            next_run::a_waiter_that_goes_takes_no_connection_along,
            pool_users::other_users_of_the_pool_get_their_turn,
            pool_users::uses_connections_that_are_returned_to_the_pool,
            pool_users::of_two_that_come_at_once_none_is_lost,
            endings::a_pool_can_be_closed_under_it,
            endings::nothing_is_left_behind_with_a_runtime,
            pools::each_run_sees_what_before_acquire_sets,
        );
    };
    // What only a server with row locks can do.
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
            failures::a_deadlock_victim_is_run_again,
            failures::a_swallowed_deadlock_is_never_ok,
            failures::nowait_differs_from_a_lock_timeout,
            failures::a_killed_session_is_run_again,
            limits::a_dead_pooled_connection_is_replaced,
            on_connection::a_transaction_that_a_function_broke_is_not_committed,
            network::a_server_that_is_not_there_is_a_typed_error_in_time,
            network::a_peer_that_falls_silent_is_a_typed_error_in_time,
            network::a_commit_that_is_not_answered_is_unknown,
            commit_outcome::an_unanswered_commit_is_resolved,
            commit_outcome::an_unanswered_commit_of_a_reader_is_run_again,
            options::an_idle_unit_is_run_again,
            commit_outcome::without_time_it_stays_unknown,
            commit_outcome::random_cuts_apply_every_transfer_exactly_once,
            commit_outcome::random_cuts_are_applied_once_or_reported_unknown,
            commit_outcome::a_naive_retry_applies_some_twice,
            locks::rows_locked_in_one_order_never_deadlock,
            locks::lock_rows_locks,
            misuse::a_missing_value_is_an_error_at_once,
            limits::a_lock_timeout_below_the_deadline_is_reported,
            cancellation::callers_that_give_up_on_a_locked_row_do_not_fill_the_server,
            pool_users::no_connection_is_closed_while_the_pool_tests_it,
            locks::advisory_locks_are_the_transactions,
            locks::an_advisory_lock_survives_or_is_taken_again,
            lock_order::advisory_locks_have_an_order_too,
            lock_order::a_lock_in_front_is_a_gate,
            lock_knowledge::an_unlocked_session_lock_is_no_gate,
            lock_knowledge::an_advisory_lock_with_a_column_for_a_key_is_unknown,
            lock_knowledge::a_cast_does_not_make_another_lock,
            lock_knowledge::a_lock_that_is_not_granted_is_no_gate,
            lock_knowledge::a_row_that_was_skipped_is_no_gate,
            lock_order::shared_first_and_changed_then_is_reported,
            lock_order::savepoints_release_the_locks_that_the_server_releases,
            lock_order::a_refused_lock_is_not_held,
            lock_order::tells_concurrent_runs_apart,
            options::row_locks_wait_refuse_or_skip,
            savepoints::a_conflict_outlives_its_scope,
            savepoints::a_refused_lock_can_be_rescued,
            hooks::an_unknown_commit_runs_its_hooks,
            histories::detects_a_lost_update_without_a_guard,
            histories::detects_read_skew_at_read_committed,
            histories::detects_write_skew_below_serializable,
            network::a_connection_cut_before_the_commit_is_run_again,
            lost_connections::retries_a_batch_that_lost_its_connection,
            lost_connections::every_caller_gets_the_error_of_an_unknown_commit,
            lost_connections::a_commit_whose_runtime_is_gone_is_unknown,
            contended_rows::a_locked_row_does_not_hold_up_the_others,
            contended_rows::a_call_behind_a_slow_batch_gets_another_batch,
            lost_connections::nothing_is_left_behind_by_the_last_handle,
        );
        $crate::conformance!(@alone $database;
            endings::one_that_died_on_its_way_is_replaced,
            pool_users::dropping_a_run_during_before_acquire_closes_no_connection,
        );
    };
    // On one thread.
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
