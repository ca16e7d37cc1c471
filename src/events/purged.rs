//! The tables from which rows are purged.

/// A table from which a [`Purge`](crate::Purge) deletes what has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PurgedTable {
    /// The idempotency keys.
    Keys,
    /// The operations, by which commits are looked up.
    Operations,
    /// The jobs of a queue.
    Jobs,
    /// The extended leases of jobs.
    JobLeases,
    /// The records of confirmed holds.
    Holds,
}

impl PurgedTable {
    /// All tables, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Keys, Self::Operations, Self::Jobs, Self::JobLeases, Self::Holds];

    /// Returns the table as a label: `keys`, `operations`, `jobs`, `job_leases` or
    /// `holds`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Operations => "operations",
            Self::Jobs => "jobs",
            Self::JobLeases => "job_leases",
            Self::Holds => "holds",
        }
    }
}
