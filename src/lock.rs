//! Row locks.

/// A lock that a reading statement takes on the rows it returns, held until the transaction ends.
///
/// # Why `NoKeyUpdate` and not `Update`?
///
/// A row that is about to be *changed* needs protection from other writers, not from rows that refer to it. On
/// PostgreSQL `FOR UPDATE` also blocks every insert of a child row, whose foreign key check takes a key-share lock on
/// the parent; `FOR NO KEY UPDATE` does not. Databases without the finer lock take the coarser one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RowLock {
    /// For rows whose key is about to change, or which are about to be deleted.
    Update,
    /// For rows of which anything but the key is about to change.
    NoKeyUpdate,
}
