//! The errors by which a server asks for a retry.

use super::isolation::LOST_UPDATE;
use super::{CertifyCheck, CheckResult, held, not_held, not_offered};
use crate::backend::Backend;
use crate::failure::Failure;
use crate::testing::certify::lab::Lab;
use crate::testing::certify::obstacle::CheckObstacle;
use crate::testing::certify::script::play;
use crate::testing::certify::session::LabSession;

pub(super) fn checks<DB: Backend>() -> Vec<CertifyCheck<DB>> {
    vec![
        CertifyCheck::new("retries.deadlock", "a deadlock is detected, and reported as one", |lab| {
            Box::pin(deadlock_is_reported(lab))
        }),
        CertifyCheck::new(
            "retries.serialization",
            "of two transactions that read and then write a row, one fails with an error that allows a retry",
            |lab| Box::pin(serialization(lab)),
        ),
    ]
}

/// A transaction that lost a deadlock, its failure, and its table.
type Loser<DB> = Option<(LabSession<DB>, Failure, String)>;

/// Lets two transactions deadlock; `None` where the database has one writer at a time.
pub(super) async fn deadlock<DB: Backend>(lab: &Lab<DB>) -> Result<Loser<DB>, CheckObstacle> {
    if !DB::HAS_ROW_LOCKS {
        return Ok(None);
    }
    let table = lab.table().await?;
    let (mut first, mut second) = (lab.session().await?, lab.session().await?);
    let update = |id: i64| format!("UPDATE {table} SET value = value + 1 WHERE id = {id}");
    first.begin(lab.weakest()).await?;
    second.begin(lab.weakest()).await?;
    first.run(&update(1)).await?;
    second.run(&update(2)).await?;
    if first.attempt(&update(2), lab.watch()).await?.is_some() {
        return Err(CheckObstacle::Failed(String::from(
            "a transaction wrote a row that another one has written",
        )));
    }
    // The server ends one of the two; the other one then gets on.
    let answer = second.ask(&update(1)).await?;
    if let Some(failure) = answer.failure {
        first.granted(lab.watch()).await?;
        first.run("ROLLBACK").await?;
        return Ok(Some((second, failure, table)));
    }
    let answer = first.granted(lab.watch()).await?;
    second.run("ROLLBACK").await?;
    match answer.failure {
        Some(failure) => Ok(Some((first, failure, table))),
        None => Err(CheckObstacle::Failed(String::from("neither of two deadlocked transactions failed"))),
    }
}

async fn deadlock_is_reported<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    match deadlock(lab).await? {
        None => not_offered("no two transactions can deadlock: one writes at a time"),
        Some((_, failure, _)) if failure.kind() == crate::FailureKind::Deadlock => {
            held(format!("one of two transactions was ended: {failure}"))
        }
        Some((_, failure, _)) => not_held(format!("one of two transactions failed otherwise: {failure}")),
    }
}

async fn serialization<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    // Where the strongest level admits one writer at a time, there is nothing to retry.
    let level = if DB::HAS_ROW_LOCKS { lab.strongest() } else { lab.weakest() };
    let seen = play(lab, &LOST_UPDATE, level, [0, 0]).await?;
    match seen.failure {
        Some(failure) => held(format!("one of two transactions failed: {failure}")),
        None => not_held("neither of two transactions failed"),
    }
}
