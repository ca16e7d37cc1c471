//! Deadlock reports name both sides: which session waited for which.
//!
//! The tests have a process of their own and run one at a time, because MariaDB remembers only the latest
//! deadlock of the whole server.

mod others;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod units;

use tokio::sync::Mutex;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

macro_rules! tests {
    ($name:ident $database:ty: $($module:ident :: $test:ident),* $(,)?) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let _turn = crate::ONE_AT_A_TIME.lock().await;
                    crate::$module::$test::<$database>().await;
                }
            )*
        }
    };
}

tests!(postgres sqlx::Postgres:
    units::both_sides_are_named_with_their_statements,
    units::reports_a_cycle_of_three_in_order,
    units::reports_keys_that_both_insert,
    units::reports_advisory_locks,
    others::reports_a_session_of_another_program,
);

tests!(mariadb sqlx::MySql:
    units::both_sides_are_named_with_their_statements,
    units::reports_a_cycle_of_three_in_order,
    units::reports_keys_that_both_insert,
    units::reports_a_gap_that_both_lock,
    others::reports_a_session_of_another_program,
    others::does_not_report_an_earlier_deadlock_again,
    others::reports_only_the_units_side_without_the_privilege,
    others::commits_without_a_response_to_the_status_query,
);
