//! Limits and cancellations that reach the server.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{CertifyCheck, CheckResult, held, not_held, not_offered};
use crate::backend::Backend;
use crate::failure::FailureKind;
use crate::testing::certify::lab::Lab;
use crate::testing::certify::obstacle::CheckObstacle;
use crate::testing::certify::session::LabSession;

/// The limits are a second or less. What ends later than this was not ended by a limit.
const SLACK: Duration = Duration::from_secs(6);

pub(super) fn checks<DB: Backend>() -> Vec<CertifyCheck<DB>> {
    vec![
        CertifyCheck::new(
            "limits.lock-timeout",
            "a wait for a lock ends after the transaction's limit",
            |lab| Box::pin(lock_timeout(lab)),
        ),
        CertifyCheck::new(
            "limits.statement-timeout",
            "a statement ends after the transaction's limit",
            |lab| Box::pin(statement_timeout(lab)),
        ),
        CertifyCheck::new(
            "limits.idle-in-transaction",
            "a session that stays idle in a transaction is ended after the limit",
            |lab| Box::pin(idle_in_transaction(lab)),
        ),
        CertifyCheck::new("limits.cancel", "another session can cancel a statement", |lab| {
            Box::pin(cancel(lab))
        }),
    ]
}

async fn lock_timeout<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let Some(limit) = DB::CERTIFICATION.short_lock_timeout else {
        return not_offered("the database has no such limit");
    };
    let table = lab.table().await?;
    let (mut holder, mut other) = (lab.session().await?, lab.session().await?);
    let write = format!("UPDATE {table} SET value = 12 WHERE id = 1");
    holder.begin(lab.strongest()).await?;
    holder.run(&write).await?;
    other.begin(lab.weakest()).await?;
    other.run(limit).await?;
    let start = Instant::now();
    let answer = other.ask(&write).await?;
    let is_in_time = start.elapsed() < SLACK;
    match answer.failure {
        Some(failure)
            if is_in_time && matches!(failure.kind(), FailureKind::LockTimeout | FailureKind::Busy) =>
        {
            held(format!("after {limit}, a statement that waits fails: {failure}"))
        }
        Some(failure) => not_held(format!("after {limit}, a statement that waits fails later: {failure}")),
        None => not_held(format!("after {limit}, a locked row was written")),
    }
}

async fn statement_timeout<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let (Some(limit), Some(long)) =
        (DB::CERTIFICATION.short_statement_timeout, DB::CERTIFICATION.long_statement)
    else {
        return not_offered("the database has no such limit");
    };
    let mut session = lab.session().await?;
    session.begin(lab.strongest()).await?;
    session.run(limit).await?;
    session.start(long)?;
    match answer_in_time(&mut session, lab).await? {
        Some(Some(failure)) if failure.kind() == FailureKind::StatementTimeout => {
            held(format!("after {limit}, a statement that runs for long fails: {failure}"))
        }
        Some(Some(failure)) => {
            not_held(format!("after {limit}, a long statement fails otherwise: {failure}"))
        }
        Some(None) => not_held(format!("after {limit}, a long statement succeeds")),
        None => not_held(format!("after {limit}, a long statement still ran after {SLACK:?}")),
    }
}

/// The failure, if any, of the statement that was started; `None` if it still runs.
async fn answer_in_time<DB: Backend>(
    session: &mut LabSession<DB>,
    lab: &Lab<DB>,
) -> Result<Option<Option<crate::Failure>>, CheckObstacle> {
    let start = Instant::now();
    while start.elapsed() < SLACK {
        if let Some(answer) = session.poll(lab.watch(), SLACK).await? {
            return Ok(Some(answer.failure));
        }
    }
    Ok(None)
}

async fn idle_in_transaction<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let Some((limit, idle)) = DB::CERTIFICATION.short_idle_timeout else {
        return not_offered("the database has no such limit");
    };
    let table = lab.table().await?;
    // A server that was suspended meanwhile may find the next statement before it notices the pause.
    for idle in [idle, 3 * idle] {
        let mut session = lab.session().await?;
        session.begin(lab.strongest()).await?;
        session.run(limit).await?;
        session.run(&format!("UPDATE {table} SET value = 11 WHERE id = 1")).await?;
        sleep(idle).await;
        let answer = session.ask(&format!("SELECT value FROM {table} WHERE id = 1")).await?;
        if let Some(failure) = answer.failure {
            return held(format!("after {limit} and {idle:?}, the session has ended: {failure}"));
        }
        session.run("ROLLBACK").await?;
    }
    not_held(format!("after {limit} and {:?}, the transaction still goes on", 3 * idle))
}

async fn cancel<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let (Some(cancel), Some(long)) = (DB::CERTIFICATION.cancel, DB::CERTIFICATION.long_statement) else {
        return not_offered("there is no server that could be asked");
    };
    let (mut session, mut other) = (lab.session().await?, lab.session().await?);
    session.begin(lab.strongest()).await?;
    let Some(id) = session.id() else { return not_offered("the server does not tell a session's id") };
    session.start(long)?;
    // The request may arrive before the statement has begun.
    let start = Instant::now();
    while start.elapsed() < SLACK {
        other.run(&cancel.replace("{}", &id.to_string())).await?;
        if let Some(answer) = session.poll(lab.watch(), Duration::from_millis(200)).await? {
            return match answer.failure {
                Some(failure) => held(format!("the statement of another session fails: {failure}")),
                None => not_held("the statement of another session succeeds"),
            };
        }
    }
    not_held(format!("the statement of another session still ran after {SLACK:?}"))
}
