//! Sends the kept statements of a transaction: as a part of the text that commits, or one by one before it.

use sqlx::SqlStr;
use tokio::time::Instant;

use crate::backend::{
    Backend, CommitSql, FoldedText, Folding, PreparedNames, Reply, failure_of, failure_or_other,
};
use crate::failure::{Failure, FailureKind};
use crate::sql_text::{MaskedStatement, only_statement};

use super::Tx;
use super::at_commit::{Expectation, KeptStatement};
use super::expect_one::unexpected_rows;

/// More than the size of a text that commits without kept statements.
const COMMIT_BYTES: usize = 1024;

/// The text that runs the kept statements and commits.
pub(super) struct FoldedCommit<DB: Backend> {
    pub(super) sql: String,
    /// How many results precede that of COMMIT.
    pub(super) before_commit: usize,
    /// How many results precede those of the statements.
    guards: usize,
    statements: FoldedStatements<DB>,
    sent: Instant,
}

/// A kept statement that failed.
pub(super) struct KeptFailure {
    pub(super) failure: Failure,
    /// The name of a prepared statement that is left on the session.
    pub(super) left: Option<String>,
}

/// The kept statements, each with the text that runs it.
type FoldedStatements<DB> = Vec<(KeptStatement<DB>, FoldedText)>;

impl<DB: Backend> Tx<DB> {
    /// Returns the kept statements as parts of the text that commits. If one of them has to be sent on its
    /// own, runs all of them, and returns none.
    pub(super) async fn take_kept(&mut self) -> Result<FoldedStatements<DB>, Failure> {
        if let Some(texts) = self.texts_of_kept() {
            return Ok(std::mem::take(&mut self.kept).into_iter().zip(texts).collect());
        }
        for KeptStatement { query, expects, .. } in std::mem::take(&mut self.kept) {
            let text = query.text();
            let checked = match (self.execute_query(query).await, expects) {
                (Ok(rows), Expectation::OneRow) => self.expect_one(rows),
                (Ok(_), _) => Ok(()),
                (Err(error), Expectation::Check(failure)) if DB::is_failed_check(&error) => {
                    return Err(failure);
                }
                (Err(error), _) => Err(error.into()),
            };
            if let Err(error) = checked {
                let failure = self.over().or(error.failure()).cloned();
                let failure = failure.unwrap_or_else(|| Failure::new(FailureKind::Other, error.to_string()));
                return Err(self.explain_kept(in_context::<DB>(failure, &text)).await);
            }
        }
        Ok(Vec::new())
    }

    /// Returns the texts of the kept statements, unless one of them has to be sent on its own.
    fn texts_of_kept(&mut self) -> Option<Vec<FoldedText>> {
        let engine = self.closing.engine;
        if !DB::folds(engine) || self.interception.is_some() || self.state.is_in_question() {
            return None;
        }
        self.session.keep_prepared();
        // A statement that is not a query may have removed prepared statements.
        let is_certain = !self.state.is_unwatched() && !self.state.may_have_changed_settings;
        let mut names = if is_certain { self.session.prepared().clone() } else { PreparedNames::default() };
        let (mut texts, mut bytes) = (Vec::with_capacity(self.kept.len()), COMMIT_BYTES);
        for kept in &self.kept {
            let folding = Folding {
                sql: only_statement(DB::SYNTAX, kept.query.sql())?,
                literals: &kept.literals,
                expects_one: kept.expects.is_one_row(),
                may_keep: kept.query.is_persistent(),
                prepared: &names,
            };
            let text = DB::fold(&folding)?;
            if let Some((name, true)) = &text.prepares {
                names.insert(name.clone());
            }
            bytes += text.sql.len();
            texts.push(text);
        }
        (engine.max_packet == 0 || bytes <= engine.max_packet).then_some(texts)
    }

    /// Returns the text that runs the kept statements and commits; `None` if there are none.
    pub(super) fn fold_commit(
        &mut self,
        statements: FoldedStatements<DB>,
        ending: &CommitSql,
    ) -> Option<Box<FoldedCommit<DB>>> {
        if statements.is_empty() {
            return None;
        }
        // The guard comes first, so that no statement runs outside of the transaction.
        let guarded = if ending.before_commit > 0 { ending.sql.split_once("; ") } else { None };
        let (guard, commit) = guarded.unwrap_or(("", &ending.sql));
        let parts = statements.iter().map(|(_, text)| text.sql.as_str());
        let parts: Vec<&str> =
            Some(guard).filter(|guard| !guard.is_empty()).into_iter().chain(parts).chain([commit]).collect();
        let sql = parts.join("; ");
        let results: usize = statements.iter().map(|(_, text)| text.results).sum();
        if let Some(run_clock) = self.state.run_clock() {
            for (kept, _) in &statements {
                run_clock.sends(&kept.query.text());
            }
        }
        let guards = ending.before_commit;
        let sent = Instant::now();
        Some(Box::new(FoldedCommit { sql, before_commit: guards + results, guards, statements, sent }))
    }

    /// Records what became of the kept statements, and returns the failure of one that has failed.
    pub(super) fn end_kept(&mut self, folded: FoldedCommit<DB>, reply: &Reply) -> Option<KeptFailure> {
        let took = folded.sent.elapsed();
        let mut end = folded.guards;
        for (kept, text) in folded.statements {
            let start = end;
            end += text.results;
            if let Some((name, true)) = &text.prepares
                && reply.completed > start
            {
                self.session.prepared().insert(name.clone());
            }
            let failed = (start..end).contains(&reply.completed);
            let failure = if failed { kept.failure(&text, reply, start) } else { None };
            if let Some(run_clock) = self.state.run_clock()
                && (failure.is_some() || reply.completed >= end)
            {
                run_clock.sent_with(&kept.query.text(), took, failure.as_ref());
            }
            if failed {
                if reply.error.as_ref().is_some_and(DB::has_other_names) {
                    self.session.distrust_prepared();
                }
                let left = text.prepares.filter(|(_, kept)| !kept && reply.completed > start);
                return failure.map(|failure| KeptFailure { failure, left: left.map(|left| left.0) });
            }
        }
        None
    }

    /// Adds to a deadlock which units took part in it.
    pub(super) async fn explain_kept(&mut self, failure: Failure) -> Failure {
        let Some(run_clock) = self.state.run_clock().cloned() else { return failure };
        if failure.kind() != FailureKind::Deadlock {
            return failure;
        }
        // Boxed, because in place it would enlarge the future of every commit.
        let failure = Box::pin(self.explain(failure)).await;
        let mut report = failure.deadlock().cloned().unwrap_or_default();
        run_clock.name_units(&mut report, self.session.pool_identity());
        failure.with_deadlock(Some(report))
    }
}

impl<DB: Backend> KeptStatement<DB> {
    /// Returns the failure of this statement; `None` if the server has not certainly refused it.
    fn failure(&self, text: &FoldedText, reply: &Reply, start: usize) -> Option<Failure> {
        let error = reply.error.as_ref()?;
        if !matches!(error, sqlx::Error::Database(_)) {
            return None;
        }
        let in_context = |failure| in_context::<DB>(failure, &self.query.text());
        if text.check.is_some_and(|check| start + check == reply.completed)
            && let Some(rows) = DB::unexpected_rows(error, &reply.integers)
        {
            return Some(in_context(unexpected_rows(rows, Some(&self.query))));
        }
        if let Expectation::Check(failure) = &self.expects
            && start + text.before == reply.completed
            && DB::is_failed_check(error)
        {
            return Some(failure.clone());
        }
        let failure =
            failure_of::<DB>(error, self.query.has_nowait()).unwrap_or_else(|| failure_or_other::<DB>(error));
        // The next attempt does not expect the session to have the statement.
        let is_retryable = failure.is_retryable() || DB::has_other_names(error);
        let is_certain = failure.is_definite() || !failure.ends_session();
        is_certain.then(|| in_context(failure.retryable(is_retryable)))
    }
}

/// Names the statement in its failure.
fn in_context<DB: Backend>(failure: Failure, sql: &SqlStr) -> Failure {
    let shown = MaskedStatement::new(DB::SYNTAX, sql).sql;
    failure.in_context(&format!("the statement `{}`, which was kept for the commit", shown.as_str()))
}
