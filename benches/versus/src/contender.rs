//! The contenders: each does the same work in its own way, with the same statements.

mod atomically;
mod diesel;
mod optimistic;
mod sea_orm;
mod sqlx;
mod two_trips;

use anyhow::{Result, bail};
use async_trait::async_trait;

pub(crate) use self::atomically::{Atomically, Coalesced, Gated, Locking};
pub(crate) use self::diesel::Diesel;
pub(crate) use self::optimistic::Versioned;
pub(crate) use self::sea_orm::SeaOrm;
pub(crate) use self::sqlx::{Sqlx, pool};
pub(crate) use self::two_trips::TwoTrips;

/// One transaction of the workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Subtracts one from an account in one statement, which is its own transaction.
    Statement { id: i64 },
    /// The same between BEGIN and COMMIT.
    Unit { id: i64 },
    /// Reads and locks an account, subtracts one from the value that was read, and writes it.
    ReadThenWrite { id: i64 },
    /// Reads two accounts and locks them in the order of their ids, subtracts one from the first, and adds it
    /// to the other.
    Transfer { from: i64, to: i64 },
}

impl Work {
    /// The accounts that the transaction changes, and by how much.
    pub(crate) fn changes(self) -> impl Iterator<Item = (i64, i64)> {
        let (taken, given) = match self {
            Self::Statement { id } | Self::Unit { id } | Self::ReadThenWrite { id } => (id, None),
            Self::Transfer { from, to } => (from, Some((to, 1))),
        };
        std::iter::once((taken, -1)).chain(given)
    }
}

/// A library that can do the work.
#[async_trait]
pub(crate) trait Contender: Send + Sync {
    /// Performs the work, and returns after the commit.
    async fn perform(&self, work: Work) -> Result<()>;

    /// Whether the library has a way of its own to do this work.
    fn offers(&self, _work: Work) -> bool {
        true
    }

    /// Whether each call has a commit of its own.
    fn commits_each(&self) -> bool {
        true
    }

    /// Waits until the pool has taken back all connections.
    async fn settled(&self);
}

/// The balance of an account after giving one away; `rows` are the ids and balances that were locked.
fn check_funds(rows: &[(i64, i64)], from: i64) -> Result<()> {
    match rows.iter().find(|(id, _)| *id == from) {
        Some((_, balance)) if *balance >= 1 && rows.len() == 2 => Ok(()),
        _ => bail!("no transfer from {from} between {rows:?}"),
    }
}

/// The statements as written by hand. The ORMs generate theirs.
mod statements {
    pub(super) const TAKE: &str = "UPDATE account SET balance = balance - 1 WHERE id = $1";
    pub(super) const GIVE: &str = "UPDATE account SET balance = balance + 1 WHERE id = $1";
    pub(super) const WRITE: &str = "UPDATE account SET balance = $1 WHERE id = $2";
    pub(super) const READ: &str = "SELECT balance FROM account WHERE id = $1";
    pub(super) const READ_BOTH: &str = "SELECT id, balance FROM account WHERE id IN ($1, $2) ORDER BY id";
}
