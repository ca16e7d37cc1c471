//! The analysis of the caller's SQL on real servers: each text has the documented effect, or is refused.

mod advisory;
mod control;
mod locks;
mod lone;
mod random;
#[path = "../support/mod.rs"]
mod support;
mod texts;

use support::on_every_database;

on_every_database!(
    locks::rows_are_locked_or_the_text_is_refused,
    locks::a_refused_text_ends_the_unit_under_every_strategy,
    locks::no_increment_is_lost_if_the_select_ends_with_a_comment,
    control::a_commit_among_several_statements_is_refused,
    control::savepoints_of_the_crate_are_protected,
    lone::transaction_control_is_refused_outside_of_a_unit,
    lone::several_statements_are_one_transaction_or_refused,
    lone::creating_a_schema_twice_succeeds,
    random::a_commit_is_found_at_any_position,
);

/// Tests for databases with row locks.
macro_rules! on_servers {
    ($($name:ident $database:ty),*) => {
        $(mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_lock_timeout_is_not_mistaken_for_nowait() {
                crate::control::a_lock_timeout_is_not_mistaken_for_nowait::<$database>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_row_is_locked_with_any_comments_and_literals() {
                crate::random::a_row_is_locked_with_any_comments_and_literals::<$database>().await;
            }
        })*
    };
}
on_servers!(postgres_waits sqlx::Postgres, mariadb_waits sqlx::MySql);
