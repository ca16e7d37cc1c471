//! The semantics, written once over `DB: TestBackend` and run on every database.

pub(crate) mod cancellation;
pub(crate) mod increments;
pub(crate) mod limits;
pub(crate) mod outcomes;
pub(crate) mod write_skew;

/// The tests that every database has to pass.
#[macro_export]
macro_rules! conformance {
    ($database:ty) => {
        use $crate::conformance::{cancellation, increments, limits, outcomes, write_skew};

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
            outcomes::streams_may_be_given_up_between_rows,
            outcomes::apply_counts_rows_and_reports_errors,
            cancellation::dropped_at_every_poll,
            cancellation::a_dropped_statement_kills_the_transaction,
            limits::a_panic_leaks_nothing,
            limits::an_exhausted_pool_is_a_typed_error_in_time,
            limits::a_locked_row_is_a_typed_error_in_time,
            limits::a_slow_unit_meets_its_deadline,
            limits::no_limit_is_left_behind,
            limits::a_dead_pooled_connection_is_replaced,
        );
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
