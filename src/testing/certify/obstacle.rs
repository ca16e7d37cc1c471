//! Why a check could not be completed.

use crate::failure::Failure;

/// Why a check has no result of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CheckObstacle {
    /// The server does not know a statement or a setting.
    Unknown(String),
    /// Something else went wrong.
    Failed(String),
}

impl CheckObstacle {
    /// A statement failed that the check needs.
    pub(super) fn of_failure(statement: &str, failure: &Failure, is_unknown: bool) -> Self {
        let text = format!("{}: {failure}", shown(statement));
        if is_unknown { Self::Unknown(text) } else { Self::Failed(text) }
    }

    pub(super) fn no_answer(statement: &str, limit: std::time::Duration) -> Self {
        Self::Failed(format!("{}: no answer within {limit:?}", shown(statement)))
    }
}

/// A statement without the comment that names its check.
pub(super) fn shown(statement: &str) -> &str {
    statement.split(" /* certify").next().unwrap_or(statement)
}
