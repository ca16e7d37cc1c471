//! Metrics, the alerts over them, and the dashboard: the counts are right, and every metric that is queried
//! exists.

mod claims;
mod dashboard;
mod ends;
mod files;
mod keys;
mod names;
mod naming;
mod queues;
mod recorders;
mod rules;
mod scrape;
mod storms;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod support;

use support::on_every_database;

on_every_database! {
    claims::leases_are_counted_by_event,
    claims::renewals_that_fail_are_counted,
    claims::holds_are_counted_by_event,
    ends::each_unit_outcome_is_counted,
    ends::runs_in_flight_are_counted,
    ends::pauses_are_counted,
    keys::each_outcome_of_a_key_is_counted_once,
    naming::deltas_and_queues_are_named_and_observed_like_transactors,
    naming::observers_are_given_by_value_or_as_an_arc,
    queues::jobs_are_counted_by_outcome,
    queues::a_lost_lease_and_a_stale_claim_are_counted,
    queues::trouble_is_counted,
    queues::workers_have_a_heartbeat,
    storms::conflicts_are_counted,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_are_counted_on_postgres() {
    storms::deadlocks_are_counted::<sqlx::Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_are_counted_on_mariadb() {
    storms::deadlocks_are_counted::<sqlx::MySql>().await;
}
