//! Queues: the same on every database, and what becomes of them when processes are killed.

mod claiming;
mod crash;
mod depth;
mod doctor;
mod fence;
mod handlers;
mod jobs;
#[allow(dead_code, reason = "SQLite has no server")]
mod many;
mod order;
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
mod unique;
mod use_cases;
mod waking;
mod worker;

use atomically::queue::{Claim, NewJob, Queue};
use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::Pool;
use support::{TestBackend, TestPool, on_every_database};

/// A database under test that can hold queues.
trait QueueTest: TestBackend {}
impl<DB: TestBackend> QueueTest for DB {}

on_every_database! {
    jobs::a_job_is_there_if_and_only_if_its_transaction_is,
    jobs::turns_go_by_priority_and_then_by_due_time,
    jobs::a_job_is_not_claimed_before_it_is_due,
    jobs::unique_keys_are_unique_among_the_living,
    jobs::many_are_enqueued_at_once,
    jobs::a_job_that_fails_is_tried_again_and_dies,
    jobs::a_job_can_be_dead_at_once,
    jobs::a_job_that_is_released_has_lost_nothing,
    jobs::a_lapsed_lease_is_taken_over_and_counts,
    jobs::a_last_attempt_that_lapses_is_dead,
    jobs::an_extended_lease_holds,
    jobs::ids_are_never_given_out_again,
    jobs::what_is_due_and_behind_is_found,
    jobs::claims_do_not_wait_for_locked_jobs,
    jobs::bad_input_is_refused,
    jobs::payloads_come_back_as_they_were,
    jobs::all_that_a_job_asks_for_is_kept,
    jobs::the_dead_are_purged,
    unique::a_key_until_done_is_taken_while_its_job_runs,
    unique::a_key_until_claimed_is_free_while_its_job_runs,
    unique::a_key_until_claimed_does_not_come_back,
    unique::both_modes_share_their_keys,
    unique::a_successor_has_the_key_of_a_job_that_completed_first,
    unique::a_rescheduled_job_keeps_its_key,
    unique::a_job_is_rescheduled_with_its_transaction_or_not_at_all,
    unique::a_rescheduled_job_has_all_its_attempts,
    unique::rescheduling_is_fenced,
    unique::a_worker_leaves_a_rescheduled_job_alone,
    fence::a_zombie_leaves_no_effect,
    fence::a_zombie_whose_snapshot_is_older_leaves_no_effect,
    fence::a_stale_claim_is_told_whatever_the_unit_makes_of_it,
    fence::a_stale_claim_is_never_run_again,
    fence::a_stale_claim_outlives_a_savepoint,
    fence::every_change_is_fenced,
    fence::all_or_none_are_completed,
    fence::handlers_that_complete_in_their_transaction_are_fenced,
    fence::handlers_that_check_and_then_act_are_not_fenced,
    fence::handlers_that_do_not_do_their_job_are_not_checked,
    fence::one_of_two_who_complete_is_fenced,
    fence::extending_does_not_disturb_a_completion,
    worker::handlers_complete_or_are_completed,
    worker::poison_ends_dead,
    worker::leases_are_extended,
    worker::a_lost_lease_cancels_its_handler,
    worker::a_worker_that_is_told_to_stop_finishes_what_it_has,
    worker::what_outlives_the_grace_is_given_back,
    worker::a_worker_can_be_woken,
    worker::a_worker_survives_its_database,
    handlers::a_panic_before_the_future_exists_fails_its_job_only,
    handlers::a_panic_of_an_observer_ends_no_worker,
    handlers::a_panic_of_a_wake_ends_no_worker,
    handlers::a_panic_of_the_shutdown_signal_ends_no_worker,
    handlers::the_last_error_of_a_job_has_its_causes,
    handlers::a_lease_is_noticed_to_be_lost_after_a_completion_that_rolled_back,
    handlers::a_handler_that_hangs_times_out,
    handlers::a_worker_that_can_starve_itself_says_so,
    waking::a_job_is_done_when_it_is_due_without_a_poll,
    waking::a_lapsed_lease_is_taken_over_without_a_poll,
    many::of_two_with_one_key_the_first_is_taken,
    many::large_payloads_are_sent_in_several_statements,
    snooze::a_snoozed_job_comes_back_later_with_all_its_attempts,
    snooze::a_worker_leaves_a_snoozed_job_alone,
    order::jobs_behind_what_was_claimed_have_their_turn,
    order::urgent_jobs_of_a_late_commit_have_their_turn,
    spent::spent_jobs_take_no_part_of_a_claim,
    spent::the_death_of_spent_jobs_is_reported,
    spent::a_claim_takes_as_many_as_it_was_asked_for,
    depth::a_depth_is_what_could_be_claimed,
    depth::a_worker_tells_the_depth,
    doctor::nothing_is_wrong,
    doctor::what_is_missing_is_named,
    doctor::a_missing_index_is_named,
    doctor::a_missing_column_is_named,
    use_cases::each_job_has_its_effect_once_despite_a_killed_and_a_frozen_worker,
    use_cases::a_message_is_stored_with_its_order_and_delivered_again_after_a_crash,
}

/// Tests of what takes a server: SQLite has neither a network nor row locks.
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

on_every_server! {
    resend::a_finished_handler_is_not_run_again,
    resend::a_lost_commit_is_sent_again_while_the_lease_lasts,
    resend::a_completion_stays_unknown_after_the_lease,
    resend::a_completion_that_finds_another_holder_is_stale,
    resend::a_completion_that_went_unanswered_is_no_lost_lease,
    many::keys_in_different_orders_do_not_deadlock,
    shutdown::no_handler_begins_after_the_signal,
    shutdown::a_claim_without_an_answer_does_not_hold_up_the_shutdown,
    shutdown::a_release_without_an_answer_does_not_hold_up_the_shutdown,
    snooze::a_lost_snooze_is_sent_again,
    purge::a_job_that_is_requeued_meanwhile_is_not_purged,
}

/// An empty queue in a database of its own, with a table `ledger` for effects.
async fn queue<DB: QueueTest>(connections: u32) -> (TestPool<DB>, Queue<DB>) {
    let pool = DB::pool(connections).await;
    let queue = Queue::new("jobs", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    let ledger = "CREATE TABLE ledger (job BIGINT NOT NULL, token BIGINT NOT NULL)";
    DB::pool_execute(&pool, DB::sql(ledger), &[]).await.expect("a table");
    (pool, queue)
}

async fn enqueue<DB: QueueTest>(pool: &Pool<DB>, queue: &Queue<DB>, job: NewJob) -> i64 {
    let db = Pessimistic::default().on(pool);
    let enqueued = db.run(async |tx| queue.enqueue(tx, job).await).await.expect("a commit");
    enqueued.id().expect("no duplicate")
}

fn job(payload: i64) -> NewJob {
    NewJob::new(&payload).expect("a payload")
}

async fn claim_one<DB: QueueTest>(queue: &Queue<DB>) -> Claim<DB> {
    let mut claims = queue.claim(1).await.expect("a claim");
    assert_eq!(claims.len(), 1, "there is one");
    claims.remove(0)
}

/// Lets every lease lapse, and makes every job due, without waiting for it.
async fn lapse<DB: QueueTest>(pool: &Pool<DB>) {
    for sql in [
        "UPDATE atomically_job SET due_at = 1 WHERE died_at IS NULL",
        "UPDATE atomically_job_lease SET until = 1",
    ] {
        DB::pool_execute(pool, DB::sql(sql), &[]).await.expect("an update");
    }
}

async fn ask<DB: QueueTest>(pool: &Pool<DB>, sql: &str) -> i64 {
    DB::pool_fetch(pool, DB::sql(sql), &[]).await.expect("an answer")
}

async fn effects<DB: QueueTest>(pool: &Pool<DB>) -> i64 {
    ask(pool, "SELECT COUNT(*) FROM ledger").await
}

/// The effect of a job.
async fn write_ledger<DB: QueueTest>(tx: &mut atomically::Tx<DB>, claim: &Claim<DB>) -> Result<(), Error> {
    let sql = DB::sql("INSERT INTO ledger VALUES (?, ?)");
    DB::execute(tx, sql, &[claim.payload()?, claim.token()]).await?;
    Ok(())
}
