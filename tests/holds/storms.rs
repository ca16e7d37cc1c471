//! Many callers at once, in one process.

use std::pin::pin;
use std::time::Duration;

use atomically::Pessimistic;
use atomically::holds::{Confirmation, HoldKey, HoldOutcome};
use futures_util::future::{Either, join_all, select};

use crate::support::{TestBackend, at_one_moment};
use crate::{TOTAL, buy, events, expire, fetch, seats, sql_of};

const SEATS: i64 = 24;
const CALLERS: u64 = 12;
const ROUNDS: u64 = 10;

/// Callers hold, buy, release, and let expire, while another reads the total.
pub(crate) async fn every_seat_is_accounted_for_at_every_commit<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(8, SEATS).await;
    let db = Pessimistic::default().on(&pool);
    let sweeper = holds.sweep_every(Duration::from_millis(10));
    let caller = async |caller: u64| {
        let mut bought = 0;
        for round in 0..ROUNDS {
            let is_short = (caller + round).is_multiple_of(3);
            let ttl = Duration::from_millis(if is_short { 1 } else { 60_000 });
            let outcome = holds.hold(1, 1, ttl).await.expect("an answer");
            let HoldOutcome::Held(hold) = outcome else { continue };
            if is_short {
                // It may have expired by now, or not.
                bought += i64::from(buy(&db, &hold).await.is_ok_and(|done| done == Confirmation::Confirmed));
            } else if round == 1 {
                assert_eq!(buy(&db, &hold).await.expect("in time"), Confirmation::Confirmed);
                bought += 1;
            } else {
                assert!(hold.release().await.expect("an answer"));
            }
        }
        bought
    };
    let callers = join_all((0..CALLERS).map(caller));
    let observer = async {
        loop {
            assert_eq!(at_one_moment(&pool, &sql_of::<DB>(TOTAL)).await, SEATS);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let callers = pin!(callers);
    let Either::Left((bought, _)) = select(callers, pin!(observer)).await;
    sweeper.shutdown().await;
    expire(&pool).await;
    holds.sweep().await.expect("swept");
    assert_eq!(fetch(&pool, "SELECT COUNT(*) FROM atomically_hold WHERE confirmed_at IS NULL").await, 0);
    let tickets = fetch(&pool, "SELECT COUNT(*) FROM ticket").await;
    assert_eq!((tickets, seats(&pool, 1).await), (bought.iter().sum(), SEATS - tickets));
    assert!(tickets > 0, "nothing was sold");
    assert_eq!(fetch(&pool, "SELECT COUNT(DISTINCT hold) FROM ticket").await, tickets, "confirmed twice");
}
