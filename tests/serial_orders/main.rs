//! Explorations that are judged by the serial orders of their units, without invariants.

mod advice;
mod anomalies;
mod comparison;
mod histories;
mod mutants;
mod program;
mod right_sets;
#[path = "../support/mod.rs"]
mod support;

use atomically::testing::{Counterexample, Explore, Problem, Report};
use atomically::{Attempt, Isolation, Plan, Strategy};
use sqlx::Pool;

use support::{TestBackend, TestPool, on_every_database};

/// A strategy without row locks or version checks, at this isolation level.
#[derive(Debug, Clone, Copy)]
struct Unguarded(Isolation);

impl Strategy for Unguarded {
    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(self.0)
    }
}

/// A pool with these tables, for explorations of two or three clients.
async fn database<DB: TestBackend>(tables: &[&str]) -> TestPool<DB> {
    let pool = DB::pool(4).await;
    all(pool.pool.clone(), tables).await.expect("create the tables");
    pool
}

async fn all<DB: TestBackend>(pool: Pool<DB>, statements: &[&str]) -> sqlx::Result<()> {
    for sql in statements {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await?;
    }
    Ok(())
}

async fn explored<DB: TestBackend>(exploration: Explore<'_, DB>) -> Report {
    let report = exploration.run().await.expect("explored");
    println!("{}: {} schedules in {:?}: {report}", DB::NAME, report.schedules, report.elapsed);
    report
}

fn is_not_serializable(counterexample: &Counterexample) -> bool {
    counterexample.problems().iter().any(|problem| matches!(problem, Problem::NotSerializable { .. }))
}

/// Asserts that every schedule ends like a serial order. InnoDB may choose either victim of a deadlock if
/// both transactions have done the same amount of work, so a schedule may diverge there.
async fn assert_serializable<DB: TestBackend>(exploration: Explore<'_, DB>) {
    let report = explored(exploration.serializable()).await;
    if DB::NAME == "MySQL" && report.diverged > 0 {
        let mut problems = report.counterexamples.iter().flat_map(Counterexample::problems);
        assert!(problems.all(|problem| matches!(problem, Problem::Diverged { .. })), "{report}");
        assert!(report.diverged * 10 < report.schedules, "{report}");
        return;
    }
    report.assert_passes();
    assert!(report.complete || !report.gaps.is_empty(), "{report}");
}

/// Asserts that some schedules match no serial order and the first one does, and that replaying the first
/// counterexample reproduces it. Returns its text.
async fn assert_not_serializable<'a, DB: TestBackend>(exploration: impl Fn() -> Explore<'a, DB>) -> String {
    let report = explored(exploration().serializable()).await;
    assert!(report.counterexamples.len() < report.schedules, "no schedule is serializable: {report}");
    let counterexample = report.first().expect("a counterexample");
    assert!(is_not_serializable(counterexample), "{report}");
    let schedule = counterexample.schedule().to_string();
    assert_ne!(schedule.matches('a').count() + schedule.matches('b').count(), 2, "a serial order: {report}");
    let replayed = exploration().serializable().replay(&schedule).await.expect("replayed");
    assert_eq!(replayed.first().map(ToString::to_string), Some(counterexample.to_string()));
    counterexample.to_string()
}

on_every_database!(
    advice::a_unit_of_one_statement_is_recommended_atomic,
    advice::an_advisor_that_cannot_start_returns_a_typed_error,
    advice::triples_are_explored_on_request,
    advice::what_was_left_out_is_reported,
    anomalies::reading_and_writing_in_two_transactions_matches_no_serial_order,
    anomalies::serializable_units_match_a_serial_order,
    comparison::units_with_errors_of_the_crate_count_as_not_run,
    comparison::errors_of_the_units_are_compared,
    comparison::returned_values_are_compared,
    comparison::generated_ids_are_compared_up_to_renaming,
    comparison::values_that_change_with_each_run_are_reported,
    comparison::only_named_tables_are_compared,
    comparison::statements_with_unknown_tables_are_an_error,
    comparison::a_client_that_always_fails_is_an_error,
    histories::verdicts_agree_with_the_history_checker,
    right_sets::correct_units_match_a_serial_order,
    advice::advice_is_serialized_with_its_counterexamples,
);

// MariaDB's serializable transactions lock the rows that they read, so there these strategies go together.
on_every_database!(@on postgres_locks sqlx::Postgres,
    advice::strategies_that_do_not_go_together_are_not_mixed
);

// Only on PostgreSQL are steps on different rows known to be independent.
on_every_database!(@on postgres_rows sqlx::Postgres,
    right_sets::three_units_of_three_statements_are_explored
);

macro_rules! on_servers {
    ($($module:ident :: $test:ident),* $(,)?) => {
        on_every_database!(@on postgres_server sqlx::Postgres, $($module::$test)*);
        on_every_database!(@on mariadb_server sqlx::MySql, $($module::$test)*);
    };
}

on_servers!(
    advice::a_missing_expect_one_is_a_lost_update_under_optimistic,
    advice::only_serializable_is_right_for_write_skew,
    advice::an_audit_beside_a_transfer_needs_a_snapshot,
    advice::an_insert_under_a_counted_predicate_is_a_phantom,
    advice::mutants_change_the_table,
    advice::each_unit_gets_its_own_strategy,
    anomalies::a_version_check_without_expect_one_loses_updates,
    anomalies::write_skew_matches_no_serial_order_below_serializable,
    anomalies::an_audit_sees_half_a_transfer_at_read_committed_only,
    anomalies::phantoms_match_no_serial_order,
    mutants::dropping_the_row_lock_is_noticed,
    mutants::dropping_the_version_check_is_noticed,
    mutants::lowering_the_isolation_is_noticed,
);
