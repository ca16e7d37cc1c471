//! Tests of holds, on every database.

mod batches;
mod edges;
mod ends;
mod outcomes;
mod reports;
mod schedules;
mod storms;
mod sweeps;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use atomically::holds::{Confirmation, Hold, HoldKey, HoldOutcome, Holds};
use atomically::{Error, Transactor, TransactorExt as _, Tx};
use sqlx::Pool;
use support::{TestBackend, TestPool, on_every_database};

on_every_database! {
    outcomes::an_amount_is_held_refused_or_not_found,
    outcomes::several_rows_are_held_together_or_not_at_all,
    outcomes::invalid_input_is_refused,
    outcomes::text_keys_are_given_back_to_their_own_row,
    outcomes::the_table_has_the_prefix_of_the_options,
    outcomes::a_missing_table_is_an_error_and_takes_nothing,
    outcomes::a_number_that_a_trigger_or_a_type_changes_is_not_stored,
    edges::any_time_is_clamped,
    edges::no_hold_is_part_of_a_transaction_that_was_left_open,
    edges::a_floor_above_the_number_refuses,
    edges::a_decimal_column_that_holds_integers_works,
    edges::nothing_is_held_of_a_number_that_is_no_integer,
    edges::a_hold_is_kept_while_its_number_is_no_integer,
    edges::a_key_has_to_equal_that_of_the_row,
    edges::a_row_that_refuses_its_amount_does_not_keep_other_holds,
    edges::many_holds_of_a_row_that_refuses_them_do_not_keep_other_holds,
    edges::amounts_whose_sum_does_not_fit_are_given_back_completely,
    batches::callers_share_commits,
    batches::calls_of_a_batch_are_decided_in_their_order,
    batches::calls_for_one_and_for_several_rows_share_a_batch,
    batches::a_call_that_the_database_refuses_fails_alone,
    batches::a_dropped_caller_leaves_nothing_behind_after_the_expiry,
    ends::a_confirmed_hold_is_gone_for_good,
    ends::an_expired_hold_cannot_be_confirmed,
    ends::a_rolled_back_confirmation_leaves_the_hold_active,
    ends::a_released_hold_is_given_back_once,
    ends::a_wrong_token_ends_nothing,
    ends::an_expired_hold_is_given_back_to_a_caller_that_would_be_refused,
    ends::all_rows_of_an_expired_hold_are_given_back,
    ends::a_hold_of_a_deleted_row_ends,
    ends::a_sweeper_gives_back_what_has_expired,
    ends::a_hold_is_found_by_its_id_and_token_only,
    reports::observers_learn_how_holds_end,
    schedules::hold_confirm_and_expire,
    schedules::hold_confirm_and_release,
    schedules::hold_expire_and_release,
    schedules::confirm_expire_and_release,
    schedules::hold_confirm_and_sweep,
    schedules::hold_release_and_sweep,
    schedules::confirm_release_and_sweep,
    schedules::confirm_twice,
    schedules::confirm_and_expire,
    schedules::confirm_and_release,
    schedules::hold_and_release,
    schedules::hold_and_sweep,
    schedules::release_and_sweep,
    schedules::hold_confirm_expire_and_release,
    schedules::holds_of_several_rows_do_not_deadlock,
    storms::every_seat_is_accounted_for_at_every_commit,
}

/// Tests of what takes a server, with locks of rows.
macro_rules! on_servers {
    ($($name:ident: $database:ty),*; $tests:tt) => {
        $(on_servers!(@on $name $database, $tests);)*
    };
    (@on $name:ident $database:ty, [$($module:ident::$test:ident),* $(,)?]) => {
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

mod on_servers {
    on_servers! {
        postgres: sqlx::Postgres, mariadb: sqlx::MySql;
        [
            ends::a_hold_that_is_being_confirmed_delays_no_other_caller,
            ends::a_hold_that_expires_during_its_confirmation_stays_with_its_buyer,
            ends::a_second_confirmation_waits_for_the_first_even_after_the_expiry,
            sweeps::a_hold_whose_confirmation_commits_during_a_sweep_is_not_given_back,
        ]
    }
}

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// The number in row 1, plus what is held of it, plus what was sold.
const TOTAL: &str = "SELECT CAST(seats \
    + (SELECT COALESCE(SUM(amount), 0) FROM atomically_hold WHERE row_key = '1' AND confirmed_at IS NULL) \
    + (SELECT COUNT(*) FROM ticket) AS BIGINT) FROM event WHERE id = 1";

/// Events 1 and 2 with this many seats each, no tickets, and the table of holds.
async fn events<DB: TestBackend>(connections: u32, seats: i64) -> (TestPool<DB>, Holds<DB, i64>)
where
    i64: HoldKey<DB>,
{
    let pool = DB::pool(connections).await;
    for sql in
        ["CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT)", "CREATE TABLE ticket (hold BIGINT)"]
    {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("a table");
    }
    let insert = DB::sql("INSERT INTO event VALUES (1, ?), (2, ?)");
    DB::pool_execute(&pool, insert, &[seats, seats]).await.expect("events");
    let holds = Holds::on(&pool, "event", "id", "seats").at_least(0);
    holds.create_tables().await.expect("the table of holds");
    (pool, holds)
}

async fn held<DB: TestBackend>(holds: &Holds<DB, i64>, key: i64, amount: i64) -> Hold<DB, i64>
where
    i64: HoldKey<DB>,
{
    match holds.hold(key, amount, LONG).await.expect("the database is there") {
        HoldOutcome::Held(hold) => hold,
        other => panic!("{other:?}"),
    }
}

/// Confirms the hold and stores a ticket, unless it was confirmed before.
async fn buy<DB: TestBackend>(db: &impl Transactor<DB>, hold: &Hold<DB, i64>) -> Result<Confirmation, Error>
where
    i64: HoldKey<DB>,
{
    db.run(async |tx: &mut Tx<DB>| {
        let confirmation = hold.confirm_in(tx).await?;
        if confirmation == Confirmation::Confirmed {
            DB::execute(tx, DB::sql("INSERT INTO ticket VALUES (?)"), &[hold.id()]).await?;
        }
        Ok(confirmation)
    })
    .await
}

/// Makes all holds expire.
async fn expire<DB: TestBackend>(pool: &Pool<DB>) {
    let sql = DB::sql("UPDATE atomically_hold SET expires_at = 1 WHERE confirmed_at IS NULL");
    DB::pool_execute(pool, sql, &[]).await.expect("they expire");
}

fn sql_of<DB: TestBackend>(sql: &str) -> String {
    if DB::NAME.contains("My") { sql.replace("AS BIGINT", "AS SIGNED") } else { sql.to_owned() }
}

async fn fetch<DB: TestBackend>(pool: &Pool<DB>, sql: &str) -> i64 {
    DB::pool_fetch(pool, DB::sql(&sql_of::<DB>(sql)), &[]).await.expect("a number")
}

/// The number in a row.
async fn seats<DB: TestBackend>(pool: &Pool<DB>, key: i64) -> i64 {
    DB::pool_fetch(pool, DB::sql("SELECT seats FROM event WHERE id = ?"), &[key]).await.expect("a number")
}

/// Complete explorations that take too long for every run of the tests.
mod explored_completely {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes about 10 minutes"]
    async fn postgres_every_schedule_of_hold_confirm_expire_and_release() {
        crate::schedules::every_schedule_of_hold_confirm_expire_and_release::<sqlx::Postgres>().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes about 10 minutes"]
    async fn mariadb_every_schedule_of_hold_confirm_expire_and_release() {
        crate::schedules::every_schedule_of_hold_confirm_expire_and_release::<sqlx::MySql>().await;
    }
}
