//! The workloads: the transactions, and how many callers run them.

use clap::ValueEnum;
use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

use crate::contender::Work;
use crate::database::ACCOUNTS;

/// The account that all callers contend for.
const HOT: i64 = 1;
const COLD_PERCENT: u32 = 90;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Workload {
    /// Transfers between two of 1000 accounts
    Transfer,
    /// Transfers between the same two accounts, in both directions
    HotTransfer,
    /// One account, read and locked, then written
    HotRow,
    /// One account, changed in one statement
    HotStatement,
    /// As hot-row, nine times out of ten on another account
    Mixed,
}

impl Workload {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Transfer => "transfer between two of 1000 rows",
            Self::HotTransfer => "transfer between two hot rows",
            Self::HotRow => "one hot row: lock, then write",
            Self::HotStatement => "one hot row: single UPDATE",
            Self::Mixed => "90 % cold rows, 10 % hot: lock, then write",
        }
    }

    /// The number of concurrent callers.
    pub(crate) const fn callers(self) -> usize {
        match self {
            Self::Transfer => 16,
            Self::HotTransfer | Self::HotRow | Self::HotStatement | Self::Mixed => 64,
        }
    }

    /// By how much a transaction reduces the sum of all balances.
    pub(crate) const fn takes(self) -> i64 {
        match self {
            Self::Transfer | Self::HotTransfer => 0,
            Self::HotRow | Self::HotStatement | Self::Mixed => 1,
        }
    }

    /// Whether every transaction needs the lock on the same row.
    pub(crate) const fn is_serial(self) -> bool {
        matches!(self, Self::HotTransfer | Self::HotRow | Self::HotStatement)
    }

    /// Draws the next transaction of a caller.
    pub(crate) fn next(self, random: &mut impl Rng) -> Work {
        match self {
            Self::Transfer => {
                let from = random.random_range(1..=ACCOUNTS);
                let to = (from + random.random_range(0..ACCOUNTS - 1)) % ACCOUNTS + 1;
                Work::Transfer { from, to }
            }
            Self::HotTransfer if random.random_range(0..2) == 0 => Work::Transfer { from: HOT, to: HOT + 1 },
            Self::HotTransfer => Work::Transfer { from: HOT + 1, to: HOT },
            Self::HotRow => Work::ReadThenWrite { id: HOT },
            Self::HotStatement => Work::Statement { id: HOT },
            Self::Mixed if random.random_range(0..100) < COLD_PERCENT => {
                Work::ReadThenWrite { id: random.random_range(HOT + 1..=ACCOUNTS) }
            }
            Self::Mixed => Work::ReadThenWrite { id: HOT },
        }
    }

    /// The same workload as scripts for pgbench, with their weights.
    pub(crate) fn scripts(self) -> Vec<(u32, String)> {
        let read_then_write = |id: &str| {
            format!(
                "{id}\n\
                 BEGIN;\n\
                 SELECT balance FROM account WHERE id = :id FOR NO KEY UPDATE \\gset\n\
                 \\set rest :balance - 1\n\
                 UPDATE account SET balance = :rest WHERE id = :id;\n\
                 COMMIT;\n"
            )
        };
        let transfer = |accounts: &str| {
            format!(
                "{accounts}\n\
                 BEGIN;\n\
                 SELECT id, balance FROM account WHERE id IN (:from, :to) ORDER BY id FOR NO KEY UPDATE;\n\
                 UPDATE account SET balance = balance - 1 WHERE id = :from;\n\
                 UPDATE account SET balance = balance + 1 WHERE id = :to;\n\
                 COMMIT;\n"
            )
        };
        let hot = format!("\\set id {HOT}");
        match self {
            Self::Transfer => vec![(
                1,
                transfer(&format!(
                    "\\set from random(1, {ACCOUNTS})\n\
                     \\set to (:from + random(0, {ACCOUNTS} - 2)) % {ACCOUNTS} + 1"
                )),
            )],
            Self::HotTransfer => {
                vec![(
                    1,
                    transfer(&format!("\\set from random({HOT}, {HOT} + 1)\n\\set to 2 * {HOT} + 1 - :from")),
                )]
            }
            Self::HotRow => vec![(1, read_then_write(&hot))],
            Self::HotStatement => {
                vec![(1, format!("{hot}\nUPDATE account SET balance = balance - 1 WHERE id = :id;\n"))]
            }
            Self::Mixed => {
                let cold = format!("\\set id random({}, {ACCOUNTS})", HOT + 1);
                vec![(COLD_PERCENT, read_then_write(&cold)), (100 - COLD_PERCENT, read_then_write(&hot))]
            }
        }
    }
}
