//! Row locks, and what a statement does when another transaction holds one.

/// A row lock: what `SELECT … FOR UPDATE` acquires on the rows it returns, held until the transaction ends.
///
/// ```
/// use atomically::RowLock;
///
/// let first_free = RowLock::UPDATE.skip_locked();
/// # let _ = first_free;
/// ```
///
/// # Why `NO_KEY_UPDATE` and not `UPDATE`?
///
/// A row that is about to be *changed* needs protection from other writers, not from rows that refer to it.
/// On PostgreSQL, `FOR UPDATE` also blocks every insert of a child row, because the foreign key check
/// acquires a key-share lock on the parent; `FOR NO KEY UPDATE` does not.
///
/// MySQL and MariaDB have only an exclusive and a shared lock. On them, `NO_KEY_UPDATE` acquires the
/// exclusive lock and `KEY_SHARE` the shared one. So it is on every [engine](crate::Engine) that lacks one of
/// these locks and has a stronger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowLock {
    pub(crate) strength: Strength,
    pub(crate) wait: WaitPolicy,
    pub(crate) table: Option<&'static str>,
}

/// How strong a row lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Strength {
    Update,
    NoKeyUpdate,
    Share,
    KeyShare,
}

/// What a statement does when another transaction has locked a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WaitPolicy {
    Block,
    Refuse,
    Skip,
}

impl RowLock {
    /// `FOR UPDATE`, for rows that will be deleted or whose key will change.
    pub const UPDATE: Self = Self::blocking(Strength::Update);
    /// `FOR NO KEY UPDATE`, for rows that will change, except for their key.
    pub const NO_KEY_UPDATE: Self = Self::blocking(Strength::NoKeyUpdate);
    /// `FOR SHARE`, for rows that must not change while this transaction relies on them. Other transactions
    /// can acquire the same lock.
    pub const SHARE: Self = Self::blocking(Strength::Share);
    /// `FOR KEY SHARE`, for rows that must not be deleted, and whose key must not change, while this
    /// transaction refers to them.
    pub const KEY_SHARE: Self = Self::blocking(Strength::KeyShare);

    const fn blocking(strength: Strength) -> Self {
        Self { strength, wait: WaitPolicy::Block, table: None }
    }

    /// Returns the same lock with `NOWAIT`: if another transaction has locked a row, the statement fails at
    /// once with [`LockNotAvailable`](crate::FailureKind::LockNotAvailable), which no strategy of this
    /// crate retries.
    #[must_use]
    pub const fn nowait(self) -> Self {
        Self { wait: WaitPolicy::Refuse, ..self }
    }

    /// Returns the same lock with `SKIP LOCKED`: rows that another transaction has locked are left out of
    /// the result. Suited to queues and little else, because the result is not a consistent view of the
    /// table.
    #[must_use]
    pub const fn skip_locked(self) -> Self {
        Self { wait: WaitPolicy::Skip, ..self }
    }

    /// Returns the same lock, limited to the rows of one table: `FOR UPDATE OF event`.
    ///
    /// The query may then also read what cannot be locked: a common table expression, a subquery, or the
    /// nullable side of an outer join. Name the table as the query does: by its alias if it has one, and
    /// quoted if the query quotes it.
    ///
    /// ```
    /// use atomically::RowLock;
    ///
    /// let event = RowLock::NO_KEY_UPDATE.of("event");
    /// # let _ = event;
    /// ```
    ///
    /// PostgreSQL and MySQL 8 support this. On MariaDB, which does not, the lock is
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    #[must_use]
    pub const fn of(self, table: &'static str) -> Self {
        Self { table: Some(table), ..self }
    }
}
