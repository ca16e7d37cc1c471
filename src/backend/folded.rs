//! Statements with bound values that share a text, and so a round trip, with BEGIN or COMMIT.

use std::collections::HashSet;

use super::codec::Codec;
use super::engine::Engine;
use super::statements::StatementRules;

/// The maximum number of statements that a session keeps prepared under names of this crate.
const MAX_PREPARED: usize = 100;

/// The SQL of statements that are sent as text, together with BEGIN or COMMIT.
#[doc(hidden)]
pub trait FoldedSql: Codec + StatementRules {
    /// Returns whether the engine can be sent statements of the unit in one text with BEGIN or COMMIT.
    fn folds(_engine: Engine) -> bool {
        false
    }

    /// Writes bound values as SQL, each with its type. A database that does not [fold](Self::folds) writes
    /// none.
    fn literals(_arguments: &Self::Arguments) -> Result<Vec<Literal>, Unwritable> {
        Ok(Vec::new())
    }

    /// Returns the text that runs a statement; `None` if the statement has to be sent on its own.
    fn fold(_statement: &Folding<'_>) -> Option<FoldedText> {
        None
    }

    /// Reads from the error of a check how many rows the statement changed. `integers` are those of the
    /// reply; `None` if the error is not about the number.
    fn unexpected_rows(_error: &sqlx::Error, _integers: &[i64]) -> Option<u64> {
        None
    }

    /// Returns whether an error is the one with which a statement of this crate fails if it finds that the
    /// transaction must not be committed.
    fn is_failed_check(_error: &sqlx::Error) -> bool {
        false
    }

    /// The query for the names of the statements that this crate has prepared in a session; `None` if
    /// statements are not kept.
    const PREPARED_NAMES_QUERY: Option<&'static str> = None;

    /// Returns whether a name that the query returns is one of this crate.
    fn is_prepared_name(_name: &str) -> bool {
        false
    }

    /// Returns whether an error shows that a session's prepared statements are not those that were expected,
    /// as behind a pooler that changes sessions between transactions.
    fn has_other_names(_error: &sqlx::Error) -> bool {
        false
    }
}

/// A bound value, written as SQL.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    /// The expression. It consists of ASCII characters only.
    pub sql: String,
    /// The SQL name of its type.
    pub type_name: &'static str,
}

/// Why a bound value cannot be written as SQL.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwritable {
    /// Values of this type are not supported.
    Type(String),
    /// The value has no literal: the reason.
    Value(&'static str),
    /// The driver shows its arguments in an unknown form.
    Driver,
}

/// A statement to be folded into another text.
#[doc(hidden)]
#[derive(Debug)]
pub struct Folding<'s> {
    /// The text of the statement, without a semicolon or a comment at its end.
    pub sql: &'s str,
    pub literals: &'s [Literal],
    /// Whether the text is to fail unless the statement changes exactly one row.
    pub expects_one: bool,
    /// Whether the session may keep the statement prepared.
    pub may_keep: bool,
    /// What the session has prepared.
    pub prepared: &'s PreparedNames,
}

/// The text that runs one statement.
#[doc(hidden)]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FoldedText {
    pub sql: String,
    /// How many results the text has.
    pub results: usize,
    /// How many of them precede the statement's own.
    pub before: usize,
    /// The index of the result that fails unless one row was changed.
    pub check: Option<usize>,
    /// The name under which the first part of the text prepares the statement, and whether it is kept.
    pub prepares: Option<(String, bool)>,
}

/// The statements that a session has prepared under names of this crate.
#[doc(hidden)]
#[derive(Debug, Default, Clone)]
pub struct PreparedNames(Option<HashSet<String>>);

impl PreparedNames {
    /// Returns whether the session has reported its statements.
    pub(crate) const fn are_known(&self) -> bool {
        self.0.is_some()
    }

    /// Records the statements that the session has reported.
    pub(crate) fn set(&mut self, names: impl IntoIterator<Item = String>) {
        self.0 = Some(names.into_iter().collect());
    }

    /// Records a statement that the session has prepared.
    pub(crate) fn insert(&mut self, name: String) {
        if let Some(names) = &mut self.0 {
            names.insert(name);
        }
    }

    /// Returns whether the session has the statement; `None` if it must not be kept there.
    pub(crate) fn has(&self, name: &str) -> Option<bool> {
        let names = self.0.as_ref()?;
        let has = names.contains(name);
        (has || names.len() < MAX_PREPARED).then_some(has)
    }
}
