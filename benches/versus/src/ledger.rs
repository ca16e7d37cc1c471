//! What each account must hold after a turn.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::contender::Work;

/// Balances by account.
pub(crate) type Balances = BTreeMap<i64, i64>;

/// The changes of acknowledged transactions, summed by account.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<i64, i64>);

impl Ledger {
    /// Adds an acknowledged transaction.
    pub(crate) fn record(&mut self, work: Work) {
        for (id, change) in work.changes() {
            *self.0.entry(id).or_default() += change;
        }
    }

    /// Adds the transactions of another caller.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (id, change) in &other.0 {
            *self.0.entry(*id).or_default() += change;
        }
    }

    /// Fails unless every account holds its previous balance plus its changes. The sum of all balances would
    /// not reveal a lost transfer, which does not change it.
    pub(crate) fn check(&self, before: &Balances, after: &Balances) -> Result<()> {
        ensure!(before.len() == after.len(), "there were {} accounts, and now {}", before.len(), after.len());
        for (id, balance) in before {
            let expected = balance + self.0.get(id).copied().unwrap_or_default();
            let found = after.get(id).with_context(|| format!("account {id} is gone"))?;
            ensure!(*found == expected, "account {id} holds {found}, and must hold {expected}");
        }
        Ok(())
    }
}
