//! Sends the kept statements of a transaction: as a part of the text that commits, or one by one before it.

use sqlx::SqlStr;
use tokio::time::Instant;

use crate::backend::{Backend, CommitSql, FoldedText, Folding, Reply, failure_of, failure_or_other};
use crate::failure::{Failure, FailureKind};
use crate::sql_text::{MaskedStatement, only_statement};

use super::Tx;
use super::at_commit::KeptStatement;
use super::expect_one::unexpected_rows;

/// The text that runs the kept statements and commits.
pub(super) struct FoldedCommit<DB: Backend> {
    pub(super) sql: String,
    /// How many results precede that of COMMIT.
    pub(super) before_commit: usize,
    /// How many results precede those of the statements.
    guards: usize,
    statements: Vec<(KeptStatement<DB>, FoldedText)>,
    sent: Instant,
}

/// A kept statement that failed.
pub(super) struct KeptFailure {
    pub(super) failure: Failure,
    /// The name of a prepared statement that is left on the session.
    pub(super) left: Option<String>,
}

impl<DB: Backend> Tx<DB> {
    /// Runs the kept statements one by one, unless they can be part of the text that commits.
    pub(super) async fn run_kept(&mut self) -> Result<(), Failure> {
        if self.kept.is_empty() || self.can_fold() {
            return Ok(());
        }
        for KeptStatement { query, expects_one, .. } in std::mem::take(&mut self.kept) {
            let text = query.text();
            let checked = match self.execute_query(query).await {
                Ok(rows) if expects_one => self.expect_one(rows),
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = checked {
                let failure = self
                    .over()
                    .or(error.failure())
                    .cloned()
                    .unwrap_or_else(|| Failure::new(FailureKind::Other, error.to_string()));
                return Err(self.explain_kept(in_context::<DB>(failure, &text)).await);
            }
        }
        Ok(())
    }

    /// Returns whether all kept statements can be part of one text.
    fn can_fold(&mut self) -> bool {
        let engine = self.closing.engine;
        DB::folds(engine)
            && self.interception.is_none()
            && !self.state.is_in_question()
            && self.kept.iter().all(|kept| {
                let names = <_>::default();
                kept.folding(&names).and_then(|folding| DB::fold(&folding)).is_some_and(|folded| {
                    engine.max_packet == 0 || folded.sql.len() < engine.max_packet / self.kept.len().max(2)
                })
            })
    }

    /// Returns the text that runs the kept statements and commits; `None` if there are none.
    pub(super) fn fold_kept(&mut self, ending: &CommitSql) -> Option<FoldedCommit<DB>> {
        if self.kept.is_empty() {
            return None;
        }
        self.session.keep_prepared();
        let (guard, commit) = match ending.before_commit {
            0 => ("", ending.sql.as_ref()),
            _ => ending.sql.split_once("; ")?,
        };
        let mut sql = guard.to_owned();
        let (mut before_commit, mut statements) = (ending.before_commit, Vec::new());
        let mut names = self.session.prepared().clone();
        for kept in std::mem::take(&mut self.kept) {
            let folded = DB::fold(&kept.folding(&names)?)?;
            if let Some((name, true)) = &folded.prepares {
                names.insert(name.clone());
            }
            for part in [if sql.is_empty() { "" } else { "; " }, &folded.sql] {
                sql.push_str(part);
            }
            before_commit += folded.results;
            statements.push((kept, folded));
        }
        sql.push_str("; ");
        sql.push_str(commit);
        if let Some(run_clock) = self.state.run_clock() {
            for (kept, _) in &statements {
                run_clock.sends(&kept.query.text());
            }
        }
        Some(FoldedCommit {
            sql,
            before_commit,
            guards: ending.before_commit,
            statements,
            sent: Instant::now(),
        })
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
                let context = |failure| in_context::<DB>(failure, &kept.query.text());
                return failure
                    .map(context)
                    .map(|failure| KeptFailure { failure, left: left.map(|left| left.0) });
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
    fn folding<'s>(&'s self, prepared: &'s crate::backend::PreparedNames) -> Option<Folding<'s>> {
        Some(Folding {
            sql: only_statement(DB::SYNTAX, self.query.sql())?,
            literals: &self.literals,
            expects_one: self.expects_one,
            may_keep: self.query.is_persistent(),
            prepared,
        })
    }

    /// Returns the failure of this statement; `None` if the server has not certainly refused it.
    fn failure(&self, text: &FoldedText, reply: &Reply, start: usize) -> Option<Failure> {
        let error = reply.error.as_ref()?;
        if !matches!(error, sqlx::Error::Database(_)) {
            return None;
        }
        if text.check.is_some_and(|check| start + check == reply.completed)
            && let Some(rows) = DB::unexpected_rows(error, &reply.integers)
        {
            return Some(unexpected_rows(rows, Some(&self.query)));
        }
        let failure =
            failure_of::<DB>(error, self.query.has_nowait()).unwrap_or_else(|| failure_or_other::<DB>(error));
        // The next attempt does not expect the session to have the statement.
        let is_retryable = failure.is_retryable() || DB::has_other_names(error);
        (failure.is_definite() || !failure.ends_session()).then(|| failure.retryable(is_retryable))
    }
}

/// Names the statement in its failure.
fn in_context<DB: Backend>(failure: Failure, sql: &SqlStr) -> Failure {
    let shown = MaskedStatement::new(DB::SYNTAX, sql).sql;
    failure.in_context(&format!("the statement `{}`, which was kept for the commit", shown.as_str()))
}
