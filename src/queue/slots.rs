//! The slots of keys: which jobs of a key are due, and which wait.
//!
//! # Why a row for each key?
//!
//! A transaction that enqueues a job has to know whether another one of its key is before it, and a
//! transaction that completes a job has to know its successor. Neither sees what the other has not committed,
//! so without a lock a job could be left waiting for a predecessor that is gone. Both therefore lock, and
//! change, the row of the key before they look at its jobs. Under snapshot isolation, the change makes the
//! database refuse the one whose snapshot is too old.
//!
//! A job without a slot is not due, so claims do not read it. A row exists while its key has slots that are
//! taken, or jobs that wait for one.

use std::collections::BTreeMap;

use super::key::JobKey;
use super::sql::{QueueSql, WaitingSearch, execute, fetch_integers, id_list};
use crate::backend::{Backend, SyntheticError};
use crate::isolation::Isolation;
use crate::row_lock::RowLock;
use crate::schema::Schema;
use crate::tx::Tx;

/// The maximum number of keys of one statement.
const MAX_KEYS: usize = 1_000;

/// The maximum number of keys whose slots one statement frees. The planner of PostgreSQL assumes that each
/// key has many jobs, and would compile a statement for more keys before it runs it.
const MAX_FREED: usize = 100;

/// How many slots of each key are freed.
pub(super) type FreedSlots = BTreeMap<i64, u64>;

/// Counts the slots of these keys.
pub(super) fn slots_of(keys: impl IntoIterator<Item = JobKey>) -> FreedSlots {
    let mut freed = FreedSlots::new();
    for key in keys {
        *freed.entry(key.id).or_default() += 1;
    }
    freed
}

/// No slots of these keys: their free slots are given to jobs that wait.
pub(super) fn none_of(keys: &[JobKey]) -> FreedSlots {
    keys.iter().map(|key| (key.id, 0)).collect()
}

/// Which limit applies to a key that exists.
#[derive(Debug, Clone, Copy)]
pub(super) enum SlotLimit {
    /// That of the new job.
    New,
    /// That of the jobs before.
    Existing,
}

/// Locks the keys of jobs that are about to be added to them, in the order of their ids.
pub(super) async fn lock_or_create<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    keys: impl IntoIterator<Item = JobKey>,
    limit: SlotLimit,
) -> Result<(), sqlx::Error> {
    let sql = QueueSql::of::<DB>();
    let on_conflict = match limit {
        SlotLimit::New => sql.replace_slots,
        SlotLimit::Existing => sql.keep_slots,
    };
    let keys: BTreeMap<_, _> = keys.into_iter().map(|key| (key.id, key.slots())).collect();
    let keys: Vec<_> = keys.into_iter().map(|(id, slots)| format!("({id}, {slots})")).collect();
    for keys in keys.chunks(MAX_KEYS) {
        let insert =
            format!("INSERT INTO atomically_job_key (id, slots) VALUES {} {on_conflict}", keys.join(", "));
        execute(tx, schema, insert).await?;
    }
    Ok(())
}

/// Locks the keys of jobs that exist. Call this in a statement of its own before the jobs are changed, so
/// that later statements see what was committed while this one waited.
pub(super) async fn lock<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    freed: &FreedSlots,
) -> Result<(), sqlx::Error> {
    let clause = lock_clause(tx)?;
    lock_with(tx, schema, freed, &clause).await.map(drop)
}

/// Locks those of these keys that no other transaction has locked, and returns them. Call this like [`lock`].
pub(super) async fn lock_unlocked<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    freed: &FreedSlots,
) -> Result<Vec<i64>, sqlx::Error> {
    lock_with(tx, schema, freed, QueueSql::of::<DB>().lock).await
}

async fn lock_with<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    freed: &FreedSlots,
    clause: &str,
) -> Result<Vec<i64>, sqlx::Error> {
    if freed.is_empty() {
        return Ok(Vec::new());
    }
    let ids = id_list(freed.keys().copied());
    let select = format!("SELECT id FROM atomically_job_key WHERE id IN ({ids}) ORDER BY id {clause}");
    fetch_integers(tx, schema, select).await
}

/// Frees slots of locked keys, and gives all free slots to the jobs that have waited longest.
pub(super) async fn free<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    freed: &FreedSlots,
) -> Result<(), sqlx::Error> {
    let Some(free_slots) = QueueSql::of::<DB>().free_slots else {
        let (ids, lock) = (id_list(freed.keys().copied()), lock_clause(tx)?);
        let full = format!("SELECT id FROM atomically_job_key WHERE id IN ({ids}) AND taken >= slots {lock}");
        let full = if freed.is_empty() { Vec::new() } else { fetch_integers(tx, schema, full).await? };
        for (id, freed) in freed.iter().filter(|(id, freed)| **freed > 0 || !full.contains(id)) {
            free_one(tx, schema, *id, *freed).await?;
        }
        return Ok(());
    };
    let freed: Vec<_> = freed.iter().map(|(id, freed)| (*id, *freed)).collect();
    for freed in freed.chunks(MAX_FREED) {
        if fetch_integers(tx, schema, free_slots(freed)).await?.contains(&0) {
            let ids = id_list(freed.iter().map(|(id, _)| *id));
            let delete = format!("DELETE FROM atomically_job_key WHERE id IN ({ids}) AND taken = 0");
            execute(tx, schema, delete).await?;
        }
    }
    Ok(())
}

async fn free_one<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    key: i64,
    freed: u64,
) -> Result<(), sqlx::Error> {
    let (sql, lock) = (QueueSql::of::<DB>(), lock_clause(tx)?);
    let state = format!("SELECT slots, taken, next_id FROM atomically_job_key WHERE id = {key} {lock}");
    let state = fetch_integers(tx, schema, state).await?;
    let [slots, taken, next_id] = state[..] else { return Ok(()) };
    let taken = taken - i64::try_from(freed).unwrap_or(i64::MAX);
    let next = if taken < slots {
        let (limit, is_read_committed) = (slots - taken, tx.plan().isolation == Isolation::ReadCommitted);
        let search = WaitingSearch { key, from_id: next_id, limit, lock: &lock, is_read_committed };
        let waiting = (sql.next_waiting)(&search);
        fetch_integers(tx, schema, waiting).await?
    } else {
        Vec::new()
    };
    let taken = taken + i64::try_from(next.len()).unwrap_or(i64::MAX);
    if taken <= 0 {
        execute(tx, schema, format!("DELETE FROM atomically_job_key WHERE id = {key}")).await?;
        return Ok(());
    }
    let next_id = next.last().map_or(next_id, |last| last + 1);
    let update =
        format!("UPDATE atomically_job_key SET taken = {taken}, next_id = {next_id} WHERE id = {key}");
    execute(tx, schema, update).await?;
    if !next.is_empty() {
        let (give, ids) = (sql.give_slot(), id_list(next));
        execute(tx, schema, format!("UPDATE atomically_job SET {give} WHERE id IN ({ids})")).await?;
    }
    Ok(())
}

/// Returns the clause that locks rows.
pub(super) fn lock_clause<DB: Backend>(tx: &Tx<DB>) -> Result<String, sqlx::Error> {
    let clause = DB::lock_clause(&tx.engine(), RowLock::UPDATE);
    Ok(clause.map_err(SyntheticError::Failed)?.unwrap_or_default().into_owned())
}
