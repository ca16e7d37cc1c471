//! The semantics on PostgreSQL, and what is PostgreSQL's own.

mod conformance;
mod support;

use atomically::Pessimistic;

conformance!(server sqlx::Postgres);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constraint_that_fails_at_commit_is_typed() {
    failures::a_constraint_that_fails_at_commit_is_typed::<sqlx::Postgres>().await;
}

/// What `Serializable` is for: without a lock on what was read, both go off duty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_skew_is_possible_without_serializable() {
    let (on_call, attempts) = write_skew::both_go_off_duty::<sqlx::Postgres, _>(Pessimistic::default()).await;
    assert_eq!((on_call, attempts), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_for_by_status_they_are_applied_once() {
    commit_outcome::asked_for_by_status_they_are_applied_once::<sqlx::Postgres>().await;
}
