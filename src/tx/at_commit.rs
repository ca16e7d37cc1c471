//! Statements that are kept until the commit.

use std::fmt;

use crate::backend::{Backend, Literal, Unwritable, WatchedQuery};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::isolation::Access;
use crate::sql_text::is_data_statement;

use super::Tx;
use super::admission::{Admission, admission};

/// A statement that is kept until the commit.
pub(super) struct KeptStatement<DB: Backend> {
    pub(super) query: WatchedQuery<DB>,
    pub(super) literals: Vec<Literal>,
    pub(super) expects: Expectation,
}

/// What is expected of a kept statement.
#[derive(Debug)]
pub(crate) enum Expectation {
    /// That it succeeds.
    Success,
    /// That it changes one row.
    OneRow,
    /// That it does not find a reason not to commit: this failure.
    Check(Failure),
}

impl Expectation {
    pub(super) const fn is_one_row(&self) -> bool {
        matches!(self, Self::OneRow)
    }
}

/// # Writes that are sent with COMMIT
impl<DB: Backend> Tx<DB> {
    /// Keeps a statement until the commit, and sends it in the same round trip as COMMIT.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool, id: i64, stock: i64, version: i64) -> Result<(), Error> {
    /// # Pessimistic::default().on(&pool).run(async |tx| -> Result<_, Error> {
    /// let update = "UPDATE product SET stock = $1, version = version + 1 WHERE id = $2 AND version = $3";
    /// tx.at_commit(sqlx::query(update).bind(stock).bind(id).bind(version))?.expect_one();
    /// # Ok(()) }).await }
    /// ```
    ///
    /// Use it for writes whose result the unit does not need. Each saves a round trip, and none of the locks
    /// that it acquires is held for longer than the commit takes. Together with
    /// [`on_rows`](crate::TransactorExt::on_rows), a transfer takes two round trips:
    /// [`guide::distance`](crate::guide::distance).
    ///
    /// # Order
    ///
    /// Kept statements run in the order of their calls, after everything else that the unit does: a
    /// statement that the unit sends later runs *before* them, and no query of the unit sees their changes.
    /// Those that were kept inside of a [savepoint](Self::savepoint) are dropped if it is rolled back. If the
    /// unit returns `Err`, none is sent.
    ///
    /// # Failures
    ///
    /// The transaction commits only if every kept statement succeeds and changes as many rows as expected.
    /// Otherwise nothing is stored, and the failure is handled as if the unit had returned it: a conflict or
    /// a stale version makes the whole unit run again; a constraint violation ends the run, and its error
    /// names the statement. The unit itself cannot handle these failures, because it has ended.
    ///
    /// # Values
    ///
    /// Bound values are sent as literals with the type that they were bound with, and cannot change the
    /// statement. These types are supported, each also as `Option`:
    ///
    /// | | PostgreSQL | MySQL, MariaDB | SQLite |
    /// |---|---|---|---|
    /// | `bool`, integers | `i16`, `i32`, `i64` | all | all |
    /// | `f32`, `f64` | all values | finite values (−0 becomes 0) | all values |
    /// | text | without NUL | yes | yes |
    /// | bytes | yes | yes | yes |
    /// | arrays of these | one dimension | | |
    /// | UUIDs, dates, times, decimals, JSON | yes | yes | yes |
    ///
    /// On MySQL and MariaDB, text is sent as `utf8mb4`, whatever the connection's character set is.
    ///
    /// On SQLite, on a Galera cluster and under the test kit, and if a statement cannot be part of a longer
    /// text (`WITH … UPDATE` or RETURNING with `expect_one`; a backslash in the text of the statement), the
    /// kept statements are sent one by one before COMMIT. The outcome is the same.
    ///
    /// # Behind a pooler
    ///
    /// On PostgreSQL a session keeps up to 100 of these statements prepared, unless the query is not
    /// [persistent](sqlx::query::Query::persistent). If a pooler moves the transactor between sessions, the
    /// first transaction that notices is run again, and statements are not kept from then on.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a value of another type, in a read-only
    /// transaction, and for anything but a single INSERT, UPDATE, DELETE, REPLACE, MERGE or SELECT;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a value that has no literal. Nothing was sent
    /// then, and the transaction has ended, even if the unit ignores the error.
    pub fn at_commit<'q>(&mut self, query: impl sqlx::Execute<'q, DB>) -> Result<AtCommit<'_, DB>, Error> {
        let query = WatchedQuery::new(query)?;
        match self.keep(query) {
            Ok(index) => Ok(AtCommit { statement: &mut self.kept[index] }),
            Err(failure) => {
                self.state.end(failure.clone());
                Err(Error::failed(failure, None))
            }
        }
    }

    fn keep(&mut self, query: WatchedQuery<DB>) -> Result<usize, Failure> {
        if let Some(failure) = self.state.over() {
            return Err(failure.clone());
        }
        if self.closing.plan.access == Access::ReadOnly {
            return Err(unsupported("it was called in a read-only transaction"));
        }
        match admission(&query, self.state.ddl_escapes) {
            Admission::Refused(failure) => return Err(failure),
            _ if !is_data_statement(DB::SYNTAX, query.sql()) => {
                return Err(unsupported(
                    "it takes a single INSERT, UPDATE, DELETE, REPLACE, MERGE or SELECT",
                ));
            }
            Admission::MayChangeSettings => self.state.may_have_changed_settings = true,
            _ => {}
        }
        let literals = query.literals().map_err(|unwritable| unwritable_value::<DB>(&unwritable))?;
        self.kept.push(KeptStatement { query, literals, expects: Expectation::Success });
        Ok(self.kept.len() - 1)
    }

    /// Keeps statements of this crate, in their order. Returns whether it has: all or none, because a value
    /// may have no literal.
    pub(crate) fn keep_queries(&mut self, queries: Vec<(WatchedQuery<DB>, Expectation)>) -> bool {
        let kept = queries.into_iter().map(|(query, expects)| {
            let literals = query.literals().ok()?;
            Some(KeptStatement { query, literals, expects })
        });
        let Some(kept) = kept.collect::<Option<Vec<_>>>() else { return false };
        self.kept.extend(kept);
        true
    }
}

fn unsupported(reason: &str) -> Failure {
    let message = format!("`at_commit` kept no statement: {reason}; run the statement on `tx` instead");
    Failure::new(FailureKind::Unsupported, message)
}

fn unwritable_value<DB: Backend>(unwritable: &Unwritable) -> Failure {
    let databases = DB::SYNTAX.databases();
    match unwritable {
        Unwritable::Type(name) => {
            unsupported(&format!("on {databases} it does not support bound values of this type: {name}"))
        }
        Unwritable::Driver => {
            unsupported("this version of the driver shows its arguments in an unknown form")
        }
        Unwritable::Value(what) => {
            let message = format!("`at_commit` kept no statement: {databases} cannot be sent {what}");
            Failure::new(FailureKind::InvalidInput, message)
        }
    }
}

/// A statement that is kept until the commit, returned by [`Tx::at_commit`].
pub struct AtCommit<'t, DB: Backend> {
    statement: &'t mut KeptStatement<DB>,
}

impl<DB: Backend> AtCommit<'_, DB> {
    /// Commits only if the statement changes exactly one row, with the failures of [`Tx::expect_one`]: if it
    /// changes none, the row's version is stale, and the whole unit runs again; if it changes more, the run
    /// fails.
    ///
    /// The server checks the number before it commits, in the same round trip.
    pub fn expect_one(self) {
        self.statement.expects = Expectation::OneRow;
    }
}

impl<DB: Backend> fmt::Debug for AtCommit<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtCommit")
            .field("query", &self.statement.query)
            .field("expects_one", &self.statement.expects.is_one_row())
            .finish()
    }
}
