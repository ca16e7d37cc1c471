//! Savepoints, unique keys and DDL.

use super::{CertifyCheck, CheckResult, held, not_held};
use crate::backend::Backend;
use crate::testing::certify::lab::Lab;

pub(super) fn checks<DB: Backend>() -> Vec<CertifyCheck<DB>> {
    vec![
        CertifyCheck::new(
            "savepoints.undo",
            "rolling back to a savepoint undoes what came after it, only",
            |lab| Box::pin(undo(lab)),
        ),
        CertifyCheck::new(
            "savepoints.after-error",
            "a transaction continues after rolling back to a savepoint that precedes an error",
            |lab| Box::pin(after_error(lab)),
        ),
        CertifyCheck::new(
            "unique-key.fence",
            "an INSERT waits for the transaction that has inserted the same key, and then fails",
            |lab| Box::pin(fence(lab)),
        ),
        CertifyCheck::new("unique-key.released", "a key is free again after a rollback", |lab| {
            Box::pin(released(lab))
        }),
        CertifyCheck::new("ddl.transactional", "CREATE TABLE is rolled back with its transaction", |lab| {
            Box::pin(transactional_ddl(lab))
        }),
        CertifyCheck::new("ddl.no-implicit-commit", "CREATE TABLE does not commit what precedes it", |lab| {
            Box::pin(no_implicit_commit(lab))
        }),
    ]
}

async fn undo<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.table().await?;
    let mut session = lab.session().await?;
    session.begin(lab.strongest()).await?;
    session.run(&format!("UPDATE {table} SET value = 11 WHERE id = 1")).await?;
    session.run("SAVEPOINT certify").await?;
    session.run(&format!("UPDATE {table} SET value = 21 WHERE id = 2")).await?;
    session.run("ROLLBACK TO SAVEPOINT certify").await?;
    session.run("COMMIT").await?;
    let values = session.run(&format!("SELECT value FROM {table} ORDER BY id")).await?.integers;
    let evidence =
        format!("one row was written before a savepoint, the other after it; stored is {values:?}");
    if values == [11, 20] { held(evidence) } else { not_held(evidence) }
}

async fn after_error<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.table().await?;
    let mut session = lab.session().await?;
    session.begin(lab.strongest()).await?;
    session.run(&format!("UPDATE {table} SET value = 11 WHERE id = 1")).await?;
    session.run("SAVEPOINT certify").await?;
    let refused = session.ask(&format!("INSERT INTO {table} VALUES (2, 0)")).await?;
    session.run("ROLLBACK TO SAVEPOINT certify").await?;
    session.run(&format!("UPDATE {table} SET value = 21 WHERE id = 2")).await?;
    session.run("COMMIT").await?;
    let values = session.run(&format!("SELECT value FROM {table} ORDER BY id")).await?.integers;
    let evidence = format!("after an error and ROLLBACK TO, stored is {values:?}");
    let is_right = refused.failure.is_some() && values == [11, 21];
    if is_right { held(evidence) } else { not_held(evidence) }
}

/// At the weakest level: a stronger one might fail for another reason.
async fn fence<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.table().await?;
    let (mut first, mut second) = (lab.session().await?, lab.session().await?);
    let insert = format!("INSERT INTO {table} VALUES (7, 70)");
    first.begin(lab.weakest()).await?;
    first.run(&insert).await?;
    second.begin(lab.weakest()).await?;
    if second.attempt(&insert, lab.watch()).await?.is_some() {
        return not_held("two open transactions have inserted the same key");
    }
    first.run("COMMIT").await?;
    match second.granted(lab.watch()).await?.failure {
        Some(failure) => held(format!("the second INSERT waits for the first COMMIT and fails: {failure}")),
        None => not_held("the second INSERT waits for the first COMMIT, and succeeds"),
    }
}

async fn released<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.table().await?;
    let (mut first, mut second) = (lab.session().await?, lab.session().await?);
    let insert = format!("INSERT INTO {table} VALUES (7, 70)");
    first.begin(lab.strongest()).await?;
    first.run(&insert).await?;
    first.run("ROLLBACK").await?;
    second.begin(lab.strongest()).await?;
    let answer = second.ask(&insert).await?;
    match answer.failure {
        None => held("after the first ROLLBACK, the same key was inserted again"),
        Some(failure) => not_held(format!("after the first ROLLBACK, the same key was refused: {failure}")),
    }
}

async fn transactional_ddl<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.new_name();
    let mut session = lab.session().await?;
    session.begin(lab.strongest()).await?;
    session.run(&format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY)")).await?;
    session.run("ROLLBACK").await?;
    let answer = session.ask(&format!("SELECT COUNT(*) FROM {table}")).await?;
    match answer.failure {
        Some(_) => held("after CREATE TABLE and ROLLBACK, the table does not exist"),
        None => not_held("after CREATE TABLE and ROLLBACK, the table exists"),
    }
}

async fn no_implicit_commit<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let (table, other) = (lab.table().await?, lab.new_name());
    let mut session = lab.session().await?;
    session.begin(lab.strongest()).await?;
    session.run(&format!("UPDATE {table} SET value = 11 WHERE id = 1")).await?;
    session.run(&format!("CREATE TABLE {other} (id BIGINT PRIMARY KEY)")).await?;
    session.run("ROLLBACK").await?;
    let value = session.run(&format!("SELECT value FROM {table} WHERE id = 1")).await?.integer();
    match value {
        Some(10) => held("after UPDATE, CREATE TABLE and ROLLBACK, the UPDATE is undone"),
        _ => not_held("after UPDATE, CREATE TABLE and ROLLBACK, the UPDATE is stored"),
    }
}
