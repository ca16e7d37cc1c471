//! The priorities of jobs.

/// The priority of a job among the due jobs of its queue.
///
/// # Why only three?
///
/// Each priority is one range of the index, read in the order of the due times and no further than to the
/// current time. With any number of priorities, a claim would read every job of a higher priority that is not
/// due yet, and on MySQL and MariaDB also lock it. For more classes than three, use several queues, each with
/// its own workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Priority {
    /// Runs before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// Runs when no other job is due. While that is never the case, it does not run.
    Low,
}

impl Priority {
    pub(super) const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    pub(super) const fn number(self) -> i16 {
        self as i16
    }
}
