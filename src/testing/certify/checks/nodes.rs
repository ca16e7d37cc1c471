//! What holds between the nodes of one cluster: each check uses the first node and each other one.

use super::isolation::{self, LOST_UPDATE, WRITE_SKEW};
use super::{CertifyCheck, CheckResult, SAME_DATA, held, locks, not_held, not_offered};
use crate::backend::Backend;
use crate::testing::certify::lab::Lab;
use crate::testing::certify::obstacle::CheckObstacle;
use crate::testing::certify::sheet::Standing;
use futures_core::future::BoxFuture;

/// How often a write on one node is read on another one.
const ROUNDS: i64 = 1_000;

/// How much the clocks may differ, in milliseconds: leases that are taken over by the server's clock are
/// longer.
const MAX_SKEW: i64 = 1_000;

/// Two nodes: the first one, and another one.
type Pair = [usize; 2];

pub(super) fn checks<DB: Backend>() -> Vec<CertifyCheck<DB>> {
    vec![
        CertifyCheck::new(SAME_DATA, "what commits on one node is seen on the others", |lab| {
            Box::pin(same_data(lab))
        }),
        CertifyCheck::new("nodes.reads", "a commit is seen by the next query on any node", |lab| {
            each(lab, |lab, pair| Box::pin(reads(lab, pair)))
        }),
        CertifyCheck::new("nodes.row-locks", "FOR UPDATE makes a FOR UPDATE on another node wait", |lab| {
            each(lab, |lab, pair| Box::pin(locks::update(lab, pair)))
        }),
        CertifyCheck::new(
            "nodes.skip-locked",
            "SKIP LOCKED skips the rows that are locked on another node",
            |lab| each(lab, |lab, pair| Box::pin(locks::skip_locked(lab, pair))),
        ),
        CertifyCheck::new("nodes.advisory-locks", "an advisory lock is refused on another node", |lab| {
            each(lab, |lab, pair| Box::pin(locks::advisory(lab, pair)))
        }),
        CertifyCheck::new("nodes.unique-key", "of two transactions with the same key, one commits", |lab| {
            each(lab, |lab, pair| Box::pin(unique_key(lab, pair)))
        }),
        CertifyCheck::new("nodes.lost-update", LOST_UPDATE.promise, |lab| {
            each(lab, |lab, pair| Box::pin(isolation::check(lab, &LOST_UPDATE, lab.strongest(), pair)))
        }),
        CertifyCheck::new("nodes.write-skew", WRITE_SKEW.promise, |lab| {
            each(lab, |lab, pair| Box::pin(write_skew(lab, pair)))
        }),
        CertifyCheck::new(
            "nodes.guard-row",
            "of two transactions that change a guard row, one commits",
            |lab| each(lab, |lab, pair| Box::pin(guard_row(lab, pair))),
        ),
        CertifyCheck::new(
            "nodes.clock-skew",
            "the clocks of the nodes differ by less than a second",
            |lab| each(lab, |lab, pair| Box::pin(clock_skew(lab, pair))),
        ),
    ]
}

/// Checks each other node together with the first one. Stops at the first one that does not keep the promise.
fn each<'a, DB: Backend>(
    lab: &'a Lab<DB>,
    check: impl Fn(&'a Lab<DB>, Pair) -> BoxFuture<'a, CheckResult> + Send + Sync + 'a,
) -> BoxFuture<'a, CheckResult> {
    Box::pin(async move {
        let mut last = not_offered("there is no other node");
        for node in 1..lab.nodes() {
            let (standing, evidence) = check(lab, [0, node]).await?;
            last = Ok((standing, format!("nodes 1 and {}: {evidence}", node + 1)));
            lab.leave().await;
            if standing != Standing::Held {
                break;
            }
        }
        last
    })
}

async fn same_data<DB: Backend>(lab: &Lab<DB>) -> CheckResult {
    match lab.shared_table().await {
        Ok(_) => held("a new table and its rows appeared on all nodes"),
        Err(CheckObstacle::Failed(text) | CheckObstacle::Unknown(text)) => not_held(text),
    }
}

async fn reads<DB: Backend>(lab: &Lab<DB>, pair: Pair) -> CheckResult {
    let table = lab.shared_table().await?;
    let (mut writer, mut reader) = (lab.session_on(pair[0]).await?, lab.session_on(pair[1]).await?);
    for round in 1..=ROUNDS {
        writer.run(&format!("UPDATE {table} SET value = {round} WHERE id = 1")).await?;
        let read = reader.run(&format!("SELECT value FROM {table} WHERE id = 1")).await?.integer();
        if read != Some(round) {
            return not_held("a value was written on one, and the other one then read an older one");
        }
    }
    held(format!("{ROUNDS} writes on one were each read at once on the other"))
}

/// How often two transactions try to commit at the same time.
const SKEW_ROUNDS: u32 = 20;

/// The failures of two transactions, by their nodes.
type PairOfFailures = [Option<String>; 2];

/// Two transactions, each on its node, run their statements, and commit at the same time.
async fn both<DB: Backend>(
    lab: &Lab<DB>,
    pair: Pair,
    reads: &[String],
    writes: [String; 2],
) -> Result<PairOfFailures, CheckObstacle> {
    let (mut first, mut second) = (lab.session_on(pair[0]).await?, lab.session_on(pair[1]).await?);
    first.begin(lab.strongest()).await?;
    second.begin(lab.strongest()).await?;
    for read in reads {
        first.run(read).await?;
        second.run(read).await?;
    }
    let watches = [lab.watch_on(pair[0]), lab.watch_on(pair[1])];
    let (mut failures, mut are_open) = ([None, None], [true, true]);
    // A write that waits gets on when the other transaction ends, at the latest.
    let first_waits = match first.attempt(&writes[0], watches[0]).await? {
        Some(answer) => {
            failures[0] = answer.failure;
            false
        }
        None => true,
    };
    match second.attempt(&writes[1], watches[1]).await? {
        Some(answer) => failures[1] = answer.failure,
        None => {
            failures[0] = failures[0].take().or(first.ask("COMMIT").await?.failure);
            failures[1] = second.granted(watches[1]).await?.failure;
            are_open[0] = false;
        }
    }
    if first_waits {
        failures[1] = failures[1].take().or(second.ask("COMMIT").await?.failure);
        failures[0] = first.granted(watches[0]).await?.failure;
        are_open[1] = false;
    }
    let mut sessions = [first, second];
    for (session, _) in sessions.iter_mut().zip(are_open).filter(|(_, is_open)| *is_open) {
        session.start("COMMIT")?;
    }
    for node in (0..2).filter(|node| are_open[*node]) {
        let answer = sessions[node].granted(watches[node]).await?;
        failures[node] = failures[node].take().or(answer.failure);
    }
    Ok(failures.map(|failure| failure.map(|failure| failure.to_string())))
}

async fn write_skew<DB: Backend>(lab: &Lab<DB>, pair: Pair) -> CheckResult {
    let table = lab.shared_table().await?;
    let reads = [format!("SELECT value FROM {table} ORDER BY id")];
    let write = |id: u32| format!("UPDATE {table} SET value = value + 1 WHERE id = {id}");
    let mut last = [None, None];
    for round in 1..=SKEW_ROUNDS {
        last = both(lab, pair, &reads, [write(1), write(2)]).await?;
        if last == [None, None] {
            return not_held(format!("both commits were acknowledged, in round {round}"));
        }
    }
    let [first, second] = last;
    let failure = first.or(second).unwrap_or_default();
    held(format!("in each of {SKEW_ROUNDS} rounds, at least one failed: {failure}"))
}

fn one_commits(failures: PairOfFailures) -> CheckResult {
    match failures {
        [None, None] => not_held("both commits were acknowledged"),
        [Some(failure), None] | [None, Some(failure)] => held(format!("one failed: {failure}")),
        [Some(first), Some(second)] => not_held(format!("both failed: {first}; {second}")),
    }
}

async fn unique_key<DB: Backend>(lab: &Lab<DB>, pair: Pair) -> CheckResult {
    let table = lab.shared_table().await?;
    let insert = || format!("INSERT INTO {table} VALUES (7, 70)");
    one_commits(both(lab, pair, &[], [insert(), insert()]).await?)
}

async fn guard_row<DB: Backend>(lab: &Lab<DB>, pair: Pair) -> CheckResult {
    let table = lab.shared_table().await?;
    let change = || format!("UPDATE {table} SET value = value + 1 WHERE id = 1");
    let failures = both(lab, pair, &[], [change(), change()]).await?;
    match failures {
        // The second one has waited, and has changed what the first one left.
        [None, None] => {
            let mut reader = lab.session().await?;
            let value = reader.run(&format!("SELECT value FROM {table} WHERE id = 1")).await?.integer();
            match value {
                Some(12) => held("both committed, one after the other"),
                value => not_held(format!("both commits were acknowledged, and the guard is {value:?}")),
            }
        }
        failures => one_commits(failures),
    }
}

async fn clock_skew<DB: Backend>(lab: &Lab<DB>, pair: Pair) -> CheckResult {
    let Some(clock) = DB::CERTIFICATION.clock else { return not_offered("there is no server with a clock") };
    let (mut first, mut second) = (lab.session_on(pair[0]).await?, lab.session_on(pair[1]).await?);
    // The second reading lies between the two of the first node.
    let before = first.run(clock).await?.integer();
    let other = second.run(clock).await?.integer();
    let after = first.run(clock).await?.integer();
    let (Some(before), Some(other), Some(after)) = (before, other, after) else {
        return Err(CheckObstacle::Failed(String::from("a clock could not be read")));
    };
    let skew = (before - other).max(other - after).max(0);
    if skew < MAX_SKEW {
        held("the clock of one, read between two readings of the other, agrees with them")
    } else {
        not_held(format!("the clocks differ by at least {skew} ms"))
    }
}
