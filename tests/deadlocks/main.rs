//! Deadlocks say who waited for whom.
//!
//! In a process of their own, and one at a time: MariaDB remembers the latest deadlock of the whole server.

mod others;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod units;

use tokio::sync::Mutex;

static ALONE: Mutex<()> = Mutex::const_new(());

macro_rules! tests {
    ($name:ident $database:ty: $($module:ident :: $test:ident),* $(,)?) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let _alone = crate::ALONE.lock().await;
                    crate::$module::$test::<$database>().await;
                }
            )*
        }
    };
}

tests!(postgres sqlx::Postgres:
    units::both_sides_are_named_with_their_statements,
    units::a_circle_of_three_is_told_in_its_order,
    units::keys_that_both_insert_are_told,
    units::advisory_locks_are_told,
    others::somebody_else_is_told_by_the_session,
);

tests!(mariadb sqlx::MySql:
    units::both_sides_are_named_with_their_statements,
    units::a_circle_of_three_is_told_in_its_order,
    units::keys_that_both_insert_are_told,
    units::a_gap_that_both_lock_is_told,
    others::somebody_else_is_told_by_the_session,
    others::an_earlier_deadlock_is_not_told_again,
    others::who_may_not_look_is_told_of_its_own_side,
    others::an_answer_that_does_not_come_is_done_without,
);
