//! Gives claimed jobs back: the changes after which a job can be claimed again, or is dead.

use std::time::Duration;

use super::claim::Claim;
use super::job::micros;
use super::resend::{SendAttempt, SendOutcome};
use super::sql::QueueSql;
use crate::backend::{Backend, Value, WatchedQuery};
use crate::error::Error;
use crate::strategies::Pessimistic;
use crate::transactor::{PoolTransactor, TransactorExt as _};

/// A change of a job's row that ends its claim.
pub(super) struct GivenBack {
    /// The assignments, with placeholders for the values.
    pub(super) change: String,
    pub(super) values: Vec<Value>,
}

impl GivenBack {
    /// The change of a job that failed: it is due after this delay, or dead. The error is bound, because a text would appear in logs, and the
    /// statement can be kept prepared.
    pub(super) fn failed<DB: Backend>(delay: Option<Duration>, error: &str) -> Self {
        let now = QueueSql::of::<DB>().now;
        let error_value = Value::Text(Some(error.to_owned()));
        let (first, second) = (DB::placeholder(1), DB::placeholder(2));
        match delay {
            Some(delay) => Self {
                change: format!("due_at = {now} + {first}, last_error = {second}"),
                values: vec![Value::Integer(micros(delay)), error_value],
            },
            None => Self {
                change: format!("due_at = NULL, died_at = {now}, last_error = {first}"),
                values: vec![error_value],
            },
        }
    }

    /// Returns the statement. Without values it is a text; with values, the job is bound too, so that the
    /// statement is the same for all jobs.
    fn query<DB: Backend>(&self, claim: &Claim<DB>, limit: &str) -> Result<WatchedQuery<DB>, sqlx::Error> {
        let Self { change, values } = self;
        let count = values.len();
        let (id, token, job) = match count {
            0 => (claim.id().to_string(), claim.token().to_string(), Vec::new()),
            _ => {
                let job = vec![Value::Integer(claim.id()), Value::Integer(claim.token())];
                (DB::placeholder(count + 1).into_owned(), DB::placeholder(count + 2).into_owned(), job)
            }
        };
        let sql = format!(
            "UPDATE atomically_job SET {change}, claimed_at = NULL, token = token + 1 \
             WHERE id = {id} AND token = {token}{limit}"
        );
        WatchedQuery::with_values(claim.queue().schema().in_sql(sql), values.iter().cloned().chain(job))
    }
}

impl<DB: Backend> Claim<DB> {
    /// Ends the claim by changing the job's row. Increments the token as well, so that a later call on this
    /// claim is refused as stale.
    pub(super) async fn give_back(&self, given_back: &GivenBack) -> Result<(), Error> {
        self.resend(|SendAttempt { db, is_repeated }| {
            Box::pin(async move {
                match self.send_back(&db, given_back).await? {
                    0 if is_repeated => Ok(SendOutcome::NotHeld),
                    0 => Err(self.stale_error()),
                    _ => Ok(SendOutcome::Changed),
                }
            })
        })
        .await
    }

    /// Sends the change in one round trip if the connection may keep its statement, and returns how many rows
    /// it affected.
    async fn send_back(
        &self,
        db: &PoolTransactor<DB, Pessimistic>,
        given_back: &GivenBack,
    ) -> Result<u64, Error> {
        let query = given_back.query(self, "")?;
        if given_back.values.is_empty() {
            return self.run_alone(db, query.sql()).await;
        }
        let persistent = self.queue().persistent;
        if persistent != Some(false) && !db.has_local_settings() {
            let alone = given_back.query(self, QueueSql::of::<DB>().lone_limit)?.persistent_if(true);
            let affected = db.run_on_connection(alone.text(), |connection, _| {
                let query = alone.clone();
                let is_kept = persistent.unwrap_or_else(|| DB::keeps_statements(connection));
                Box::pin(async move {
                    // Behind a pooler in transaction mode, a statement that was prepared on one session would
                    // be run on another, unless both steps are in one transaction.
                    if !is_kept {
                        return Ok(None);
                    }
                    DB::run_statement(connection, query).await.map(Some)
                })
            });
            if let Some(affected) = affected.await? {
                return Ok(affected);
            }
        }
        let query = &query;
        db.run(async |tx| Ok::<_, Error>(tx.execute_query(query.clone()).await?)).await
    }

    /// Runs a statement without values as its own transaction, in one round trip, and returns how many rows
    /// it affected.
    pub(super) async fn run_alone(
        &self,
        db: &PoolTransactor<DB, Pessimistic>,
        sql: &str,
    ) -> Result<u64, Error> {
        // With settings, the statement is sent in a transaction, which has limits of its own.
        let prefix = if db.has_local_settings() { "" } else { QueueSql::of::<DB>().lone_prefix };
        let sql = format!("{prefix}{}", self.queue().schema().in_sql(sql.to_owned()));
        db.run_statement(WatchedQuery::with_values(sql, [])?).await
    }
}
