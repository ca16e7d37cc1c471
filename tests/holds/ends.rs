//! How holds end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::holds::{Confirmation, Hold, HoldKey, HoldOutcome, Holds};
use atomically::{
    Error, ErrorKind, Isolation, Optimistic, Options, Pessimistic, PoolTransactor, TransactorExt as _, Tx,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{TestBackend, eventually};
use crate::{LONG, buy, events, expire, fetch, held, seats};

const LEVELS: [Isolation; 3] = [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable];
/// Far longer than any step takes, and far shorter than the buyer's transaction may stay open.
const LIMIT: Duration = Duration::from_secs(60);
const TICKETS: &str = "SELECT COUNT(*) FROM ticket";

pub(crate) async fn a_confirmed_hold_is_gone_for_good<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    for level in LEVELS {
        let db = Pessimistic::default().on(&pool).options(Options::new().isolation(level));
        let before = seats(&pool, 1).await;
        let hold = held(&holds, 1, 1).await;
        assert_eq!(buy(&db, &hold).await.expect("in time"), Confirmation::Confirmed);
        assert_eq!(buy(&db, &hold).await.expect("told apart"), Confirmation::AlreadyConfirmed);
        let optimistic = Optimistic::default().on(&pool).options(Options::new().isolation(level));
        assert_eq!(buy(&optimistic, &hold).await.expect("told apart"), Confirmation::AlreadyConfirmed);
        assert!(!hold.release().await.expect("an answer"), "it was confirmed");
        expire(&pool).await;
        assert_eq!(holds.sweep().await.expect("swept"), 0);
        assert_eq!(seats(&pool, 1).await, before - 1, "{level}");
    }
    assert_eq!(fetch(&pool, TICKETS).await, 3);
    assert_eq!(holds.purge(LONG).await.expect("purged"), 0);
    assert_eq!(holds.purge(Duration::ZERO).await.expect("purged"), 3);
}

pub(crate) async fn an_expired_hold_cannot_be_confirmed<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    for (level, is_swept) in LEVELS.into_iter().flat_map(|level| [(level, false), (level, true)]) {
        let db = Pessimistic::default().on(&pool).options(Options::new().isolation(level));
        let hold = held(&holds, 1, 1).await;
        expire(&pool).await;
        if is_swept {
            assert_eq!(holds.sweep().await.expect("swept"), 2);
        }
        let error = buy(&db, &hold).await.expect_err("too late");
        assert_eq!(error.kind(), ErrorKind::StaleClaim, "{level}: {error}");
        assert_eq!(fetch(&pool, TICKETS).await, 0, "{level}");
    }
    assert_eq!(seats(&pool, 1).await, 5);
}

pub(crate) async fn a_rolled_back_confirmation_leaves_the_hold_active<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let db = Pessimistic::default().on(&pool);
    let hold = held(&holds, 1, 1).await;
    let unit = async |tx: &mut Tx<DB>| {
        assert_eq!(hold.confirm_in(tx).await?, Confirmation::Confirmed);
        assert_eq!(hold.confirm_in(tx).await?, Confirmation::AlreadyConfirmed);
        Err::<(), _>(Error::from(sqlx::Error::RowNotFound))
    };
    db.run(unit).await.expect_err("the buyer's own error");
    assert_eq!(buy(&db, &hold).await.expect("in time"), Confirmation::Confirmed);
}

pub(crate) async fn a_released_hold_is_given_back_once<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let db = Pessimistic::default().on(&pool);
    let hold = held(&holds, 1, 2).await;
    assert!(hold.release().await.expect("released"));
    assert!(!hold.release().await.expect("an answer"));
    assert_eq!(seats(&pool, 1).await, 5);
    let error = buy(&db, &hold).await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::StaleClaim, "{error}");
    assert_eq!(fetch(&pool, TICKETS).await, 0);
}

pub(crate) async fn a_wrong_token_ends_nothing<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let db = Pessimistic::default().on(&pool);
    let hold = held(&holds, 1, 2).await;
    // As of a holder from whom the hold was taken over.
    let sql = DB::sql("UPDATE atomically_hold SET token = token - 1");
    DB::pool_execute(&pool, sql, &[]).await.expect("another token");
    let error = buy(&db, &hold).await.expect_err("another has the hold");
    assert_eq!(error.kind(), ErrorKind::StaleClaim, "{error}");
    assert!(!hold.release().await.expect("an answer"));
    assert_eq!((seats(&pool, 1).await, fetch(&pool, TICKETS).await), (3, 0));
}

pub(crate) async fn an_expired_hold_is_given_back_to_a_caller_that_would_be_refused<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let (_first, _other) = (held(&holds, 1, 4).await, held(&holds, 2, 4).await);
    let refused = holds.hold(1, 2, LONG).await.expect("an answer");
    assert!(matches!(refused, HoldOutcome::Refused { available: 1 }), "{refused:?}");
    expire(&pool).await;
    let _second = held(&holds, 1, 5).await;
    assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (0, 1), "only what is needed is swept");
}

pub(crate) async fn all_rows_of_an_expired_hold_are_given_back<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let held_together = holds.hold_all([(1, 5), (2, 5)], LONG).await.expect("an answer");
    assert!(matches!(held_together, HoldOutcome::Held(_)), "{held_together:?}");
    expire(&pool).await;
    let _second = held(&holds, 2, 3).await;
    assert_eq!((seats(&pool, 1).await, seats(&pool, 2).await), (5, 2));
}

pub(crate) async fn a_hold_of_a_deleted_row_ends<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let _gone = held(&holds, 1, 1).await;
    let released = holds.hold_all([(1, 1), (2, 1)], LONG).await.expect("an answer");
    DB::pool_execute(&pool, DB::sql("DELETE FROM event WHERE id = 1"), &[]).await.expect("deleted");
    let HoldOutcome::Held(released) = released else { panic!("{released:?}") };
    assert!(released.release().await.expect("released"));
    expire(&pool).await;
    assert_eq!(holds.sweep().await.expect("swept"), 1);
    assert_eq!((seats(&pool, 2).await, fetch(&pool, "SELECT COUNT(*) FROM atomically_hold").await), (5, 0));
}

pub(crate) async fn a_sweeper_gives_back_what_has_expired<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let sweeper = holds.sweep_every(Duration::from_millis(20));
    let short = holds.hold(1, 3, Duration::from_millis(1)).await.expect("an answer");
    assert!(matches!(short, HoldOutcome::Held(_)), "{short:?}");
    eventually(5, async || seats(&pool, 1).await).await;
    sweeper.shutdown().await;
}

pub(crate) async fn a_hold_is_found_by_its_id_and_token_only<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let db = Pessimistic::default().on(&pool);
    let hold = held(&holds, 1, 2).await;
    assert!(holds.find(hold.id(), hold.token() ^ 1).await.expect("an answer").is_none());
    let found = holds.find(hold.id(), hold.token()).await.expect("an answer").expect("it is active");
    assert_eq!(found.expires_at(), hold.expires_at());
    assert_eq!(buy(&db, &found).await.expect("in time"), Confirmation::Confirmed);
    assert!(holds.find(hold.id(), hold.token()).await.expect("an answer").is_some());
}

/// A buyer whose transaction confirms a hold, and stays open until it may proceed.
fn confirming<DB: TestBackend>(
    db: &PoolTransactor<DB, Pessimistic>,
    hold: &Hold<DB, i64>,
) -> (JoinHandle<Result<Confirmation, Error>>, oneshot::Receiver<()>, oneshot::Sender<()>)
where
    i64: HoldKey<DB>,
{
    let (confirmed, is_confirmed) = oneshot::channel();
    let (proceed, may_proceed) = oneshot::channel::<()>();
    let ends = Arc::new(Mutex::new(Some((confirmed, may_proceed))));
    let (db, hold) = (db.clone(), hold.clone());
    let buyer = tokio::spawn(async move {
        let ends = &ends;
        let unit = async |tx: &mut Tx<DB>| {
            let confirmation = hold.confirm_in(tx).await?;
            let (confirmed, may_proceed) = ends.lock().expect("unlocked").take().expect("one attempt");
            confirmed.send(()).expect("the test waits");
            may_proceed.await.expect("the test goes on");
            DB::execute(tx, DB::sql("UPDATE event SET seats = seats WHERE id = 1"), &[]).await?;
            Ok::<_, Error>(confirmation)
        };
        db.run(unit).await
    });
    (buyer, is_confirmed, proceed)
}

/// A buyer's transaction has confirmed a hold, and is still open when the hold expires.
pub(crate) async fn a_hold_that_is_being_confirmed_delays_no_other_caller<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(6, 5).await;
    let db = Pessimistic::default().on(&pool).deadline(LONG);
    let (hold, other) = (held(&holds, 1, 2).await, held(&holds, 1, 3).await);
    let (buyer, is_confirmed, proceed) = confirming(&db, &hold);
    is_confirmed.await.expect("confirmed");
    // The other hold expires.
    let sql = DB::sql("UPDATE atomically_hold SET expires_at = 1 WHERE id = ?");
    DB::pool_execute(&pool, sql, &[other.id()]).await.expect("it expires");
    let third = timeout(LIMIT, held(&holds, 1, 3)).await.expect("it waits for no buyer");
    let release = tokio::spawn(async move { hold.release().await });
    assert!(third.release().await.expect("released"));
    proceed.send(()).expect("the buyer waits");
    let confirmation = buyer.await.expect("no panic").expect("in time");
    assert_eq!(confirmation, Confirmation::Confirmed);
    assert!(!release.await.expect("no panic").expect("an answer"), "it was confirmed");
    assert_eq!(seats(&pool, 1).await, 3);
}

/// A hold of one seat of event 1 whose time is over, and a buyer who confirmed it in time and is about to
/// commit.
pub(crate) async fn expired_during_its_confirmation<DB: TestBackend>(
    db: &PoolTransactor<DB, Pessimistic>,
    holds: &Holds<DB, i64>,
) -> (Hold<DB, i64>, JoinHandle<Result<Confirmation, Error>>, oneshot::Sender<()>)
where
    i64: HoldKey<DB>,
{
    loop {
        let short = holds.hold(1, 1, Duration::from_millis(300)).await.expect("an answer");
        let HoldOutcome::Held(hold) = short else { panic!("{short:?}") };
        let (buyer, is_confirmed, proceed) = confirming(db, &hold);
        if is_confirmed.await.is_err() {
            // The machine was too busy to confirm in time.
            continue;
        }
        eventually(true, async || {
            let probe = holds.hold(2, 1, Duration::from_millis(1)).await.expect("an answer");
            let HoldOutcome::Held(probe) = probe else { panic!("{probe:?}") };
            probe.release().await.expect("an answer");
            // The probe expires a millisecond after it was held.
            probe.expires_at() > hold.expires_at() + Duration::from_millis(2)
        })
        .await;
        return (hold, buyer, proceed);
    }
}

/// The sweep sees an active hold whose time is over, and does not see yet that it was confirmed in time.
pub(crate) async fn a_hold_that_expires_during_its_confirmation_stays_with_its_buyer<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(6, 50).await;
    let db = Pessimistic::default().on(&pool).deadline(LONG);
    let (_, buyer, proceed) = expired_during_its_confirmation(&db, &holds).await;
    let swept = timeout(LIMIT, holds.sweep()).await.expect("it waits for no buyer");
    let _ = swept.expect("swept");
    proceed.send(()).expect("the buyer waits");
    assert_eq!(buyer.await.expect("no panic").expect("in time"), Confirmation::Confirmed);
    holds.sweep().await.expect("swept");
    assert_eq!(seats(&pool, 1).await, 49);
}

/// The server has not responded yet to the COMMIT of the first confirmation, and the buyer's client sends the
/// request again. The response must not be that the hold was lost.
pub(crate) async fn a_second_confirmation_waits_for_the_first_even_after_the_expiry<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(6, 50).await;
    let db = Pessimistic::default().on(&pool).deadline(LONG);
    for level in LEVELS {
        let (hold, buyer, proceed) = expired_during_its_confirmation(&db, &holds).await;
        let second = db.clone().options(Options::new().isolation(level).deadline(LONG));
        let mut again = tokio::spawn(async move { buy(&second, &hold).await });
        let early = timeout(Duration::from_millis(300), &mut again).await;
        assert!(
            early.is_err(),
            "{level}: the first confirmation is not stored yet, and not refused: {early:?}"
        );
        proceed.send(()).expect("the buyer waits");
        assert_eq!(buyer.await.expect("no panic").expect("in time"), Confirmation::Confirmed);
        let again = again.await.expect("no panic").expect("the first one is stored");
        assert_eq!(again, Confirmation::AlreadyConfirmed, "{level}");
    }
}
