//! Tests of leases, on every database.

mod fence;
mod holders;
mod leaders;
#[allow(dead_code, reason = "SQLite has no server")]
mod renewals;
mod schedules;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use atomically::lease::{Held, Lease};
use sqlx::Pool;
use support::{TestBackend, TestPool, on_every_database};

on_every_database! {
    holders::one_of_many_callers_acquires_a_free_lease,
    holders::tokens_grow_even_if_the_rows_are_deleted,
    holders::a_released_lease_is_free,
    holders::a_dropped_lease_is_free,
    holders::acquire_waits_until_the_lease_is_released,
    holders::acquire_returns_none_when_its_limit_has_passed,
    holders::an_invalid_name_is_refused,
    holders::a_missing_table_is_an_error,
    schedules::a_zombie_stores_nothing_after_its_successor,
    schedules::one_of_two_callers_acquires_the_lease,
    schedules::two_callers_and_a_zombie_are_kept_apart,
    fence::a_zombie_leaves_no_effect,
    fence::a_lost_lease_is_reported_even_if_the_unit_discards_it,
    fence::a_holder_that_is_late_by_its_own_clock_is_refused,
    leaders::one_leader_works_at_a_time,
    leaders::a_leader_that_loses_its_lease_is_stopped,
    leaders::the_error_of_the_work_is_returned,
    renewals::a_lease_outlives_its_time_while_it_is_renewed,
    renewals::a_holder_learns_that_another_has_the_lease,
}

/// Tests of what takes a server, with locks and a network.
macro_rules! on_servers {
    ($($name:ident: $database:ty),*; $tests:tt) => {
        $(on_servers!(@on $name $database, $tests);)*
    };
    (@on $name:ident $database:ty, [$($test:ident),* $(,)?]) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::renewals::$test::<$database>().await;
                }
            )*
        }
    };
}

mod on_servers {
    on_servers! {
        postgres: sqlx::Postgres, mariadb: sqlx::MySql;
        [
            a_transaction_that_checked_in_delays_a_successor,
            a_transaction_that_checked_in_delays_no_renewal,
            a_lease_that_cannot_be_renewed_is_lost_before_another_has_it,
        ]
    }
}

/// A lease that lasts longer than any test, on an empty database with the tables of leases and an empty table
/// for effects.
async fn lease<DB: TestBackend>(connections: u32) -> (TestPool<DB>, Lease<DB>) {
    let pool = DB::pool(connections).await;
    let lease =
        Lease::new("report", &pool).ttl(Duration::from_secs(3600)).poll_every(Duration::from_millis(10));
    lease.create_tables().await.expect("the tables");
    DB::pool_execute(&pool, DB::sql("CREATE TABLE effect (token BIGINT)"), &[]).await.expect("a table");
    (pool, lease)
}

async fn acquire<DB: TestBackend>(lease: &Lease<DB>) -> Held<DB> {
    lease.try_acquire().await.expect("the database is there").expect("the lease is free")
}

/// Makes the lease expire, as if its holder had been suspended for longer than its time.
async fn expire<DB: TestBackend>(pool: &Pool<DB>) {
    let sql = DB::sql("UPDATE atomically_lease_expiry SET until = 1");
    DB::pool_execute(pool, sql, &[]).await.expect("it expires");
}

/// Makes the lease expire and acquires it, although its holder renews it: a renewal may come in between.
async fn take_over<DB: TestBackend>(pool: &Pool<DB>, lease: &Lease<DB>) -> Held<DB> {
    for _ in 0..100 {
        expire(pool).await;
        if let Some(held) = lease.try_acquire().await.expect("the database is there") {
            return held;
        }
    }
    panic!("the lease was renewed each time before it could be taken over");
}

/// The number of effects that were stored.
async fn effects<DB: TestBackend>(pool: &Pool<DB>) -> i64 {
    DB::pool_fetch(pool, DB::sql("SELECT COUNT(*) FROM effect"), &[]).await.expect("a number")
}
