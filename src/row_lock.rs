//! Row locks.

/// A lock that a reading statement takes on the rows it returns, held until the transaction ends.
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
/// A row that is about to be *changed* needs protection from other writers, not from rows that refer to it. On
/// PostgreSQL `FOR UPDATE` also blocks every insert of a child row, whose foreign key check takes a key-share lock on
/// the parent; `FOR NO KEY UPDATE` does not.
///
/// Databases without one of the finer locks take the coarser one in its place: MySQL and MariaDB know two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowLock {
    pub(crate) strength: Strength,
    pub(crate) wait: Wait,
    pub(crate) table: Option<&'static str>,
}

/// What a row lock keeps others from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Strength {
    Update,
    NoKeyUpdate,
    Share,
    KeyShare,
}

/// What a statement does about rows that others have locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wait {
    Block,
    Refuse,
    Skip,
}

impl RowLock {
    /// For rows whose key is about to change, or which are about to be deleted.
    pub const UPDATE: Self = Self::blocking(Strength::Update);
    /// For rows of which anything but the key is about to change.
    pub const NO_KEY_UPDATE: Self = Self::blocking(Strength::NoKeyUpdate);
    /// For rows that must not change while this transaction relies on them. Others may take the same lock.
    pub const SHARE: Self = Self::blocking(Strength::Share);
    /// For rows that must not go away or change their key while this transaction refers to them.
    pub const KEY_SHARE: Self = Self::blocking(Strength::KeyShare);

    const fn blocking(strength: Strength) -> Self {
        Self { strength, wait: Wait::Block, table: None }
    }

    /// The same lock, refused at once where another transaction is in the way: the statement fails with
    /// [`LockNotAvailable`](crate::FailureKind::LockNotAvailable), which no shipped strategy runs again.
    #[must_use]
    pub const fn nowait(self) -> Self {
        Self { wait: Wait::Refuse, ..self }
    }

    /// The same lock, on those of the rows that nobody has locked: the others are left out of the answer. For queues,
    /// and hardly anything else: what is seen is not consistent.
    #[must_use]
    pub const fn skip_locked(self) -> Self {
        Self { wait: Wait::Skip, ..self }
    }

    /// The same lock, on the rows of one table of several: `FOR UPDATE OF event`.
    ///
    /// With it, a query may also read what cannot be locked: a common table expression, a subquery, or the side of an
    /// outer join whose rows may be missing. Name the table as the query calls it, by its alias where it has one, and
    /// quoted where the query quotes it.
    ///
    /// ```
    /// use atomically::RowLock;
    ///
    /// let event = RowLock::NO_KEY_UPDATE.of("event");
    /// # let _ = event;
    /// ```
    ///
    /// PostgreSQL and MySQL 8 have such locks. MariaDB does not, and refuses the statement.
    #[must_use]
    pub const fn of(self, table: &'static str) -> Self {
        Self { table: Some(table), ..self }
    }
}
