//! Explorations find the known anomalies, and pass with the guards that the guide recommends.

pub(crate) mod anomalies;
pub(crate) mod lost_updates;
pub(crate) mod transfers;
pub(crate) mod unfinished;

use atomically::testing::{Counterexample, Explore, Problem, Report};
use atomically::{Attempt, Isolation, Plan, Strategy};
use sqlx::Pool;

use crate::support::{TestBackend, TestPool};

/// A strategy without row locks or version checks, at this isolation level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unguarded(pub(crate) Isolation);

impl Strategy for Unguarded {
    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(self.0)
    }
}

/// A pool with this table, for this many clients.
pub(crate) async fn database<DB: TestBackend>(table: &str, clients: u32) -> TestPool<DB> {
    let pool = DB::pool(clients + 1).await;
    DB::pool_execute(&pool, DB::sql(table), &[]).await.expect("create the table");
    pool
}

pub(crate) async fn all<DB: TestBackend>(pool: Pool<DB>, statements: &[&str]) -> sqlx::Result<()> {
    for sql in statements {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await?;
    }
    Ok(())
}

pub(crate) async fn integer<DB: TestBackend>(pool: Pool<DB>, sql: &str) -> sqlx::Result<i64> {
    DB::pool_fetch(&pool, DB::sql(sql), &[]).await
}

async fn explored<DB: TestBackend>(exploration: Explore<'_, DB>) -> Report {
    let report = exploration.run().await.expect("explored");
    println!("{}: {} schedules in {:?}: {report}", DB::NAME, report.schedules, report.elapsed);
    assert_eq!(report.diverged, 0, "a schedule diverged");
    report
}

/// Asserts that every schedule was run and passed.
pub(crate) async fn assert_passes<DB: TestBackend>(exploration: Explore<'_, DB>) {
    let report = explored(exploration).await;
    report.assert_passes();
    assert!(report.complete, "{report}");
}

/// Asserts the same where units deadlock. InnoDB may choose either victim if two transactions have done the
/// same amount of work, so a schedule may diverge there. Nothing else may go wrong.
async fn assert_passes_with_any_victim<DB: TestBackend>(exploration: Explore<'_, DB>) {
    if DB::NAME != "MySQL" {
        return assert_passes(exploration).await;
    }
    let report = exploration.run().await.expect("explored");
    let mut problems = report.counterexamples.iter().flat_map(Counterexample::problems);
    assert!(problems.all(|problem| matches!(problem, Problem::Diverged { .. })), "{report}");
    assert!(report.counterexamples.len() * 10 < report.schedules, "{report}");
}

/// Asserts that some schedules violate an invariant and some do not, and that replaying the first
/// counterexample reproduces it.
async fn assert_violation<'a, DB: TestBackend>(exploration: impl Fn() -> Explore<'a, DB>) -> Report {
    let report = explored(exploration()).await;
    assert!(report.counterexamples.len() < report.schedules, "no serial schedule passes: {report}");
    let counterexample = report.first().expect("a counterexample");
    assert!(
        counterexample.problems().iter().any(|problem| matches!(problem, Problem::Invariant { .. })),
        "{report}"
    );
    let replayed = exploration().replay(&counterexample.schedule().to_string()).await.expect("replayed");
    assert_eq!(replayed.first().map(ToString::to_string), Some(counterexample.to_string()));
    report
}
