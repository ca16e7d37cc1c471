//! The keys of ordered and limited jobs.

use crate::digest::digest;

/// The key of an ordered or limited job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JobKey {
    /// A hash of the queue's name and the key. Two keys with the same hash share their slots, which delays
    /// their jobs and breaks no promise.
    pub(super) id: i64,
    /// The maximum number of jobs that run at the same time; `None` if the jobs are ordered.
    pub(super) limit: Option<u32>,
}

impl JobKey {
    /// The number that stands for ordered jobs in the column `key_limit`.
    const ORDERED: u32 = 0;

    /// Reads the columns `key_id` and `key_limit`.
    pub(super) fn stored(id: i64, limit: u32) -> Self {
        Self { id, limit: Some(limit).filter(|limit| *limit != Self::ORDERED) }
    }

    /// Returns the value of the column `key_limit`.
    pub(super) fn stored_limit(self) -> u32 {
        self.limit.unwrap_or(Self::ORDERED)
    }

    /// Returns the number of jobs that may be due or claimed at the same time.
    pub(super) fn slots(self) -> u32 {
        self.limit.unwrap_or(1)
    }

    /// Whether a job keeps its slot until it is complete, also while it waits for another attempt.
    pub(super) fn is_ordered(self) -> bool {
        self.limit.is_none()
    }
}

/// The key of a job that is about to be enqueued.
#[derive(Clone)]
pub(super) struct NewJobKey {
    pub(super) name: String,
    /// The maximum number of jobs that run at the same time; `None` if the jobs are ordered.
    pub(super) limit: Option<u32>,
}

impl NewJobKey {
    pub(super) fn in_queue(&self, queue: &str) -> JobKey {
        let id = digest(&(queue, self.limit.is_none(), &self.name)).cast_signed();
        JobKey { id, limit: self.limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are stored, and compared with those of other processes.
    #[test]
    fn the_ids_of_keys_are_stable_and_differ_by_queue_and_kind() {
        let ordered = NewJobKey { name: "a".to_owned(), limit: None };
        let limited = NewJobKey { name: "a".to_owned(), limit: Some(2) };
        let id = ordered.in_queue("jobs").id;
        assert_eq!(id, STABLE);
        assert_ne!(id, ordered.in_queue("mail").id);
        assert_ne!(id, limited.in_queue("jobs").id);
    }

    const STABLE: i64 = 1_719_601_470_634_364_565;
}
