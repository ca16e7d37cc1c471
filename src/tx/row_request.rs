//! Rows that are locked and read in the round trip that opens the transaction.

use std::time::Duration;

use crate::backend::{Backend, Engine, FoldedText, Folding, Reply, WatchedQuery, failure_of};
use crate::failure::Failure;
use crate::isolation::Isolation;
use crate::sql_text::{SqlStatements, only_statement};
use crate::strategy::Plan;

use super::Tx;
use super::executor::{rows, watch};

/// The rows that a unit names before it runs.
#[doc(hidden)]
pub trait RowRequest<DB: Backend>: Send + Sync {
    /// Returns the query for the rows under this plan, which locks them if the plan does; `None` if the plan
    /// needs none.
    fn query(&self, engine: &Engine, plan: &Plan) -> Option<Result<WatchedQuery<DB>, sqlx::Error>>;

    /// Adds to the failure of the query which rows it was about.
    fn explain(&self, failure: Failure) -> Failure;
}

/// A query that is part of the opening.
pub(super) struct OpeningQuery<DB: Backend> {
    query: WatchedQuery<DB>,
    folded: FoldedText,
    /// The text before the query.
    prefix: String,
}

impl<DB: Backend> OpeningQuery<DB> {
    /// Returns how many results follow that of the query.
    pub(super) fn results_after(&self) -> usize {
        self.folded.results - self.folded.before - 1
    }
}

impl<DB: Backend> Tx<DB> {
    /// Returns the rows of the request: those that the opening has read, or else those of a statement of its
    /// own. `None` if the plan needs none.
    pub(crate) async fn requested_rows(
        &mut self,
        request: &dyn RowRequest<DB>,
    ) -> Result<Option<Vec<DB::Row>>, sqlx::Error> {
        if let Some(rows) = self.rows_of_opening() {
            return Ok(Some(rows));
        }
        let Some(query) = request.query(&self.closing.engine, &self.closing.plan) else { return Ok(None) };
        watch(self.parts(), query, rows::<DB>(), DB::send_for_rows).await.map(Some)
    }

    /// Returns the requested rows if the opening has read them, once.
    pub(crate) fn rows_of_opening(&mut self) -> Option<Vec<DB::Row>> {
        self.opened_with.take()
    }

    /// Returns whether the transaction can send statements in one text with BEGIN or COMMIT.
    pub(crate) fn shares_texts(&self) -> bool {
        self.interception.is_none() && DB::folds(self.closing.engine)
    }

    /// Appends the query for the statements that the session has prepared, if it is needed. Returns whether
    /// it is.
    pub(super) fn ask_for_prepared(&mut self, reads_rows: bool, text: &mut String) -> bool {
        // A query takes the snapshot of a transaction at a higher level before its unit begins.
        let may_query = self.closing.plan.isolation == Isolation::ReadCommitted || reads_rows;
        let query = DB::PREPARED_NAMES_QUERY
            .filter(|_| may_query && self.interception.is_none() && self.session.asks_for_prepared());
        if let Some(query) = query {
            text.push_str("; ");
            text.push_str(query);
        }
        query.is_some()
    }

    /// Records the statements that the session has reported.
    pub(super) fn learn_prepared(&mut self, reply: &mut Reply) {
        let names = reply.texts.extract_if(.., |text| DB::is_prepared_name(text)).collect::<Vec<_>>();
        if reply.error.is_none() {
            self.session.prepared().set(names);
        }
    }

    /// Appends the query for the requested rows to the opening, if it can be part of it.
    pub(super) fn fold_rows(
        &mut self,
        request: Option<&dyn RowRequest<DB>>,
        text: &mut String,
    ) -> Option<Box<OpeningQuery<DB>>> {
        if !self.shares_texts() {
            return None;
        }
        let query = request?.query(&self.closing.engine, &self.closing.plan)?.ok()?;
        let literals = query.literals().ok()?;
        self.session.keep_prepared();
        let folding = Folding {
            sql: only_statement(DB::SYNTAX, query.sql())?,
            literals: &literals,
            expects_one: false,
            may_keep: query.is_persistent(),
            prepared: self.session.prepared(),
        };
        let folded = DB::fold(&folding)?;
        let max = self.closing.engine.max_packet;
        if max > 0 && text.len() + folded.sql.len() > max {
            return None;
        }
        let prefix = text.clone();
        text.push_str("; ");
        text.push_str(&folded.sql);
        // Boxed, because it would enlarge the future of every run.
        Some(Box::new(OpeningQuery { query, folded, prefix }))
    }

    /// Records the result of a query that was part of the opening. Returns the failure of the opening if it
    /// depends on the query.
    pub(super) fn end_rows(
        &mut self,
        opening: OpeningQuery<DB>,
        request: Option<&dyn RowRequest<DB>>,
        rows: Vec<DB::Row>,
        reply: &Reply,
        took: Duration,
    ) -> Option<Failure> {
        let OpeningQuery { query, folded, prefix } = opening;
        self.state.sent = true;
        let Some(error) = &reply.error else {
            if let Some((name, true)) = folded.prepares {
                self.session.prepared().insert(name);
            }
            self.opened_with = Some(rows);
            if let Some(run_clock) = self.state.run_clock() {
                run_clock.sends(&query.text());
                run_clock.sent_with(&query.text(), took, None);
            }
            return None;
        };
        if DB::has_other_names(error) {
            self.session.distrust_prepared();
        }
        let before = SqlStatements::of(DB::SYNTAX, &prefix).count;
        match folded.prepares.filter(|_| reply.completed == before + folded.before) {
            Some((name, true)) => self.session.prepared().insert(name),
            Some((name, false)) => self.closing.left = Some(name),
            None => {}
        }
        let failure = failure_of::<DB>(error, query.has_nowait())?;
        // The failure of an earlier statement is not about the rows.
        Some(match request.filter(|_| reply.completed >= before) {
            Some(request) => request.explain(failure),
            None => failure,
        })
    }
}
