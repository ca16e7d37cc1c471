//! What a sweep finds, and what has become of it when the sweep has locked it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use atomically::holds::{Confirmation, HoldKey};
use atomically::{Ended, Error, Options, Pessimistic, PoolTransactor, Transactor, Unit};
use tokio::sync::Semaphore;

use crate::ends::expired_during_its_confirmation;
use crate::support::TestBackend;
use crate::{LONG, events, seats};

/// A transactor whose first unit runs, and whose others wait for a permit.
struct WaitsAfterTheFirst<DB: TestBackend> {
    db: PoolTransactor<DB, Pessimistic>,
    units: AtomicU32,
    has_ended_first: Semaphore,
    may_go_on: Semaphore,
}

#[async_trait]
impl<DB: TestBackend> Transactor<DB> for WaitsAfterTheFirst<DB> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        if self.units.fetch_add(1, Ordering::Relaxed) > 0 {
            self.has_ended_first.add_permits(1);
            let _permit = self.may_go_on.acquire().await.expect("a permit");
        }
        self.db.transact(options, unit).await
    }
}

/// The sweep finds an active hold whose time is over. Before it locks the hold, the buyer, who confirmed it
/// in time, commits.
pub(crate) async fn a_hold_whose_confirmation_commits_during_a_sweep_is_not_given_back<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(6, 50).await;
    let db = Pessimistic::default().on(&pool).deadline(LONG);
    let (_, buyer, proceed) = expired_during_its_confirmation(&db, &holds).await;
    let transactor = Arc::new(WaitsAfterTheFirst {
        db,
        units: AtomicU32::new(0),
        has_ended_first: Semaphore::new(0),
        may_go_on: Semaphore::new(0),
    });
    let sweep = tokio::spawn({
        let (holds, transactor) = (holds.clone(), transactor.clone());
        async move { holds.sweep_through(&transactor).await }
    });
    let _found = transactor.has_ended_first.acquire().await.expect("the hold was found");
    proceed.send(()).expect("the buyer waits");
    assert_eq!(buyer.await.expect("no panic").expect("in time"), Confirmation::Confirmed);
    transactor.may_go_on.add_permits(1);
    assert_eq!(sweep.await.expect("no panic").expect("swept"), 0, "it was confirmed");
    assert_eq!(seats(&pool, 1).await, 49);
}
