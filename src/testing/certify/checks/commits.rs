//! What COMMIT and ROLLBACK mean.

use super::{CertifyCheck, CheckResult, held, not_held};
use crate::backend::Backend;
use crate::testing::certify::lab::Lab;
use crate::testing::certify::obstacle::CheckObstacle;

/// How many writes are read on another connection.
const ROUNDS: i64 = 25;

pub(super) fn checks<DB: Backend>() -> Vec<CertifyCheck<DB>> {
    vec![
        CertifyCheck::new("commit.stored", "what an acknowledged COMMIT wrote is stored", |lab| {
            Box::pin(stored(lab))
        }),
        CertifyCheck::new("commit.rollback", "what was rolled back is not stored", |lab| {
            Box::pin(rolled_back(lab))
        }),
        CertifyCheck::new(
            "commit.after-error",
            "after a failed statement, COMMIT fails or stores what had succeeded",
            |lab| Box::pin(after_error(lab)),
        ),
        CertifyCheck::new(
            "commit.nothing-after-conflict",
            "a transaction that the server has ended stores nothing more",
            |lab| Box::pin(nothing_after_conflict(lab)),
        ),
        CertifyCheck::new(
            "reads.other-session",
            "a commit is seen by the next query of any session",
            |lab| Box::pin(other_session(lab)),
        ),
    ]
}

/// The value of row 1, as a new session reads it.
async fn value<DB: Backend>(lab: &Lab<DB>, table: &str) -> Result<Option<i64>, CheckObstacle> {
    let mut reader = lab.session().await?;
    Ok(reader.run(&format!("SELECT value FROM {table} WHERE id = 1")).await?.integer())
}

async fn stored<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.table().await?;
    let mut writer = lab.session().await?;
    writer.begin(lab.strongest()).await?;
    writer.run(&format!("UPDATE {table} SET value = 11 WHERE id = 1")).await?;
    writer.run("COMMIT").await?;
    drop(writer);
    match value(lab, &table).await? {
        Some(11) => held("COMMIT was acknowledged, and another session reads the value"),
        other => not_held(format!("COMMIT was acknowledged, and another session reads {other:?}, not 11")),
    }
}

async fn rolled_back<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.table().await?;
    let mut writer = lab.session().await?;
    writer.begin(lab.strongest()).await?;
    writer.run(&format!("UPDATE {table} SET value = 11 WHERE id = 1")).await?;
    writer.run("ROLLBACK").await?;
    match value(lab, &table).await? {
        Some(10) => held("ROLLBACK was acknowledged, and another session reads the old value"),
        other => not_held(format!("ROLLBACK was acknowledged, and another session reads {other:?}, not 10")),
    }
}

async fn after_error<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.table().await?;
    let mut writer = lab.session().await?;
    writer.begin(lab.strongest()).await?;
    writer.run(&format!("UPDATE {table} SET value = 11 WHERE id = 1")).await?;
    let refused = writer.ask(&format!("INSERT INTO {table} VALUES (2, 0)")).await?;
    if refused.failure.is_none() {
        return Err(CheckObstacle::Failed(String::from("a duplicate key was accepted")));
    }
    let committed = writer.ask("COMMIT").await?;
    match (committed.failure, value(lab, &table).await?) {
        (Some(failure), Some(10)) => held(format!("COMMIT fails: {failure}")),
        (None, Some(11)) => held("only the failed statement was undone, and COMMIT stored the others"),
        (None, _) => not_held("COMMIT was acknowledged, and nothing is stored"),
        (Some(failure), _) => not_held(format!("COMMIT failed, and the transaction is stored: {failure}")),
    }
}

/// Two transactions deadlock. The one that the server ends continues and commits.
async fn nothing_after_conflict<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let Some((mut loser, failure, table)) = super::retries::deadlock(lab).await? else {
        return super::not_offered("no two transactions can deadlock");
    };
    let further = loser.ask(&format!("INSERT INTO {table} VALUES (3, 30)")).await?;
    let committed = loser.ask("COMMIT").await?;
    drop(loser);
    lab.leave().await;
    let mut reader = lab.session().await?;
    let stored = reader.run(&format!("SELECT COUNT(*) FROM {table} WHERE id = 3")).await?.integer();
    let further =
        further.failure.map_or_else(|| String::from("succeeds"), |failure| format!("fails: {failure}"));
    let committed = committed.failure.map_or("is acknowledged", |_| "is refused");
    let evidence = format!("after {failure}, the next statement {further}; COMMIT {committed}");
    if stored == Some(0) { held(evidence) } else { not_held(format!("{evidence}; the statement is stored")) }
}

async fn other_session<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.table().await?;
    let (mut writer, mut reader) = (lab.session().await?, lab.session().await?);
    for round in 1..=ROUNDS {
        writer.run(&format!("UPDATE {table} SET value = {round} WHERE id = 1")).await?;
        let read = reader.run(&format!("SELECT value FROM {table} WHERE id = 1")).await?.integer();
        if read != Some(round) {
            return not_held(format!("{round} was written, and another session then read {read:?}"));
        }
    }
    held(format!("{ROUNDS} writes were each read at once by another session"))
}
