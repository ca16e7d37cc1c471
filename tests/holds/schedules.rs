//! Every schedule of callers that end the same hold, and of callers that want the amount that it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atomically::holds::{Hold, HoldKey, Holds};
use atomically::testing::{Explore, Gap, explore};
use atomically::{
    Error, Event, FailureKind, Pessimistic, PoolTransactor, Transactor, TransactorExt as _, Tx, UnitEvent,
};
use sqlx::Pool;

use crate::support::{TestBackend, TestPool};
use crate::{LONG, TOTAL, buy, events, held};

/// The tickets, if as many holds were confirmed and none of them after its expiry; otherwise -1.
const SOLD: &str = "SELECT CAST(CASE WHEN COUNT(*) = (SELECT COUNT(*) FROM ticket) \
    AND COUNT(*) = COUNT(CASE WHEN confirmed_at < expires_at THEN 1 END) THEN COUNT(*) ELSE -1 END \
    AS BIGINT) FROM atomically_hold WHERE confirmed_at IS NOT NULL";

const TICKETS: &str = "SELECT COUNT(*) FROM ticket";

/// An expired hold, which any caller may give back, is no reason to refuse a caller, unless a transaction
/// has locked it in order to confirm or release it.
const HELD_BY_THE_OTHER: &str = "SELECT COUNT(*) FROM atomically_hold WHERE expires_at > 1";

/// A time at which a hold has expired long ago.
const EXPIRED: i64 = 1;

/// What a client does with the only seat, which is held by a buyer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    /// Holds the seat for another buyer, if it is free or the first hold has expired.
    Hold,
    /// Stores the order and confirms the hold, unless the hold has ended.
    Confirm,
    /// Lets the time pass at which the hold expires.
    Expire,
    /// Gives back what has expired.
    Sweep,
    Release,
}

/// A hold of the only seat.
struct Scene<DB: TestBackend> {
    pool: TestPool<DB>,
    db: PoolTransactor<DB, Pessimistic>,
    holds: Holds<DB, i64>,
    hold: Hold<DB, i64>,
}

impl<DB: TestBackend> Scene<DB>
where
    i64: HoldKey<DB>,
{
    async fn set() -> Self {
        let (pool, holds) = events::<DB>(6, 1).await;
        let (db, hold) = (Pessimistic::default().on(&pool), held(&holds, 1, 1).await);
        Self { pool, db, holds, hold }
    }

    /// Explores the actions, each by a client of its own, on a hold that expires at this time.
    fn explore(&self, actions: &[Action], expires_at: i64) -> Explore<'_, DB> {
        let ids = (self.hold.id(), self.hold.token());
        let explored = explore(&self.pool)
            .set_up(move |pool| reset(pool, ids, expires_at))
            .expect("seats, active holds and tickets", 1_i64, |pool| ask(pool, TOTAL))
            .invariant("each confirmed hold has a ticket, and was confirmed in time", |pool| async move {
                let sold = ask(pool, SOLD).await.map_err(|error| error.to_string())?;
                if (0..=1).contains(&sold) { Ok(()) } else { Err(format!("{sold} tickets")) }
            });
        let mut explored = explored;
        if expires_at == EXPIRED {
            explored = explored.expect("tickets", 0_i64, |pool| ask(pool, TICKETS));
            let locks = |action: &Action| [Action::Confirm, Action::Release].contains(action);
            if actions.contains(&Action::Hold) && !actions.iter().any(locks) {
                explored = explored.expect("seats of the other", 1_i64, |pool| ask(pool, HELD_BY_THE_OTHER));
            }
        } else if actions == [Action::Confirm; 2] {
            explored = explored.expect("tickets", 1_i64, |pool| ask(pool, TICKETS));
        }
        actions.iter().fold(explored, |explored, action| self.client(explored, *action))
    }

    fn client<'a>(&'a self, explored: Explore<'a, DB>, action: Action) -> Explore<'a, DB> {
        let Self { db, holds, hold, .. } = self;
        let name = format!("{action:?}");
        match action {
            Action::Hold => explored.client(name, db, move |db| async move { take(holds, &db).await }),
            Action::Confirm => explored.client(name, db, move |db| async move { confirm(hold, &db).await }),
            Action::Expire => {
                explored.client(name, db, move |db| async move { expire(hold.id(), &db).await })
            }
            Action::Sweep => explored.client(name, db, move |db| async move { sweep(holds, &db).await }),
            Action::Release => {
                explored.client(name, db, move |db| async move { done(hold.release_through(&db).await) })
            }
        }
    }
}

/// The number of preemptions in a CI run of what takes minutes to explore completely.
const FEW: usize = 1;

/// Explores every interleaving, or those with few preemptions.
async fn explore_actions<DB: TestBackend>(actions: &[Action], expires_at: i64, max_preemptions: Option<usize>)
where
    i64: HoldKey<DB>,
{
    let scene = Scene::<DB>::set().await;
    let mut reader = DB::another(&scene.pool.url).await.acquire().await.expect("a connection");
    if DB::NAME == "MySQL" {
        // InnoDB purges no row that this snapshot sees. Otherwise, whether the second caller that waits for a
        // row which is then deleted goes on at once would depend on when the row is purged.
        DB::raw(&mut reader, "START TRANSACTION WITH CONSISTENT SNAPSHOT").await.expect("a snapshot");
    }
    let mut exploration = scene.explore(actions, expires_at).skip_equivalent().max_schedules(50_000);
    if let Some(preemptions) = max_preemptions {
        exploration = exploration.max_preemptions(preemptions);
    }
    let report = exploration.run().await.expect("explored");
    // Two callers that wait for a row which a sweep then changes may go on in either order, whatever the
    // schedule. The explorer runs a schedule again until they go on as before, but not without end.
    let accepted = if actions.contains(&Action::Sweep) { report.schedules / 50 } else { 0 };
    let diverged = report.diverged;
    let (schedules, elapsed) = (report.schedules, report.elapsed);
    println!("{}, {actions:?}: {schedules} schedules in {elapsed:?}, {diverged} diverged", DB::NAME);
    assert!(report.counterexamples.len() == diverged && diverged <= accepted, "{report}");
    let is_left_out = |gap: &Gap| !matches!(gap, Gap::Diverged { .. });
    assert_eq!(report.gaps.iter().any(is_left_out), max_preemptions.is_some(), "{actions:?}: {report}");
}

/// A sweep takes two transactions of nine statements, and a call that holds and finds too little one more:
/// thousands of interleavings on a server.
fn preemptions_with_sweep<DB: TestBackend>(actions: &[Action]) -> Option<usize> {
    let is_large = actions.contains(&Action::Sweep) && (actions.len() > 2 || actions.contains(&Action::Hold));
    (DB::NAME != "SQLite" && is_large).then_some(FEW)
}

/// Everything that can happen to a hold, in every interleaving. This takes minutes on a server. On SQLite it
/// is 36 schedules.
pub(crate) async fn every_schedule_of_hold_confirm_expire_and_release<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let actions = [Action::Hold, Action::Confirm, Action::Expire, Action::Release];
    explore_actions::<DB>(&actions, i64::MAX, None).await;
}

/// The same, with clients that are interrupted at most once on a server.
pub(crate) async fn hold_confirm_expire_and_release<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let actions = [Action::Hold, Action::Confirm, Action::Expire, Action::Release];
    explore_actions::<DB>(&actions, i64::MAX, (DB::NAME != "SQLite").then_some(FEW)).await;
}

/// Declares tests that explore these actions on a hold that has not expired yet, or on one that has.
macro_rules! explored {
    ($($name:ident: $expires_at:expr, $($action:ident)*;)*) => {
        $(
            pub(crate) async fn $name<DB: TestBackend>()
            where
                i64: HoldKey<DB>,
            {
                let actions = [$(Action::$action),*];
                explore_actions::<DB>(&actions, $expires_at, preemptions_with_sweep::<DB>(&actions)).await;
            }
        )*
    };
}

explored! {
    hold_confirm_and_expire: i64::MAX, Hold Confirm Expire;
    hold_confirm_and_release: i64::MAX, Hold Confirm Release;
    hold_expire_and_release: i64::MAX, Hold Expire Release;
    confirm_expire_and_release: i64::MAX, Confirm Expire Release;
    hold_confirm_and_sweep: EXPIRED, Hold Confirm Sweep;
    hold_release_and_sweep: EXPIRED, Hold Release Sweep;
    confirm_release_and_sweep: EXPIRED, Confirm Release Sweep;
    confirm_twice: i64::MAX, Confirm Confirm;
    confirm_and_expire: i64::MAX, Confirm Expire;
    confirm_and_release: i64::MAX, Confirm Release;
    hold_and_release: i64::MAX, Hold Release;
    hold_and_sweep: EXPIRED, Hold Sweep;
    release_and_sweep: EXPIRED, Release Sweep;
}

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
async fn expire<DB: TestBackend>(hold: i64, db: &impl Transactor<DB>) -> Result<(), String> {
    let sql = "UPDATE atomically_hold SET expires_at = 1 WHERE id = ? AND confirmed_at IS NULL";
    let unit = async |tx: &mut Tx<DB>| Ok::<_, Error>(DB::execute(tx, DB::sql(sql), &[hold]).await?);
    done(db.run(unit).await)
}

fn done<T>(result: Result<T, Error>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
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
