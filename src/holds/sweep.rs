//! Gives back what has expired.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::runner::Runner;
use super::sql::{HoldPart, HoldSql, MAX_HOLDS};
use super::{HoldKey, Holds};
use crate::backend::Backend;
use crate::batching::{refuses_a_part, sums};
use crate::error::Error;
use crate::events::HoldEvent;
use crate::failure::{Failure, FailureKind};
use crate::transactor::{Transactor, TransactorExt as _};
use crate::tx::Tx;

/// The shortest time between two sweeps.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// A background task that gives expired holds back. Dropping it stops the task.
#[derive(Debug)]
#[must_use = "the task stops when its handle is dropped"]
pub struct Sweeper {
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Stops the task after the sweep that is running, and waits for its end.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // A panic in the task leaves nothing to wait for.
            let _ = task.await;
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl<DB: Backend, K: HoldKey<DB>> Holds<DB, K> {
    /// Starts a task that [sweeps](Self::sweep) at this interval. A sweep that fails is reported to the
    /// observers, and repeated at the next interval.
    ///
    /// The task makes amounts available that no caller requests, for example to a page that shows how many
    /// seats are left: a call that would be refused sweeps its own rows anyway. One process is enough, and
    /// several do no harm.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime.
    pub fn sweep_every(&self, interval: Duration) -> Sweeper {
        let (stop, mut stopped) = watch::channel(false);
        let (holds, interval) = (self.clone(), interval.max(MIN_INTERVAL));
        let task = tokio::spawn(async move {
            while timeout(interval, stopped.wait_for(|stopped| *stopped)).await.is_err() {
                if let Err(error) = holds.sweep().await {
                    holds.runner().notify(HoldEvent::SweepFailed { error: &error });
                }
            }
        });
        Sweeper { stop, task: Some(task) }
    }

    /// Gives back all holds on this column that have expired. Returns their number.
    ///
    /// # Errors
    ///
    /// Returns the database's error. Some of the holds may have been given back. A hold is kept if its number
    /// was changed to something other than an integer, or if the database refuses the change of its row, for
    /// example because of a CHECK. It is an error once no others are left:
    /// [`Aborted`](crate::ErrorKind::Aborted), or that of the database.
    pub async fn sweep(&self) -> Result<usize, Error> {
        let (runner, mut swept, mut kept, mut refusal) = (self.runner(), 0, 0, None);
        loop {
            let expired = runner.find_expired(&runner.db, kept).await?;
            match runner.give_back_expired(&runner.db, &expired).await {
                Ok(batch) if batch.has_ended_any() => swept += batch.given_back,
                // They are locked by transactions that end them. Others may have expired after them.
                Ok(_) => kept += expired.len(),
                Err(error) if refuses_a_part(error.kind()) => {
                    kept += expired.len();
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
            if expired.len() < MAX_HOLDS {
                return refusal.map_or(Ok(swept), Err);
            }
        }
    }

    /// Gives back expired holds in transactions of this transactor: for tests that control it.
    ///
    /// # Errors
    ///
    /// Those of [`sweep`](Self::sweep).
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub async fn sweep_through(&self, db: &impl Transactor<DB>) -> Result<usize, Error> {
        let expired = self.runner().find_expired(db, 0).await?;
        Ok(self.runner().give_back_expired(db, &expired).await?.given_back)
    }
}

fn number_of_holds(parts: &[HoldPart]) -> usize {
    parts.iter().map(|part| part.id).collect::<BTreeSet<_>>().len()
}

/// What became of holds that had expired.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Swept {
    /// How many were given back.
    given_back: usize,
    /// Whether some had been given back before, by another caller.
    were_gone: bool,
}

impl Swept {
    /// Returns whether there may be more in the rows now.
    pub(super) fn has_ended_any(self) -> bool {
        self.given_back > 0 || self.were_gone
    }

    fn add(&mut self, other: Self) {
        self.given_back += other.given_back;
        self.were_gone |= other.were_gone;
    }
}

impl<DB: Backend, K: HoldKey<DB>> Runner<DB, K> {
    /// Returns the ids of expired holds, without the first `kept` ones.
    async fn find_expired(&self, db: &impl Transactor<DB>, kept: usize) -> Result<Vec<i64>, Error> {
        let records = self.settings.records();
        let unit = async |tx: &mut Tx<DB>| {
            Ok::<_, Error>(HoldSql::of::<DB>().expired(tx, records, &[], kept).await?)
        };
        db.run(unit).await
    }

    /// Gives back those of these holds that have expired.
    ///
    /// If the database refuses to change one of their rows, for example because of a CHECK, the holds of each
    /// row are given back on their own, so that those of one row do not keep the others. The refusal is an
    /// error once no others are left.
    pub(super) async fn give_back_expired(
        &self,
        db: &impl Transactor<DB>,
        ids: &[i64],
    ) -> Result<Swept, Error> {
        let mut refusal = match self.give_back_together(db, ids).await {
            Err(error) if refuses_a_part(error.kind()) => error,
            ended => return ended,
        };
        let mut swept = Swept::default();
        let groups = self.by_rows(db, ids).await?;
        if groups.len() < 2 {
            return Err(refusal);
        }
        for ids in groups {
            match self.give_back_together(db, &ids).await {
                Ok(group) => swept.add(group),
                Err(error) if refuses_a_part(error.kind()) => refusal = error,
                Err(error) => return Err(error),
            }
        }
        if swept.has_ended_any() { Ok(swept) } else { Err(refusal) }
    }

    /// Returns the ids of holds in groups: those of a group were taken from the same rows.
    async fn by_rows(&self, db: &impl Transactor<DB>, ids: &[i64]) -> Result<Vec<Vec<i64>>, Error> {
        let records = self.settings.records();
        let unit = async |tx: &mut Tx<DB>| Ok::<_, Error>(HoldSql::of::<DB>().parts(tx, records, ids).await?);
        let (mut rows, mut groups) = (BTreeMap::<i64, BTreeSet<String>>::new(), BTreeMap::new());
        for part in db.run(unit).await? {
            rows.entry(part.id).or_default().insert(part.row_key);
        }
        for (id, rows) in rows {
            groups.entry(rows).or_insert_with(Vec::new).push(id);
        }
        Ok(groups.into_values().collect())
    }

    /// Gives back expired holds in one transaction.
    ///
    /// The rows with the numbers are locked before the holds, whose locks it does not wait for. So it waits
    /// for no transaction that confirms a hold and then changes its row.
    async fn give_back_together(&self, db: &impl Transactor<DB>, ids: &[i64]) -> Result<Swept, Error> {
        if ids.is_empty() {
            return Ok(Swept::default());
        }
        let (sql, records) = (HoldSql::of::<DB>(), self.settings.records());
        let wanted = ids.iter().collect::<BTreeSet<_>>().len();
        let unit = async |tx: &mut Tx<DB>| {
            let parts = sql.parts(tx, records, ids).await?;
            let keys: Vec<K> = self.amounts(&parts)?.into_keys().collect();
            let found = self.settings.numbers::<DB>().lock(tx, &keys).await?.found;
            let expired = self.returnable(&found, sql.lock_expired(tx, records, ids).await?)?;
            let given_back = number_of_holds(&expired);
            // Read again, because another caller may have given some back before the rows were locked.
            let left = match given_back == wanted {
                true => given_back,
                false => number_of_holds(&sql.parts(tx, records, ids).await?),
            };
            self.give_back(tx, &found, &expired).await?;
            Ok::<_, Error>(Swept { given_back, were_gone: left < wanted })
        };
        let swept = db.run(unit).await?;
        if swept.given_back > 0 {
            self.notify(HoldEvent::Expired { holds: swept.given_back });
        }
        Ok(swept)
    }

    /// Deletes holds that are locked, and adds their amounts to their rows, which are locked and have these
    /// numbers. What was held of a row that was deleted is gone.
    pub(super) async fn give_back(
        &self,
        tx: &mut Tx<DB>,
        found: &BTreeMap<K, Option<i64>>,
        parts: &[HoldPart],
    ) -> Result<(), Error> {
        if parts.is_empty() {
            return Ok(());
        }
        let mut amounts = self.amounts(parts)?;
        amounts.retain(|key, _| found.contains_key(key));
        // SQLite would store a sum that does not fit as a floating-point number.
        let sums = sums(found, &amounts);
        if sums.values().any(Option::is_none) {
            return Err(self.settings.numbers::<DB>().not_an_integer());
        }
        HoldSql::of::<DB>().delete(tx, self.settings.records(), parts).await?;
        if !amounts.is_empty() {
            let changes = amounts.iter().map(|(key, amount)| (key, *amount)).collect();
            self.settings.numbers::<DB>().change(tx, changes, &sums).await?;
        }
        Ok(())
    }

    /// Leaves out holds of a row whose number is not an integer any more, or would not fit with their
    /// amounts, so that they do not keep the others from being given back. They are an error once no others
    /// are left.
    fn returnable(
        &self,
        found: &BTreeMap<K, Option<i64>>,
        parts: Vec<HoldPart>,
    ) -> Result<Vec<HoldPart>, Error> {
        let (mut returned, mut kept) = (BTreeMap::<K, i64>::new(), BTreeSet::new());
        for hold in parts.chunk_by(|one, next| one.id == next.id) {
            let mut with_hold = BTreeMap::new();
            for part in hold {
                let key = self.key_of(&part.row_key)?;
                let sum = returned.get(&key).copied().unwrap_or_default().checked_add(part.amount);
                let fits = |number: &Option<i64>| number.zip(sum).and_then(|(n, sum)| n.checked_add(sum));
                if found.get(&key).is_some_and(|number| fits(number).is_none()) {
                    kept.insert(part.id);
                }
                with_hold.insert(key, sum.unwrap_or(i64::MAX));
            }
            if hold.iter().all(|part| !kept.contains(&part.id)) {
                returned.extend(with_hold);
            }
        }
        let returnable: Vec<_> = parts.into_iter().filter(|part| !kept.contains(&part.id)).collect();
        match returnable.is_empty() && !kept.is_empty() {
            true => Err(self.settings.numbers::<DB>().not_an_integer()),
            false => Ok(returnable),
        }
    }

    /// Sums what was taken from each row.
    pub(super) fn amounts(&self, parts: &[HoldPart]) -> Result<BTreeMap<K, i64>, Error> {
        let mut amounts = BTreeMap::<K, i64>::new();
        for part in parts {
            let amount = amounts.entry(self.key_of(&part.row_key)?).or_default();
            *amount = amount.saturating_add(part.amount);
        }
        Ok(amounts)
    }

    fn key_of(&self, row_key: &str) -> Result<K, Error> {
        row_key.parse().map_err(|_| {
            let message = format!(
                "a hold on {} has a key that is not of the type {}: use one type of keys for a column",
                self.settings.name,
                std::any::type_name::<K>()
            );
            Error::failed(Failure::new(FailureKind::Aborted, message), None)
        })
    }
}
