//! What belongs to a session: prepared statements, settings and notifications. Poolers share server
//! connections between clients, and keep these promises only in part.

use super::{CertifyCheck, CheckResult, held, not_held, not_offered};
use crate::backend::{Backend, failure_or_other};
use crate::testing::certify::lab::Lab;

/// How many clients take turns.
const CLIENTS: i64 = 4;
const ROUNDS: i64 = 5;

pub(super) fn checks<DB: Backend>() -> Vec<CertifyCheck<DB>> {
    vec![
        CertifyCheck::new(
            "sessions.prepared-statements",
            "statements that the driver keeps prepared stay those of their connection",
            |lab| Box::pin(prepared(lab)),
        ),
        CertifyCheck::new("sessions.state-stays", "a setting stays with the session that made it", |lab| {
            Box::pin(state_stays(lab))
        }),
        CertifyCheck::new("sessions.no-leaks", "a setting of one session is not seen by another", |lab| {
            Box::pin(no_leaks(lab))
        }),
        CertifyCheck::new("sessions.notifications", "NOTIFY reaches a session that listens", |lab| {
            Box::pin(notifications(lab))
        }),
    ]
}

/// Each client prepares different statements, which the driver gives the same names on each connection.
async fn prepared<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let table = lab.table().await?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(lab.session().await?);
    }
    let parameter = DB::CERTIFICATION.parameter;
    for round in 0..ROUNDS {
        for (number, client) in (1..).zip(&mut clients) {
            let sql = format!("SELECT {number} * value FROM {table} WHERE id = {parameter}");
            let answer = client.prepared(&sql, 1 + round % 2).await?;
            let expected = number * (10 + 10 * (round % 2));
            match answer.failure {
                Some(failure) => {
                    return not_held(format!(
                        "{CLIENTS} clients take turns, and a statement fails: {failure}"
                    ));
                }
                None if answer.integers != [expected] => {
                    let got = answer.integers;
                    return not_held(format!(
                        "{CLIENTS} clients take turns, and one gets {got:?}, not {expected}"
                    ));
                }
                None => {}
            }
        }
    }
    held(format!("{CLIENTS} clients with a statement of their own took turns {ROUNDS} times"))
}

async fn state_stays<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let [set, read, clear] = DB::CERTIFICATION.session_mark;
    let (mut session, mut other) = (lab.session().await?, lab.session().await?);
    session.run(set).await?;
    // A pooler gives the server connection that the first client has used to the second one meanwhile.
    other.run(lab.weakest().opening).await?;
    let is_marked = session.run(read).await?.integer() == Some(1);
    other.run("ROLLBACK").await?;
    for client in [&mut session, &mut other] {
        client.run(clear).await?;
    }
    if is_marked {
        held("a setting was still there in a later statement")
    } else {
        not_held("a setting was gone in a later statement")
    }
}

async fn no_leaks<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let [set, read, clear] = DB::CERTIFICATION.session_mark;
    let (mut session, mut other) = (lab.session().await?, lab.session().await?);
    session.run(set).await?;
    let leaks = other.run(read).await?.integer() == Some(1);
    for client in [&mut session, &mut other] {
        client.run(clear).await?;
    }
    if leaks {
        not_held("a setting of one session is in force in another")
    } else {
        held("a setting of one session is not in force in another")
    }
}

async fn notifications<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    let channel = format!("atomically_certify_{:08x}", rand::random::<u32>());
    let Some(arrives) = DB::notification_arrives(lab.pool(), channel) else {
        return not_offered("the database has no notifications");
    };
    match arrives.await {
        Ok(true) => held("a notification arrived"),
        Ok(false) => not_held("no notification arrived within ten seconds"),
        Err(error) => {
            let failure = failure_or_other::<DB>(&error);
            match failure.code() {
                Some(code) if DB::is_unknown_to_the_server(code) => not_offered(failure.to_string()),
                _ => not_held(failure.to_string()),
            }
        }
    }
}
