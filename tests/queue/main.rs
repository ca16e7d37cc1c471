//! Tests of queues, on every database.

mod ahead;
#[allow(dead_code, reason = "SQLite has no server")]
mod cancel;
mod check_fenced;
mod claiming;
mod crash;
mod depth;
mod doctor;
mod enqueuing;
mod fence;
mod handlers;
mod interrupted;
mod jobs;
mod limits;
mod locks;
#[allow(dead_code, reason = "SQLite has no server")]
mod many;
mod operators;
mod order;
mod ordered;
mod ordered_explored;
mod ordered_storm;
#[allow(dead_code, reason = "SQLite has no server")]
mod purge;
#[allow(dead_code, reason = "SQLite has no server")]
mod resend;
#[allow(dead_code, reason = "SQLite has no server")]
mod shutdown;
#[allow(dead_code, reason = "SQLite has no server")]
mod snooze;
mod spent;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "SQLite has no server")]
mod together;
#[allow(dead_code, reason = "SQLite has no server")]
mod together_keyed;
mod unique;
mod use_cases;
mod waking;
mod worker;

use atomically::queue::{Claim, NewJob, Queue};
use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::Pool;
use support::{TestBackend, TestPool, on_every_database, on_every_server};

on_every_database! {
    jobs::a_job_is_enqueued_only_if_its_transaction_commits,
    jobs::jobs_are_claimed_by_priority_and_then_by_due_time,
    jobs::a_job_is_not_claimed_before_it_is_due,
    enqueuing::unique_keys_are_unique_among_jobs_that_are_not_dead,
    enqueuing::enqueue_many_skips_duplicates,
    jobs::a_failing_job_is_retried_until_it_is_dead,
    jobs::retry_never_makes_a_job_dead,
    jobs::a_released_job_is_claimed_again_with_the_same_attempt,
    jobs::a_job_with_an_expired_lease_is_claimed_again,
    jobs::a_job_whose_last_lease_expired_is_dead,
    jobs::an_extended_lease_keeps_its_job,
    jobs::ids_are_never_reused,
    jobs::a_job_before_the_cursor_is_claimed,
    locks::claims_do_not_wait_for_locked_jobs,
    enqueuing::bad_input_is_refused,
    enqueuing::payloads_are_returned_unchanged,
    enqueuing::all_settings_of_a_job_are_stored,
    jobs::dead_jobs_are_purged,
    unique::a_unique_key_is_taken_while_its_job_runs,
    unique::a_key_unique_until_claimed_is_free_while_its_job_runs,
    unique::a_key_unique_until_claimed_is_not_restored,
    unique::both_kinds_of_uniqueness_share_their_keys,
    unique::a_successor_gets_the_key_of_a_completed_job,
    unique::a_rescheduled_job_keeps_its_key,
    unique::a_job_is_rescheduled_only_if_its_transaction_commits,
    unique::a_rescheduled_job_has_all_its_attempts,
    unique::rescheduling_is_fenced,
    unique::a_worker_does_not_complete_a_rescheduled_job,
    fence::a_zombie_leaves_no_effect,
    fence::a_zombie_with_an_older_snapshot_leaves_no_effect,
    fence::a_stale_claim_is_reported_even_if_the_unit_discards_it,
    fence::a_stale_claim_is_never_retried,
    fence::a_stale_claim_in_a_savepoint_fails_the_transaction,
    fence::every_change_is_fenced,
    fence::complete_all_in_completes_all_or_none,
    check_fenced::handlers_that_complete_in_their_transaction_are_fenced,
    check_fenced::handlers_that_check_and_then_act_are_not_fenced,
    check_fenced::handlers_that_do_not_do_their_job_are_not_checked,
    fence::one_of_two_concurrent_completions_is_fenced,
    fence::extending_a_lease_does_not_conflict_with_a_completion,
    worker::the_worker_completes_jobs_that_their_handlers_did_not,
    worker::a_job_that_always_fails_is_dead_in_the_end,
    worker::leases_are_extended,
    worker::a_lost_lease_cancels_its_handler,
    worker::a_worker_that_is_shut_down_finishes_its_jobs,
    worker::jobs_still_running_after_the_grace_period_are_released,
    worker::a_worker_can_be_woken,
    worker::a_worker_continues_after_an_outage_of_the_database,
    together::a_stale_claim_is_reported_to_its_own_handler_only,
    together::a_job_that_cannot_be_deleted_does_not_keep_the_others,
    together::jobs_whose_handlers_have_ended_are_completed_at_shutdown,
    together::jobs_claimed_ahead_are_released_when_all_handlers_are_busy,
    together::jobs_claimed_ahead_are_released_at_shutdown,
    together_keyed::a_stale_claim_among_others_makes_no_job_due,
    ahead::slow_handlers_claim_no_job_ahead,
    ahead::an_idle_worker_gets_the_jobs_that_a_busy_one_has_claimed_ahead,
    ahead::jobs_claimed_ahead_start_in_the_order_of_their_priorities,
    ahead::a_worker_that_claims_ahead_stops_when_its_queue_is_paused,
    handlers::a_panic_before_the_future_exists_fails_its_job_only,
    handlers::a_panic_of_an_observer_ends_no_worker,
    handlers::a_panic_of_a_wake_ends_no_worker,
    handlers::a_panic_of_the_shutdown_signal_ends_no_worker,
    handlers::the_last_error_of_a_job_has_its_causes,
    handlers::a_lost_lease_is_noticed_after_a_completion_that_rolled_back,
    handlers::a_handler_that_hangs_times_out,
    handlers::a_worker_reports_a_pool_that_is_too_small,
    waking::a_scheduled_job_runs_when_it_is_due_before_the_next_poll,
    waking::an_expired_lease_is_taken_over_before_the_next_poll,
    many::of_two_jobs_with_one_key_the_first_is_enqueued,
    many::large_payloads_are_sent_in_several_statements,
    snooze::a_snoozed_job_is_claimed_later_with_the_same_attempt,
    snooze::a_worker_does_not_complete_a_snoozed_job,
    order::jobs_before_the_cursor_are_claimed_in_their_order,
    order::high_priority_jobs_of_a_late_commit_are_claimed_first,
    spent::spent_jobs_do_not_count_towards_the_limit_of_a_claim,
    spent::the_death_of_spent_jobs_is_reported,
    spent::a_claim_returns_as_many_jobs_as_requested,
    interrupted::a_claim_returns_the_jobs_that_precede_an_error,
    interrupted::a_worker_reports_an_error_after_a_part_of_a_claim,
    ordered::jobs_of_a_key_are_claimed_one_after_the_other,
    ordered::completing_several_jobs_makes_their_successors_due,
    ordered::the_next_job_waits_through_failures_and_snoozes,
    ordered::a_dead_job_blocks_its_key_until_it_is_requeued_or_discarded,
    ordered::a_queue_that_skips_dead_jobs_continues_with_the_next,
    ordered::a_spent_job_blocks_its_key,
    ordered::a_scheduled_job_delays_only_its_key,
    ordered::a_duplicate_does_not_take_the_turn_of_another_job,
    ordered::a_cancelled_job_makes_the_next_one_due,
    ordered_explored::jobs_of_a_key_run_in_the_order_of_their_commits,
    ordered_explored::no_successor_is_forgotten,
    ordered_explored::two_jobs_of_a_key_and_a_zombie_stay_in_order,
    ordered_explored::a_worker_beside_a_zombie_claims_no_successor_early,
    ordered::workers_run_the_jobs_of_a_key_in_order,
    limits::a_claim_returns_no_more_jobs_of_a_key_than_its_limit,
    limits::a_job_that_is_retried_later_gives_its_slot_away,
    limits::scheduled_jobs_respect_the_limit_when_they_are_due,
    limits::a_claim_that_takes_a_job_over_takes_its_slot_over,
    limits::a_new_limit_applies_to_all_jobs_of_the_key,
    limits::workers_run_no_more_jobs_of_a_key_than_its_limit,
    operators::a_job_is_read_by_its_id,
    operators::jobs_are_listed_by_state_page_after_page,
    operators::a_dead_job_has_its_payload_and_its_time_of_death,
    operators::a_cancelled_job_is_fenced_off,
    operators::many_dead_jobs_are_requeued,
    operators::a_paused_queue_is_not_claimed_by_any_process,
    operators::a_worker_continues_once_its_queue_is_resumed,
    depth::the_depth_counts_the_claimable_jobs,
    depth::a_worker_reports_the_depth,
    doctor::a_sound_database_has_no_findings,
    doctor::missing_tables_are_found,
    doctor::a_missing_index_is_found,
    doctor::a_missing_column_is_found,
    use_cases::each_job_has_its_effect_once_despite_a_killed_and_a_frozen_worker,
    use_cases::a_message_is_stored_with_its_order_and_delivered_again_after_a_crash,
}

on_every_server! {
    resend::a_finished_handler_is_not_run_again,
    resend::a_lost_commit_is_sent_again_while_the_lease_lasts,
    resend::a_completion_stays_unknown_after_the_lease,
    resend::a_completion_that_finds_another_holder_is_stale,
    resend::a_completion_with_a_lost_response_is_not_a_lost_lease,
    together::handlers_that_end_together_share_a_commit,
    together_keyed::handlers_of_different_keys_share_a_commit,
    together::a_lost_commit_of_several_completions_runs_no_handler_again,
    together::changes_of_a_claimed_job_take_one_round_trip,
    many::keys_in_different_orders_do_not_deadlock,
    shutdown::no_handler_starts_after_the_signal,
    shutdown::a_claim_without_a_response_does_not_delay_the_shutdown,
    shutdown::a_release_without_a_response_does_not_delay_the_shutdown,
    snooze::a_lost_snooze_is_sent_again,
    purge::a_job_that_is_requeued_concurrently_is_not_purged,
    cancel::a_job_is_cancelled_although_the_snapshot_is_older,
}

/// Returns an empty queue in a database of its own, with a table `ledger` for effects.
async fn queue<DB: TestBackend>(connections: u32) -> (TestPool<DB>, Queue<DB>) {
    let pool = DB::pool(connections).await;
    let queue = Queue::new("jobs", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    let ledger = "CREATE TABLE ledger (job BIGINT NOT NULL, token BIGINT NOT NULL)";
    DB::pool_execute(&pool, DB::sql(ledger), &[]).await.expect("a table");
    (pool, queue)
}

async fn enqueue<DB: TestBackend>(pool: &Pool<DB>, queue: &Queue<DB>, job: NewJob) -> i64 {
    let db = Pessimistic::default().on(pool);
    let enqueued = db.run(async |tx| queue.enqueue(tx, job).await).await.expect("a commit");
    enqueued.id().expect("no duplicate")
}

fn job(payload: i64) -> NewJob {
    NewJob::new(&payload).expect("a payload")
}

async fn claim_one<DB: TestBackend>(queue: &Queue<DB>) -> Claim<DB> {
    let mut claims = queue.claim(1).await.expect("a claim");
    assert_eq!(claims.len(), 1, "there is one");
    claims.remove(0)
}

/// Makes every lease expire and every job due.
async fn lapse<DB: TestBackend>(pool: &Pool<DB>) {
    for sql in [
        "UPDATE atomically_job SET due_at = 1 WHERE died_at IS NULL",
        "UPDATE atomically_job_lease SET until = 1",
    ] {
        DB::pool_execute(pool, DB::sql(sql), &[]).await.expect("an update");
    }
}

/// Makes the lease of the only job expire and claims it, although its worker extends the lease: an extension
/// may come in between. A queue whose claims are slow looks less often for jobs that were due before.
async fn take_over<DB: TestBackend>(pool: &Pool<DB>, queue: &Queue<DB>) -> Claim<DB> {
    for _ in 0..600 {
        lapse(pool).await;
        if let Some(claim) = queue.claim(1).await.expect("a claim").pop() {
            return claim;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the lease was extended each time before the job could be taken over");
}

async fn ask<DB: TestBackend>(pool: &Pool<DB>, sql: &str) -> i64 {
    DB::pool_fetch(pool, DB::sql(sql), &[]).await.expect("an answer")
}

/// Waits until all jobs are complete.
async fn until_empty<DB: TestBackend>(pool: &Pool<DB>) {
    let started = std::time::Instant::now();
    while ask(pool, "SELECT COUNT(*) FROM atomically_job").await > 0 {
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "jobs are left");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn effects<DB: TestBackend>(pool: &Pool<DB>) -> i64 {
    ask(pool, "SELECT COUNT(*) FROM ledger").await
}

/// Stores the effect of a job.
async fn write_ledger<DB: TestBackend>(tx: &mut atomically::Tx<DB>, claim: &Claim<DB>) -> Result<(), Error> {
    let sql = DB::sql("INSERT INTO ledger VALUES (?, ?)");
    DB::execute(tx, sql, &[claim.payload()?, claim.token()]).await?;
    Ok(())
}
