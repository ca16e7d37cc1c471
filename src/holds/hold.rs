//! An amount that is held.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::sql::{HoldId, HoldSql};
use super::{HoldKey, Holds};
use crate::backend::Backend;
use crate::error::Error;
use crate::events::HoldEvent;
use crate::transactor::{Transactor, TransactorExt as _};
use crate::tx::Tx;

/// An amount that was taken from one or more rows, until it is confirmed or released, or expires.
///
/// Dropping it does not release it: store the [id](Self::id) and the [token](Self::token) with the pending
/// payment, and [find](Holds::find) it again when the payment has ended, in any process.
#[must_use = "an amount that is neither confirmed nor released is missing until it expires"]
pub struct Hold<DB: Backend, K> {
    holds: Holds<DB, K>,
    id: HoldId,
    /// In microseconds since 1970, by the clock of the database.
    expires_at: i64,
}

/// The result of a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Confirmation {
    /// This transaction confirms the hold.
    Confirmed,
    /// The hold was confirmed before, by this transaction or another one.
    AlreadyConfirmed,
}

impl<DB: Backend, K: HoldKey<DB>> Hold<DB, K> {
    pub(super) fn new(holds: &Holds<DB, K>, id: HoldId, expires_at: i64) -> Self {
        Self { holds: holds.clone(), id, expires_at }
    }

    /// Confirms the hold if this transaction commits: the buyer has paid, and the amount is not given back.
    ///
    /// Call it in the transaction that stores what the amount was held for, such as the order: both are
    /// stored, or neither is. A second call returns [`Confirmation::AlreadyConfirmed`], in the same
    /// transaction or in a later one, so that a request that is repeated does not store a second order.
    ///
    /// A confirmation is possible until the hold expires, by the database's clock at this statement. It locks
    /// the hold until the transaction ends: the amount cannot be given back meanwhile, and another
    /// confirmation of the hold waits. A confirmation that comes too late locks the hold as well, because it
    /// has to wait for an earlier one that may still commit. Until its transaction ends, the amount is not
    /// given back either, and a call that needs it is refused.
    ///
    /// Above READ COMMITTED, MySQL and MariaDB lock the gaps beside the hold's rows as well: until the
    /// transaction ends, some new holds wait.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim): the hold has expired or was released. The unit is rolled
    /// back and not run again, even if the closure discards the error. Otherwise, returns the database's
    /// error.
    pub async fn confirm_in(&self, tx: &mut Tx<DB>) -> Result<Confirmation, Error> {
        let (sql, runner) = (HoldSql::of::<DB>(), self.holds.runner());
        let (records, id) = (runner.settings.records(), self.id.id);
        if sql.confirm(tx, records, self.id).await? {
            if runner.db.is_observed() {
                let holds = self.holds.clone();
                tx.on_commit(async move { holds.runner().notify(HoldEvent::Confirmed { id }) });
            }
            return Ok(Confirmation::Confirmed);
        }
        if sql.is_confirmed(tx, records, self.id).await? {
            return Ok(Confirmation::AlreadyConfirmed);
        }
        runner.notify(HoldEvent::TooLate { id });
        Err(tx.stale_claim(format!("the hold {id} has expired or was released")))
    }

    /// Gives the amount back. Returns false, and does nothing, if the hold was confirmed, was released
    /// before, or has expired and was given back.
    ///
    /// This is a transaction of its own: do not call it inside a unit of work on the same pool.
    ///
    /// # Errors
    ///
    /// Returns the database's error. The hold then expires, unless it was released nevertheless.
    pub async fn release(&self) -> Result<bool, Error> {
        self.release_by(&self.holds.runner().db).await
    }

    /// Releases the hold in a transaction of this transactor: for tests that control it.
    ///
    /// # Errors
    ///
    /// Those of [`release`](Self::release).
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub async fn release_through(&self, db: &impl Transactor<DB>) -> Result<bool, Error> {
        self.release_by(db).await
    }

    /// Unlike a sweep, it locks the hold before the rows with the numbers, because it waits for a transaction
    /// that confirms the hold, and other callers must not wait with it.
    async fn release_by(&self, db: &impl Transactor<DB>) -> Result<bool, Error> {
        let (runner, id) = (self.holds.runner(), self.id);
        let records = runner.settings.records();
        let unit = async |tx: &mut Tx<DB>| {
            let parts = HoldSql::of::<DB>().lock_active(tx, records, id).await?;
            let keys: Vec<K> = runner.amounts(&parts)?.into_keys().collect();
            let found = runner.settings.numbers::<DB>().lock(tx, &keys).await?.found;
            runner.give_back(tx, &found, &parts).await?;
            Ok::<_, Error>(!parts.is_empty())
        };
        let is_released = db.run(unit).await?;
        if is_released {
            runner.notify(HoldEvent::Released { id: id.id });
        }
        Ok(is_released)
    }

    /// Returns the number that identifies the hold in its table.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id.id
    }

    /// Returns the random number without which the hold can be neither confirmed nor released.
    #[must_use]
    pub fn token(&self) -> i64 {
        self.id.token
    }
}

impl<DB: Backend, K> Hold<DB, K> {
    /// Returns when the hold expires, by the clock of the database.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(self.expires_at).unwrap_or_default())
    }
}

// Not derived, because that would require `DB: Clone`.
impl<DB: Backend, K> Clone for Hold<DB, K> {
    fn clone(&self) -> Self {
        Self { holds: self.holds.clone(), ..*self }
    }
}

impl<DB: Backend, K> fmt::Debug for Hold<DB, K> {
    /// Omits the token, which is a secret of its holder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("id", &self.id.id)
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}
