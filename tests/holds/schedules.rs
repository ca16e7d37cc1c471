//! Every schedule of callers that end the same hold, and of callers that want the amount that it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atomically::holds::{Hold, HoldKey, Holds};
use atomically::testing::explore;
use atomically::{Error, Event, FailureKind, Pessimistic, Transactor, TransactorExt as _, Tx, UnitEvent};
use sqlx::Pool;

use crate::support::TestBackend;
use crate::{LONG, TOTAL, buy, events, held};

const TICKETS: &str = "SELECT COUNT(*) FROM ticket";

/// No caller is refused because of a hold that has expired, whoever gives it back.
const HELD_BY_THE_OTHER: &str = "SELECT COUNT(*) FROM atomically_hold WHERE expires_at > 1";

/// Makes everything as it was: no seats, no tickets, and one hold of a seat.
async fn reset<DB: TestBackend>(pool: Pool<DB>, hold: (i64, i64), expires_at: i64) -> sqlx::Result<()> {
    for sql in ["DELETE FROM ticket", "DELETE FROM atomically_hold", "UPDATE event SET seats = 0"] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await?;
    }
    let insert = "INSERT INTO atomically_hold (id, part, token, target, row_key, amount, expires_at) \
                  VALUES (?, 0, ?, 'event.id.seats', '1', 1, ?)";
    DB::pool_execute(&pool, DB::sql(insert), &[hold.0, hold.1, expires_at]).await.map(|_| ())
}

async fn ask<DB: TestBackend>(pool: Pool<DB>, sql: &str) -> sqlx::Result<i64> {
    Ok(crate::fetch(&pool, sql).await)
}

/// Buys the seat, unless the hold has ended.
async fn confirm<DB: TestBackend>(hold: &Hold<DB, i64>, db: &impl Transactor<DB>) -> Result<(), String>
where
    i64: HoldKey<DB>,
{
    match buy(db, hold).await {
        Err(error) if !error.is_stale_claim() => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Takes a seat, if there is one.
async fn take<DB: TestBackend>(holds: &Holds<DB, i64>, db: &impl Transactor<DB>) -> Result<(), String>
where
    i64: HoldKey<DB>,
{
    done(holds.hold_through(db, [(1, 1)], LONG).await)
}

async fn sweep<DB: TestBackend>(holds: &Holds<DB, i64>, db: &impl Transactor<DB>) -> Result<(), String>
where
    i64: HoldKey<DB>,
{
    done(holds.sweep_through(db).await)
}

/// The time passes at which the hold expires.
async fn time<DB: TestBackend>(db: &impl Transactor<DB>) -> Result<(), String> {
    let sql = "UPDATE atomically_hold SET expires_at = 1 WHERE confirmed_at IS NULL AND amount = 1";
    let unit = async |tx: &mut Tx<DB>| Ok::<_, Error>(DB::execute(tx, DB::sql(sql), &[]).await?);
    done(db.run(unit).await)
}

fn done<T>(result: Result<T, Error>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

/// The hold has expired. Its buyer confirms it too late, another caller wants the seat, and a task sweeps.
pub(crate) async fn an_expired_hold_is_given_back_once_and_not_confirmed<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(6, 1).await;
    let db = Pessimistic::default().on(&pool);
    let (hold, holds) = (&held(&holds, 1, 1).await, &holds);
    let ids = (hold.id(), hold.token());
    let report = explore(&pool)
        .set_up(|pool| reset(pool, ids, 1))
        .client("buyer", &db, |db| async move { confirm(hold, &db).await })
        .client("other", &db, |db| async move { take(holds, &db).await })
        .client("sweep", &db, |db| async move { sweep(holds, &db).await })
        .expect("seats, holds and tickets", 1_i64, |pool| ask(pool, TOTAL))
        .expect("tickets", 0_i64, |pool| ask(pool, TICKETS))
        .expect("seats of the other", 1_i64, |pool| ask(pool, HELD_BY_THE_OTHER))
        .max_preemptions(1)
        .run()
        .await
        .expect("explored");
    assert!(report.passes(), "{report}");
}

/// The hold is confirmed and released, and another caller wants the seat.
pub(crate) async fn a_hold_is_confirmed_released_or_given_back_once<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(6, 1).await;
    let db = Pessimistic::default().on(&pool);
    let (hold, holds) = (&held(&holds, 1, 1).await, &holds);
    let ids = (hold.id(), hold.token());
    let pair = |expires_at| explore(&pool).set_up(move |pool| reset(pool, ids, expires_at));
    let report = pair(i64::MAX)
        .client("buyer", &db, |db| async move { confirm(hold, &db).await })
        .client("release", &db, |db| async move { done(hold.release_through(&db).await) })
        .expect("seats, holds and tickets", 1_i64, |pool| ask(pool, TOTAL))
        .run()
        .await
        .expect("explored");
    assert!(report.passes() && report.complete, "{report}");
    let report = pair(1)
        .client("sweep", &db, |db| async move { sweep(holds, &db).await })
        .client("release", &db, |db| async move { done(hold.release_through(&db).await) })
        .expect("seats, holds and tickets", 1_i64, |pool| ask(pool, TOTAL))
        .max_preemptions(3)
        .run()
        .await
        .expect("explored");
    assert!(report.passes(), "{report}");
    let report = pair(i64::MAX)
        .client("buyer", &db, |db| async move { confirm(hold, &db).await })
        .client("buyer again", &db, |db| async move { confirm(hold, &db).await })
        .expect("tickets", 1_i64, |pool| ask(pool, TICKETS))
        .run()
        .await
        .expect("explored");
    assert!(report.passes() && report.complete, "{report}");
}

/// The time of the hold passes while its buyer confirms it, and another caller wants the seat.
pub(crate) async fn a_hold_expires_while_it_is_confirmed<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(6, 1).await;
    let db = Pessimistic::default().on(&pool);
    let (hold, holds) = (&held(&holds, 1, 1).await, &holds);
    let ids = (hold.id(), hold.token());
    let report = explore(&pool)
        .set_up(|pool| reset(pool, ids, i64::MAX))
        .client("time", &db, |db| async move { time(&db).await })
        .client("buyer", &db, |db| async move { confirm(hold, &db).await })
        .client("other", &db, |db| async move { take(holds, &db).await })
        .expect("seats, holds and tickets", 1_i64, |pool| ask(pool, TOTAL))
        .max_preemptions(2)
        .run()
        .await
        .expect("explored");
    assert!(report.passes(), "{report}");
}

/// Two callers want the same two rows, in different orders, and a task gives back a hold of both.
pub(crate) async fn holds_of_several_rows_do_not_deadlock<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(6, 1).await;
    let deadlocks = Arc::new(AtomicUsize::new(0));
    let counter = deadlocks.clone();
    let db = Pessimistic::default().on(&pool).observed_by(move |event: &Event<'_>| {
        if let Event::Unit { event: UnitEvent::AttemptFailed { failure, .. }, .. } = event
            && failure.kind() == FailureKind::Deadlock
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let holds = &holds;
    let both = async |pool: Pool<DB>| {
        reset(pool.clone(), (1, 1), 1).await?;
        let second = "INSERT INTO atomically_hold (id, part, token, target, row_key, amount, expires_at) \
                      VALUES (1, 1, 1, 'event.id.seats', '2', 1, 1)";
        DB::pool_execute(&pool, DB::sql(second), &[]).await?;
        DB::pool_execute(&pool, DB::sql("UPDATE event SET seats = 1"), &[]).await.map(|_| ())
    };
    let report = explore(&pool)
        .set_up(both)
        .client("first", &db, |db| async move { done(holds.hold_through(&db, [(1, 1), (2, 1)], LONG).await) })
        .client(
            "second",
            &db,
            |db| async move { done(holds.hold_through(&db, [(2, 1), (1, 1)], LONG).await) },
        )
        .client("sweep", &db, |db| async move { sweep(holds, &db).await })
        .expect("seats and holds of the first row", 2_i64, |pool| ask(pool, TOTAL))
        .max_preemptions(1)
        .run()
        .await
        .expect("explored");
    assert!(report.passes(), "{report}");
    assert_eq!(deadlocks.load(Ordering::Relaxed), 0, "{report}");
}
