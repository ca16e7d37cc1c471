//! Tests of `atomically::http`: headers, and a service in axum on every database.

mod client;
mod headers;
mod killed;
mod preconditions;
mod problems;
mod refusals;
mod repetitions;
mod service;
mod storm;
#[path = "../support/mod.rs"]
mod support;

use support::on_every_database;

on_every_database!(
    repetitions::repetitions_get_the_same_response,
    repetitions::callers_do_not_share_keys,
    repetitions::a_final_refusal_is_replayed,
    repetitions::a_temporary_response_is_not_stored,
    repetitions::headers_that_are_not_kept_are_sent_once,
    repetitions::a_response_that_is_too_long_is_not_stored,
    refusals::requests_without_a_valid_key_are_refused,
    refusals::a_different_request_with_the_same_key_is_refused,
    refusals::a_twin_of_a_request_in_progress_is_refused,
    refusals::errors_do_not_show_the_database_to_the_client,
    preconditions::a_version_is_changed_once,
    storm::clients_that_send_at_once_and_again_get_one_response,
    killed::a_server_that_dies_before_the_commit_leaves_nothing,
    killed::a_server_that_dies_before_the_response_has_stored_it,
    killed::a_key_that_is_stored_after_the_effect_does_not_prevent_a_second_one,
);
