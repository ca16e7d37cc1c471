//! Row locks and advisory locks.

use super::{CertifyCheck, CheckResult, held, not_held, not_offered};
use crate::backend::Backend;
use crate::failure::FailureKind;
use crate::testing::certify::lab::Lab;
use crate::testing::certify::obstacle::CheckObstacle;
use crate::testing::certify::session::{LabAnswer, LabSession, succeeded};

pub(super) fn checks<DB: Backend>() -> Vec<CertifyCheck<DB>> {
    vec![
        CertifyCheck::new("locks.update", "FOR UPDATE makes another session's FOR UPDATE wait", |lab| {
            Box::pin(update(lab, [0, 0]))
        }),
        CertifyCheck::new(
            "locks.update-blocks-writes",
            "FOR UPDATE makes another session's UPDATE wait",
            |lab| Box::pin(blocks_writes(lab)),
        ),
        CertifyCheck::new("locks.skip-locked", "SKIP LOCKED returns the rows that are not locked", |lab| {
            Box::pin(skip_locked(lab, [0, 0]))
        }),
        CertifyCheck::new("locks.nowait", "NOWAIT fails at once on a locked row", |lab| {
            Box::pin(nowait(lab))
        }),
        CertifyCheck::new("locks.nowait-code", "the code of NOWAIT is not that of a timeout", |lab| {
            Box::pin(nowait_code(lab))
        }),
        CertifyCheck::new("locks.advisory", "an advisory lock is granted to one session at a time", |lab| {
            Box::pin(advisory(lab, [0, 0]))
        }),
        CertifyCheck::new("locks.advisory-released", "an advisory lock is free after its release", |lab| {
            Box::pin(advisory_released(lab))
        }),
    ]
}

/// A session whose transaction has locked row 1, and another open transaction.
async fn holder_and_other<DB: Backend>(
    lab: &Lab<DB>,
    table: &str,
    nodes: [usize; 2],
) -> Result<(LabSession<DB>, LabSession<DB>), CheckObstacle> {
    let (mut holder, mut other) = (lab.session_on(nodes[0]).await?, lab.session_on(nodes[1]).await?);
    holder.begin(lab.weakest()).await?;
    holder.run(&format!("SELECT value FROM {table} WHERE id = 1 FOR UPDATE")).await?;
    other.begin(lab.weakest()).await?;
    Ok((holder, other))
}

const NO_ROW_LOCKS: &str = "the database has no row locks";

/// A table that exists on both nodes.
async fn table_on<DB: Backend>(lab: &Lab<DB>, nodes: [usize; 2]) -> Result<String, CheckObstacle> {
    if nodes == [0, 0] { lab.table().await } else { lab.shared_table().await }
}

pub(super) async fn update<DB: Backend>(lab: &Lab<DB>, nodes: [usize; 2]) -> CheckResult {
    if !DB::HAS_ROW_LOCKS {
        return not_offered(NO_ROW_LOCKS);
    }
    let table = table_on(lab, nodes).await?;
    let (mut holder, mut other) = holder_and_other(lab, &table, nodes).await?;
    let select = format!("SELECT value FROM {table} WHERE id = 1 FOR UPDATE");
    match other.attempt(&select, lab.watch_on(nodes[1])).await? {
        Some(answer) => {
            succeeded::<DB>(&select, answer)?;
            not_held("two open transactions have locked the same row FOR UPDATE")
        }
        None => {
            holder.run("COMMIT").await?;
            succeeded::<DB>(&select, other.granted(lab.watch_on(nodes[1])).await?)?;
            held("the second FOR UPDATE waits until the first transaction ends")
        }
    }
}

async fn blocks_writes<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    if !DB::HAS_ROW_LOCKS {
        return not_offered(NO_ROW_LOCKS);
    }
    let table = lab.table().await?;
    let (mut holder, mut other) = holder_and_other(lab, &table, [0, 0]).await?;
    let write = format!("UPDATE {table} SET value = 12 WHERE id = 1");
    match other.attempt(&write, lab.watch()).await? {
        Some(_) => not_held("a row that is locked FOR UPDATE was written by another session"),
        None => {
            holder.run("COMMIT").await?;
            succeeded::<DB>(&write, other.granted(lab.watch()).await?)?;
            held("the UPDATE waits until the transaction that locked the row ends")
        }
    }
}

pub(super) async fn skip_locked<DB: Backend>(lab: &Lab<DB>, nodes: [usize; 2]) -> CheckResult {
    if !DB::HAS_ROW_LOCKS {
        return not_offered(NO_ROW_LOCKS);
    }
    let table = table_on(lab, nodes).await?;
    let (_holder, mut other) = holder_and_other(lab, &table, nodes).await?;
    let select = format!("SELECT id FROM {table} ORDER BY id FOR UPDATE SKIP LOCKED");
    match other.attempt(&select, lab.watch_on(nodes[1])).await? {
        None => not_held("SKIP LOCKED waits for the locked row"),
        Some(answer) => match succeeded::<DB>(&select, answer)?.integers.as_slice() {
            [2] => held("of rows 1 and 2, the first of which is locked, it returns the second"),
            ids => not_held(format!("of rows 1 and 2, the first of which is locked, it returns {ids:?}")),
        },
    }
}

async fn nowait<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    if !DB::HAS_ROW_LOCKS {
        return not_offered(NO_ROW_LOCKS);
    }
    let table = lab.table().await?;
    let (_holder, mut other) = holder_and_other(lab, &table, [0, 0]).await?;
    let select = format!("SELECT value FROM {table} WHERE id = 1 FOR UPDATE NOWAIT");
    match other.attempt(&select, lab.watch()).await? {
        None => not_held("NOWAIT waits for the locked row"),
        Some(answer) => match answer.failure {
            Some(failure) if is_refusal(failure.kind()) => held(format!("it fails: {failure}")),
            None => not_held("NOWAIT locks a row that is locked by another session"),
            Some(_) => succeeded::<DB>(&select, answer).and_then(|_| not_held("NOWAIT fails otherwise")),
        },
    }
}

/// Servers use one code for a lock that was refused and for one that took too long.
fn is_refusal(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::LockNotAvailable | FailureKind::LockTimeout)
}

async fn nowait_code<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let (true, Some(limit)) = (DB::HAS_ROW_LOCKS, DB::CERTIFICATION.short_lock_timeout) else {
        return not_offered(NO_ROW_LOCKS);
    };
    let table = lab.table().await?;
    let (_holder, mut refused) = holder_and_other(lab, &table, [0, 0]).await?;
    let mut late = lab.session().await?;
    late.begin(lab.weakest()).await?;
    for session in [&mut refused, &mut late] {
        session.run(limit).await?;
    }
    let select = format!("SELECT value FROM {table} WHERE id = 1 FOR UPDATE");
    let refusal = refused.ask(&format!("{select} NOWAIT")).await?;
    let timeout = late.ask(&select).await?;
    let code =
        |answer: &LabAnswer| answer.failure.as_ref().and_then(|failure| failure.code().map(str::to_owned));
    match (code(&refusal), code(&timeout)) {
        (Some(refusal), Some(timeout)) if refusal != timeout => {
            held(format!("NOWAIT fails with {refusal}, a timeout with {timeout}"))
        }
        (Some(refusal), Some(_)) => not_held(format!("both fail with {refusal}")),
        (None, _) => Err(CheckObstacle::Failed(String::from("NOWAIT did not fail with a code"))),
        (_, None) => Err(CheckObstacle::Failed(String::from("the wait for a lock did not end with a code"))),
    }
}

/// Advisory locks belong to a database, or to a server, so their numbers are random.
fn advisory_texts<DB: Backend>() -> Option<[String; 2]> {
    let number = (rand::random::<u64>() >> 2).to_string();
    DB::CERTIFICATION.advisory_lock.map(|texts| texts.map(|text| text.replace("{}", &number)))
}

pub(super) async fn advisory<DB: Backend>(lab: &Lab<DB>, nodes: [usize; 2]) -> CheckResult {
    let Some([take, release]) = advisory_texts::<DB>() else {
        return not_offered("the database has no advisory locks");
    };
    let (mut holder, mut other) = (lab.session_on(nodes[0]).await?, lab.session_on(nodes[1]).await?);
    holder.begin(lab.weakest()).await?;
    other.begin(lab.weakest()).await?;
    let first = holder.run(&take).await?.integer();
    let second = other.run(&take).await?.integer();
    for session in [&mut holder, &mut other] {
        session.run(&release).await?;
        session.run("COMMIT").await?;
    }
    match (first, second) {
        (Some(1), Some(0)) => held("one session holds the lock, and another one is refused"),
        (Some(1), Some(1)) => not_held("two sessions hold the same lock"),
        (first, second) => {
            not_held(format!("the first session was answered {first:?}, the second {second:?}"))
        }
    }
}

async fn advisory_released<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let Some([take, release]) = advisory_texts::<DB>() else {
        return not_offered("the database has no advisory locks");
    };
    let (mut holder, mut other) = (lab.session().await?, lab.session().await?);
    holder.begin(lab.weakest()).await?;
    holder.run(&take).await?;
    holder.run(&release).await?;
    holder.run("COMMIT").await?;
    other.begin(lab.weakest()).await?;
    let second = other.run(&take).await?.integer();
    other.run(&release).await?;
    other.run("COMMIT").await?;
    match second {
        Some(1) => held("after the first transaction, another session takes the lock"),
        other => not_held(format!("after the first transaction, another session is answered {other:?}")),
    }
}
