//! Log lines, events, metrics, deadlock reports and errors of the crate contain no value of the program.
//!
//! Each test uses unique values in every place that accepts one, and searches all output for them.

mod features;
#[path = "../support/mod.rs"]
mod support;
mod units;
mod watch;

use support::{on_every_database, on_every_server};

on_every_database!(
    units::bound_values_and_literals_are_not_shown,
    units::values_quoted_by_the_database_are_not_shown,
    units::a_lone_statement_shows_no_value,
    units::an_idle_transaction_shows_no_value,
    features::jobs_show_neither_payload_nor_key,
    features::idempotency_keys_show_neither_request_nor_response,
    features::deltas_show_neither_key_nor_amount,
);

on_every_server!(
    units::a_deadlock_report_shows_no_value,
    units::advisory_locks_show_no_key,
    units::a_url_shows_no_password,
);

/// sqlx's log and the server show statements as they are sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_of_the_crate_contain_no_payload() {
    features::statements_of_the_crate_contain_no_payload().await;
}
