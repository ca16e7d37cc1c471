//! No value of the program is in any log line, event, metric, deadlock report or error of the crate.
//!
//! Each test has values of its own, puts them wherever a program can put one, and looks for them in
//! everything that is shown.

mod features;
#[path = "../support/mod.rs"]
mod support;
mod units;
mod watch;

use support::on_every_database;

on_every_database!(
    units::values_and_literals_of_statements_are_not_shown,
    units::what_the_database_quotes_is_not_shown,
    units::a_lone_statement_shows_no_value,
    units::an_idle_transaction_shows_no_value,
    features::jobs_show_no_payload_and_no_key,
    features::idempotency_keys_show_no_request_and_no_response,
    features::deltas_show_no_key_and_no_amount,
);

macro_rules! on_every_server {
    ($($module:ident :: $test:ident),* $(,)?) => {
        on_every_server!(@on postgres_server sqlx::Postgres, $($module::$test)*);
        on_every_server!(@on mariadb_server sqlx::MySql, $($module::$test)*);
    };
    (@on $name:ident $database:ty, $($module:ident :: $test:ident)*) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$module::$test::<$database>().await;
                }
            )*
        }
    };
}

on_every_server!(
    units::a_deadlock_report_shows_no_value,
    units::advisory_locks_show_no_key,
    units::a_url_shows_no_password,
);

/// The log of sqlx and the server show statements as they are sent: those of the crate hold no payload and no
/// key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_shown_no_payload() {
    features::the_server_is_shown_no_payload().await;
}
