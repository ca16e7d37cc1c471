//! What is read in the caller's SQL: on real servers, for each text either what was promised or a refusal.

mod advisory;
mod alone;
mod control;
mod locks;
mod random;
#[path = "../support/mod.rs"]
mod support;
mod texts;

use support::on_every_database;

on_every_database!(
    locks::rows_are_locked_or_the_text_is_refused,
    locks::a_refused_text_ends_the_unit_under_every_strategy,
    locks::increments_behind_a_comment_are_exact,
    control::a_commit_among_several_statements_is_refused,
    control::own_savepoints_cannot_be_touched,
    alone::transaction_control_leaves_nothing_behind,
    alone::several_statements_are_one_transaction_or_refused,
    alone::schemas_of_the_crate_can_be_created_again,
    random::a_commit_is_found_wherever_it_stands,
);

/// On servers, which have locks to wait for.
macro_rules! on_servers {
    ($($name:ident $database:ty),*) => {
        $(mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_lock_timeout_beside_the_word_nowait_stays_one() {
                crate::control::a_lock_timeout_beside_the_word_nowait_stays_one::<$database>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_row_is_locked_whatever_surrounds_the_text() {
                crate::random::a_row_is_locked_whatever_surrounds_the_text::<$database>().await;
            }
        })*
    };
}
on_servers!(postgres_waits sqlx::Postgres, mariadb_waits sqlx::MySql);
