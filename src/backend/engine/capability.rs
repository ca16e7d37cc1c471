//! What engines differ in.

/// Something that not every [`Engine`](crate::Engine) supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Row locks: if one transaction locks a row by `SELECT … FOR UPDATE` and another locks or changes it,
    /// the second one waits, or one of them fails.
    RowLocks,
    /// `FOR NO KEY UPDATE` as a lock of its own, which does not block foreign key checks. Where it is
    /// missing, [`RowLock::NO_KEY_UPDATE`](crate::RowLock::NO_KEY_UPDATE) is `FOR UPDATE`.
    NoKeyUpdateLocks,
    /// Shared row locks: `FOR SHARE`, or `LOCK IN SHARE MODE`.
    ShareLocks,
    /// `FOR KEY SHARE` as a lock of its own. Where only this is missing,
    /// [`RowLock::KEY_SHARE`](crate::RowLock::KEY_SHARE) is the shared lock.
    KeyShareLocks,
    /// Locks on the rows of one table of several: `FOR UPDATE OF event`.
    LocksOfOneTable,
    /// One `SELECT … FOR UPDATE` that locks any number of rows, wherever they are stored.
    LocksOfManyRows,
    /// `SKIP LOCKED`.
    SkipLocked,
    /// `NOWAIT`.
    NoWait,
    /// Advisory locks that last until the transaction ends.
    AdvisoryLocks,
    /// Row locks and advisory locks that block transactions on all nodes of a cluster. A single server
    /// supports this.
    LocksCrossNodes,
    /// Whether a transaction that has written a unique key can rely on no other transaction committing the
    /// same key. Where it is missing, that is certain only once its COMMIT has succeeded.
    UniqueKeysFence,
    /// Savepoints.
    Savepoints,
    /// READ COMMITTED: each statement reads what is committed when it begins.
    ReadCommitted,
    /// REPEATABLE READ: all statements read from one snapshot.
    SnapshotReads,
    /// SERIALIZABLE.
    Serializable,
    /// Read-only transactions, in which the server refuses writes.
    ReadOnlyTransactions,
    /// `DEFERRABLE` transactions, which wait for a snapshot that needs no checks.
    DeferrableTransactions,
    /// Data definition that is part of the transaction: it is rolled back with the rest, and does not commit
    /// what preceded it.
    TransactionalDdl,
    /// Limits on waits for locks, and on statements, that the server enforces. Where they are missing, a
    /// statement that runs into the deadline goes on until its session notices that its client is gone.
    ServerLimits,
    /// Settings and roles for single transactions ([`Options::setting`](crate::Options::setting)).
    LocalSettings,
    /// The status of a transaction that has ended, by its id
    /// ([`Resolve::TransactionStatus`](crate::Resolve::TransactionStatus)).
    TransactionStatus,
    /// `LISTEN` and `NOTIFY`.
    ListenNotify,
    /// The address of a row version as a column, `ctid`.
    Ctid,
    /// Storage parameters of tables, such as `autovacuum_vacuum_scale_factor`.
    StorageParameters,
    /// Settings of the query planner, such as `enable_sort`.
    PlannerSettings,
    /// Several statements in one packet of a transaction, without a statement being run after one that
    /// failed.
    SeveralStatementsInOnePacket,
}

impl Capability {
    /// All capabilities, in the order of their declaration.
    pub const ALL: [Self; 26] = [
        Self::RowLocks,
        Self::NoKeyUpdateLocks,
        Self::ShareLocks,
        Self::KeyShareLocks,
        Self::LocksOfOneTable,
        Self::LocksOfManyRows,
        Self::SkipLocked,
        Self::NoWait,
        Self::AdvisoryLocks,
        Self::LocksCrossNodes,
        Self::UniqueKeysFence,
        Self::Savepoints,
        Self::ReadCommitted,
        Self::SnapshotReads,
        Self::Serializable,
        Self::ReadOnlyTransactions,
        Self::DeferrableTransactions,
        Self::TransactionalDdl,
        Self::ServerLimits,
        Self::LocalSettings,
        Self::TransactionStatus,
        Self::ListenNotify,
        Self::Ctid,
        Self::StorageParameters,
        Self::PlannerSettings,
        Self::SeveralStatementsInOnePacket,
    ];

    /// Completes the sentence "the engine has no …".
    pub(super) const fn described(self) -> &'static str {
        match self {
            Self::RowLocks => "row locks",
            Self::NoKeyUpdateLocks => "FOR NO KEY UPDATE",
            Self::ShareLocks => "shared row locks",
            Self::KeyShareLocks => "FOR KEY SHARE",
            Self::LocksOfOneTable => "row locks on one table of several (FOR UPDATE OF)",
            Self::LocksOfManyRows => "row locks on any number of rows in one statement",
            Self::SkipLocked => "SKIP LOCKED",
            Self::NoWait => "NOWAIT",
            Self::AdvisoryLocks => "advisory locks",
            Self::LocksCrossNodes => "locks that block transactions on other nodes",
            Self::UniqueKeysFence => "unique keys that are certain before COMMIT",
            Self::Savepoints => "savepoints",
            Self::ReadCommitted => "READ COMMITTED",
            Self::SnapshotReads => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
            Self::ReadOnlyTransactions => "read-only transactions",
            Self::DeferrableTransactions => "deferrable transactions",
            Self::TransactionalDdl => "data definition that is part of a transaction",
            Self::ServerLimits => {
                "lock timeouts, statement timeouts and idle timeouts that the server enforces"
            }
            Self::LocalSettings => "settings or roles for single transactions",
            Self::TransactionStatus => "record of the status of ended transactions",
            Self::ListenNotify => "LISTEN and NOTIFY",
            Self::Ctid => "ctid",
            Self::StorageParameters => "storage parameters",
            Self::PlannerSettings => "settings of the query planner",
            Self::SeveralStatementsInOnePacket => "several statements in one packet of a transaction",
        }
    }
}

/// Whether an [`Engine`](crate::Engine) supports a [`Capability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Support {
    /// The engine supports it.
    Yes,
    /// The engine lacks it, or appears to have it and does not keep what it promises.
    No,
    /// It is not known. The crate does not rely on it; if the caller requests it, it is sent.
    Unknown,
}

impl Support {
    /// Returns whether this is [`Yes`](Self::Yes).
    #[must_use]
    pub const fn is_yes(self) -> bool {
        matches!(self, Self::Yes)
    }

    /// Returns whether this is [`No`](Self::No).
    #[must_use]
    pub const fn is_no(self) -> bool {
        matches!(self, Self::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_capabilities_are_listed_in_their_order() {
        assert!(
            Capability::ALL.into_iter().map(|capability| capability as usize).eq(0..Capability::ALL.len())
        );
        assert_eq!(Capability::ALL.last(), Some(&Capability::SeveralStatementsInOnePacket));
    }
}
