//! What a claim does about the keys of its jobs, after they have been claimed.
//!
//! The jobs of most claims need nothing: ordered jobs, and limited ones that have not been tried before, are
//! not due before they have a slot. A limited job that was retried or scheduled has given its slot away, or
//! has never had one. And the death of a job with a key may free its slot.

use std::collections::BTreeMap;

use super::Queue;
use super::key::JobKey;
use super::row::JobRow;
use super::slots::{self, FreedSlots, SlotLimit};
use super::sql::{LEASE_EXPIRED, QueueSql, execute, fetch_integers, id_list};
use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::TransactorExt as _;
use crate::tx::Tx;

/// The jobs of a claim whose keys have been taken care of.
pub(super) struct Settled {
    /// The jobs that can start, and spent jobs without keys.
    pub(super) rows: Vec<JobRow>,
    /// The spent jobs with keys that were marked dead.
    pub(super) died: Vec<JobRow>,
    /// The error because of which jobs are left to the next claim after their leases.
    pub(super) error: Option<Error>,
}

/// Marks spent jobs with keys as dead, and gives slots to the other jobs that need one. Jobs for which there
/// is no slot wait, as if they had not been claimed.
pub(super) async fn settle_keys<DB: Backend>(queue: &Queue<DB>, rows: Vec<JobRow>) -> Settled {
    let mut settled = Settled { rows: Vec::new(), died: Vec::new(), error: None };
    if rows.iter().all(|row| row.key.is_none()) {
        return Settled { rows, ..settled };
    }
    let mut need_slots = Vec::new();
    for row in rows {
        if row.key.is_some() && row.is_spent() {
            match bury(queue, &row).await {
                Ok(true) => settled.died.push(row),
                Ok(false) => {}
                Err(error) => settled.error = Some(error),
            }
        } else if row.needs_slot() {
            need_slots.push(row);
        } else {
            settled.rows.push(row);
        }
    }
    match admit(queue, need_slots).await {
        Ok(admitted) => settled.rows.extend(admitted),
        Err(error) => settled.error = Some(error),
    }
    settled
}

/// Gives slots to claimed jobs, and returns those that got one.
async fn admit<DB: Backend>(queue: &Queue<DB>, rows: Vec<JobRow>) -> Result<Vec<JobRow>, Error> {
    let mut by_key = BTreeMap::<i64, (JobKey, Vec<(i64, i64)>)>::new();
    for row in &rows {
        if let Some(key) = row.key {
            by_key.entry(key.id).or_insert_with(|| (key, Vec::new())).1.push((row.id, row.token + 1));
        }
    }
    if by_key.is_empty() {
        return Ok(rows);
    }
    let (by_key, schema) = (&by_key, queue.schema());
    let admitted = queue
        .db
        .run(async |tx: &mut Tx<DB>| {
            let keys = by_key.values().map(|(key, _)| *key);
            slots::lock_or_create(tx, schema, keys, SlotLimit::Existing).await?;
            let mut admitted = Vec::new();
            for (key, jobs) in by_key.values() {
                admitted.extend(admit_jobs(queue, tx, *key, jobs).await?);
            }
            Ok::<_, Error>(admitted)
        })
        .await?;
    Ok(rows.into_iter().filter(|row| admitted.contains(&row.id)).collect())
}

/// Gives slots of a locked key to as many of these jobs as possible, and returns their ids. `jobs` has ids
/// and tokens.
async fn admit_jobs<DB: Backend>(
    queue: &Queue<DB>,
    tx: &mut Tx<DB>,
    key: JobKey,
    jobs: &[(i64, i64)],
) -> Result<Vec<i64>, Error> {
    let (schema, key) = (queue.schema(), key.id);
    let lock = slots::lock_clause(tx)?;
    let held: Vec<_> = jobs.iter().map(|(id, token)| format!("(id = {id} AND token = {token})")).collect();
    let held = format!("SELECT id FROM atomically_job WHERE {} ORDER BY id {lock}", held.join(" OR "));
    let held = fetch_integers(tx, schema, held).await?;
    let state = format!("SELECT slots - taken FROM atomically_job_key WHERE id = {key} {lock}");
    let free = fetch_integers(tx, schema, state).await?.first().copied().unwrap_or_default();
    let held: Vec<_> = jobs.iter().map(|(id, _)| *id).filter(|id| held.contains(id)).collect();
    let (admitted, parked) = held.split_at(held.len().min(usize::try_from(free).unwrap_or(0)));
    if !admitted.is_empty() {
        let (ids, taken) = (id_list(admitted.iter().copied()), admitted.len());
        execute(tx, schema, format!("UPDATE atomically_job SET has_slot = 1 WHERE id IN ({ids})")).await?;
        let take = format!("UPDATE atomically_job_key SET taken = taken + {taken} WHERE id = {key}");
        execute(tx, schema, take).await?;
    }
    if admitted.is_empty() {
        // The key is deleted if nothing needs it.
        slots::free(tx, schema, &FreedSlots::from([(key, 0)])).await?;
    }
    if !parked.is_empty() {
        let park = "claimed_at = NULL, attempts = attempts - 1, token = token + 1";
        wait_for_slot(queue, tx, key, parked, park).await?;
    }
    Ok(admitted.to_vec())
}

/// Makes jobs wait for a slot of their key, which is locked, and makes further changes to them.
pub(super) async fn wait_for_slot<DB: Backend>(
    queue: &Queue<DB>,
    tx: &mut Tx<DB>,
    key: i64,
    jobs: &[i64],
    changes: &str,
) -> Result<(), Error> {
    let (schema, now, ids) = (queue.schema(), QueueSql::of::<DB>().now, id_list(jobs.iter().copied()));
    let first = jobs.iter().min().copied().unwrap_or_default();
    let wait = format!(
        "UPDATE atomically_job SET waiting_key = {key}, wanted_at = {now}, due_at = NULL, {changes} \
         WHERE id IN ({ids})"
    );
    execute(tx, schema, wait).await?;
    let search = format!(
        "UPDATE atomically_job_key SET next_id = CASE WHEN next_id < {first} THEN next_id ELSE {first} END \
         WHERE id = {key}"
    );
    execute(tx, schema, search).await?;
    Ok(())
}

/// Marks a spent job with a key as dead, unless another worker has claimed it meanwhile. Returns whether it
/// did.
async fn bury<DB: Backend>(queue: &Queue<DB>, row: &JobRow) -> Result<bool, Error> {
    let freed = slots::slots_of(row.key.filter(|key| row.has_slot && queue.frees_dead(*key)));
    let (schema, now) = (queue.schema(), QueueSql::of::<DB>().now);
    let slot = if freed.is_empty() { "" } else { "has_slot = NULL, " };
    let bury = &format!(
        "UPDATE atomically_job SET {slot}claimed_at = NULL, due_at = NULL, died_at = {now}, \
         last_error = '{LEASE_EXPIRED}', token = token + 1 WHERE id = {} AND token = {}",
        row.id,
        row.token + 1
    );
    let freed = &freed;
    queue
        .db
        .run(async |tx: &mut Tx<DB>| {
            slots::lock(tx, schema, freed).await?;
            if execute(tx, schema, bury).await? == 0 {
                return Ok(false);
            }
            slots::free(tx, schema, freed).await?;
            Ok(true)
        })
        .await
}

impl<DB: Backend> Queue<DB> {
    /// Whether the death of a job with this key frees its slot.
    pub(super) fn frees_dead(&self, key: JobKey) -> bool {
        self.skips_dead || !key.is_ordered()
    }
}
