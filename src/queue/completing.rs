//! Completes or releases several jobs at once, for a worker.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::AssertSqlSafe;
use tokio::time::Instant;

use super::Queue;
use super::claim::Claim;
use super::completion::{delete, held};
use super::resend::attempt_deadline;
use super::slots;
use super::sql::{QueueSql, execute, fetch_integers, id_list, integers};
use crate::backend::{Backend, WatchedQuery};
use crate::error::Error;
use crate::schema::Schema;
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor, TransactorExt as _};
use crate::tx::Tx;

/// Completes those of these jobs that their claims hold and that no other transaction has locked, as one
/// transaction. Returns their ids.
///
/// A job that is not among them is left as it is: it waits for its lock, or its claim is stale.
pub(super) async fn complete_held<DB: Backend>(
    queue: &Queue<DB>,
    claims: &[Arc<Claim<DB>>],
) -> Result<HashSet<i64>, Error> {
    let now = Instant::now();
    let left = claims.iter().map(|claim| claim.lease().end().saturating_duration_since(now)).min();
    let deadline = Options::new().deadline(attempt_deadline(left.unwrap_or_default()));
    let db = queue.db.clone().options(deadline);
    let have_keys = claims.iter().any(|claim| claim.key().is_some());
    let completed = match QueueSql::of::<DB>().completion_prefix {
        _ if have_keys => complete_keyed(&db, claims).await?,
        Some(prefix) if !db.has_local_settings() => complete_alone(&db, prefix, claims).await?,
        _ => complete_unlocked(&db, claims).await?,
    };
    Ok(completed.into_iter().collect())
}

/// Completes the jobs in one round trip.
async fn complete_alone<DB: Backend>(
    db: &PoolTransactor<DB, Pessimistic>,
    prefix: &str,
    claims: &[Arc<Claim<DB>>],
) -> Result<Vec<i64>, Error> {
    let sql = format!("{prefix}{} RETURNING id", delete(claims.iter().map(|claim| &**claim)));
    let query = WatchedQuery::new(sqlx::raw_sql(AssertSqlSafe(db.schema().in_sql(sql))))?;
    // A job that is locked is completed on its own, and the others do not wait for it again.
    let db = db.clone().attempts(1);
    Ok(integers::<DB>(db.fetch_alone(query).await?)?)
}

/// Completes the jobs that are not locked, on databases whose `DELETE` neither skips locks nor returns rows.
async fn complete_unlocked<DB: Backend>(
    db: &PoolTransactor<DB, Pessimistic>,
    claims: &[Arc<Claim<DB>>],
) -> Result<Vec<i64>, Error> {
    change_unlocked(db, "DELETE FROM atomically_job", claims.iter().map(|claim| &**claim)).await
}

/// Completes the jobs with keys that are not locked, and makes the next jobs of their keys due.
///
/// A key may be locked for long: a transaction that enqueues a job locks its key until the end.
async fn complete_keyed<DB: Backend>(
    db: &PoolTransactor<DB, Pessimistic>,
    claims: &[Arc<Claim<DB>>],
) -> Result<Vec<i64>, Error> {
    let schema = db.schema();
    let keys = slots::slots_of(claims.iter().filter_map(|claim| claim.key()));
    db.run(async |tx| {
        let locked = slots::lock_unlocked(tx, schema, &keys).await?;
        let claims = claims.iter().filter(|claim| claim.key().is_some_and(|key| locked.contains(&key.id)));
        let held = claims.clone().map(|claim| &**claim);
        let completed = change_unlocked_in(tx, schema, "DELETE FROM atomically_job", held).await?;
        let claims = claims.filter(|claim| completed.contains(&claim.id()));
        slots::free(tx, schema, &slots::slots_of(claims.filter_map(|claim| claim.key()))).await?;
        Ok(completed)
    })
    .await
}

/// Releases those of these jobs that their claims hold and that no other transaction has locked: they are due
/// as they were before they were claimed, and the attempts do not count. Returns their ids.
pub(super) async fn release_held<DB: Backend>(
    queue: &Queue<DB>,
    claims: &[&Claim<DB>],
) -> Result<HashSet<i64>, Error> {
    let now = QueueSql::of::<DB>().now;
    let due =
        claims.iter().filter_map(|claim| Some(format!(" WHEN {} THEN {}", claim.id(), claim.due_at()?)));
    let release = format!(
        "UPDATE atomically_job SET due_at = CASE id{} ELSE {now} END, attempts = attempts - 1, \
         claimed_at = NULL, token = token + 1",
        due.collect::<String>()
    );
    Ok(change_unlocked(&queue.db, &release, claims.iter().copied()).await?.into_iter().collect())
}

/// Applies `change`, an UPDATE or DELETE, to the jobs that these claims hold and that are not locked. Returns
/// their ids.
async fn change_unlocked<'c, DB: Backend>(
    db: &PoolTransactor<DB, Pessimistic>,
    change: &str,
    claims: impl IntoIterator<Item = &'c Claim<DB>> + Clone + Send + Sync,
) -> Result<Vec<i64>, Error> {
    db.run(async |tx| Ok(change_unlocked_in(tx, db.schema(), change, claims.clone()).await?)).await
}

/// Does the same in a transaction.
async fn change_unlocked_in<'c, DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    change: &str,
    claims: impl IntoIterator<Item = &'c Claim<DB>>,
) -> Result<Vec<i64>, sqlx::Error> {
    let held = held(claims);
    if held.is_empty() {
        return Ok(Vec::new());
    }
    let lock = QueueSql::of::<DB>().lock;
    let select = format!("SELECT id FROM atomically_job WHERE {held} ORDER BY id {lock}");
    let ids = fetch_integers(tx, schema, select).await?;
    if !ids.is_empty() {
        let list = id_list(ids.iter().copied());
        execute(tx, schema, format!("{change} WHERE id IN ({list})")).await?;
    }
    Ok(ids)
}
