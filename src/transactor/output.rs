//! What the attempts at a unit have returned.

use super::{Decision, Ended};
use crate::error::Error;
use crate::tx::UnitError;

/// The last value and the last error of a closure.
///
/// # Why both?
///
/// An attempt whose commit was not acknowledged may turn out to be stored after a later attempt has failed:
/// nodes of a cluster do not wait for each other's locks. The value is then that of the earlier attempt.
pub(super) struct UnitOutput<T, E> {
    value: Option<T>,
    error: Option<E>,
}

impl<T, E> UnitOutput<T, E> {
    pub(super) const fn new() -> Self {
        Self { value: None, error: None }
    }

    /// Stores what an attempt has returned, and returns the decision about its transaction.
    pub(super) fn store(&mut self, output: Result<T, E>) -> Decision {
        match output {
            Ok(value) => {
                self.value = Some(value);
                Decision::Commit
            }
            Err(error) => {
                self.error = Some(error);
                Decision::RollBack
            }
        }
    }

    /// Returns the output of a run that has ended like this.
    pub(super) fn end(self, ended: Result<Ended, Error>) -> Result<T, E>
    where
        E: UnitError,
    {
        match (ended, self.value, self.error) {
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

    #[test]
    fn a_commit_that_is_found_after_a_failed_attempt_has_the_value_of_the_earlier_one() {
        let mut output = UnitOutput::<i32, Error>::new();
        assert!(matches!(output.store(Ok(7)), Decision::Commit));
        assert!(matches!(output.store(Err(sqlx::Error::RowNotFound.into())), Decision::RollBack));
        assert_eq!(output.end(Ok(Ended::Committed)).expect("it is stored"), 7);
    }
}
