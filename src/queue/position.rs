//! Positions in the index from which jobs are claimed.

/// The position of a job in the index of its priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IndexPosition {
    /// In microseconds since 1970.
    pub(super) due_at: i64,
    pub(super) id: i64,
}

impl IndexPosition {
    /// Before all jobs.
    pub(super) const START: Self = Self { due_at: i64::MIN, id: i64::MIN };
}
