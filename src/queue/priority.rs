//! Whose turn it is first.

/// Whose turn it is first, among the jobs of a queue that are due.
///
/// # Why three, and not any number?
///
/// Each is a range of its own in the index, read in the order of the due times and no further than to now.
/// With any number of priorities a claim would walk past every job of a higher priority that is not due yet,
/// and on MySQL and MariaDB lock what it walks past. What needs more classes than three needs queues of their
/// own, with workers of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Before everything else.
    High,
    /// What there is no other reason for.
    #[default]
    Normal,
    /// When there is nothing else to do. Under a load that never ends, it is never done.
    Low,
}

impl Priority {
    pub(super) const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    pub(super) const fn number(self) -> i16 {
        self as i16
    }
}
