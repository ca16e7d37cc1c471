//! What the attempts at a unit have returned.

use super::{Decision, Ended};
use crate::error::Error;
use crate::tx::UnitError;

/// A value of each attempt that may be stored: of the last one, and of those whose commit is unknown.
#[derive(Debug)]
struct AttemptValues<T> {
    last: Option<T>,
    /// With the numbers of the attempts.
    unknown: Vec<(u32, T)>,
}

impl<T> AttemptValues<T> {
    const fn new() -> Self {
        Self { last: None, unknown: Vec::new() }
    }

    /// Stores the value of an attempt that is to be committed.
    fn store(&mut self, value: T) {
        self.last = Some(value);
    }

    /// See [`Unit::commit_is_unknown`](super::Unit::commit_is_unknown).
    fn commit_is_unknown(&mut self, attempt: u32) {
        if let Some(value) = self.last.take() {
            self.unknown.push((attempt, value));
        }
    }

    /// See [`Unit::commit_was_found`](super::Unit::commit_was_found).
    fn commit_was_found(&mut self, attempt: u32) {
        if let Some(position) = self.unknown.iter().position(|(number, _)| *number == attempt) {
            self.last = Some(self.unknown.swap_remove(position).1);
        }
    }

    /// Returns the value of the attempt that is stored, after the run has ended as committed.
    fn into_stored(self) -> Option<T> {
        self.last
    }
}

/// The values and the last error of a closure, or of another unit of work.
///
/// # Why both?
///
/// An attempt whose commit was not acknowledged may turn out to be stored after a later attempt has failed:
/// nodes of a cluster do not wait for each other's locks. The value is then that of the earlier attempt.
pub(crate) struct UnitOutput<T, E> {
    values: AttemptValues<T>,
    error: Option<E>,
}

impl<T, E> UnitOutput<T, E> {
    pub(crate) const fn new() -> Self {
        Self { values: AttemptValues::new(), error: None }
    }

    /// Stores what an attempt has returned, and returns the decision about its transaction.
    pub(crate) fn store(&mut self, output: Result<T, E>) -> Decision {
        match output {
            Ok(value) => {
                self.values.store(value);
                Decision::Commit
            }
            Err(error) => {
                self.error = Some(error);
                Decision::RollBack
            }
        }
    }

    pub(crate) fn commit_is_unknown(&mut self, attempt: u32) {
        self.values.commit_is_unknown(attempt);
    }

    pub(crate) fn commit_was_found(&mut self, attempt: u32) {
        self.values.commit_was_found(attempt);
    }

    /// Returns the output of a run that has ended like this.
    pub(crate) fn end(self, ended: Result<Ended, Error>) -> Result<T, E>
    where
        E: UnitError,
    {
        match (ended, self.values.into_stored(), self.error) {
            (Ok(Ended::Committed), Some(value), _) => Ok(value),
            (Ok(Ended::RolledBack), _, Some(error)) => Err(error),
            (Err(error), ..) => Err(error.into()),
            (Ok(_), ..) => Err(Error::transactor_broke_its_contract().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Result<i32, Error> {
        Err(sqlx::Error::RowNotFound.into())
    }

    /// Returns the output of attempts whose commits are unknown where the second item is `true`, of which
    /// `found` is stored.
    fn output_of(attempts: Vec<(Result<i32, Error>, bool)>, found: Option<u32>) -> Option<i32> {
        let mut output = UnitOutput::<i32, Error>::new();
        for (number, (returned, is_unknown)) in (1..).zip(attempts) {
            let expected = if returned.is_ok() { Decision::Commit } else { Decision::RollBack };
            assert_eq!(output.store(returned), expected);
            if is_unknown {
                output.commit_is_unknown(number);
            }
        }
        if let Some(attempt) = found {
            output.commit_was_found(attempt);
        }
        output.end(Ok(Ended::Committed)).ok()
    }

    #[test]
    fn a_commit_that_is_found_after_a_failed_attempt_has_the_value_of_the_earlier_one() {
        assert_eq!(output_of(vec![(Ok(7), true), (failed(), false)], Some(1)), Some(7));
    }

    #[test]
    fn a_commit_that_is_found_after_a_refused_one_has_the_value_of_the_earlier_one() {
        assert_eq!(output_of(vec![(Ok(7), true), (Ok(8), false)], Some(1)), Some(7));
    }

    #[test]
    fn of_several_unknown_commits_the_one_that_is_found_has_its_own_value() {
        for found in 1..=2 {
            let attempts = vec![(Ok(1), true), (Ok(2), true), (failed(), false), (Ok(4), false)];
            assert_eq!(output_of(attempts, Some(found)), Some(found.cast_signed()));
        }
    }

    #[test]
    fn a_commit_that_is_acknowledged_after_an_unknown_one_has_its_own_value() {
        assert_eq!(output_of(vec![(Ok(7), true), (failed(), false), (Ok(8), false)], None), Some(8));
    }
}
