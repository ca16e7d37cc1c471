//! Isolation levels, by the anomalies that they prevent.

use super::{CertifyCheck, CheckResult, held, not_held};
use crate::backend::{Backend, CertifiedLevel};
use crate::testing::certify::lab::Lab;
use crate::testing::certify::script::{AnomalyScript, ScriptResult, T1, T2, play};

const ROW_1: &str = "SELECT 1000 * id + value FROM {} WHERE id = 1";
const ROW_2: &str = "SELECT 1000 * id + value FROM {} WHERE id = 2";
const ALL: &str = "SELECT 1000 * id + value FROM {} ORDER BY id";
const COMMIT: &str = "COMMIT";

static SCRIPTS: [AnomalyScript; 6] = [
    AnomalyScript {
        id: "dirty-read",
        promise: "a transaction does not read what another one rolls back",
        steps: &[
            (T1, "UPDATE {} SET value = 101 WHERE id = 1"),
            (T2, ROW_1),
            (T1, "ROLLBACK"),
            (T2, ROW_1),
            (T2, COMMIT),
        ],
        happened: |seen| seen.reads[T2].iter().any(|rows| rows.contains(&1101)),
    },
    AnomalyScript {
        id: "non-repeatable-read",
        promise: "a transaction that reads a row twice reads the same",
        steps: &[
            (T1, ROW_1),
            (T2, "UPDATE {} SET value = 11 WHERE id = 1"),
            (T2, COMMIT),
            (T1, ROW_1),
            (T1, COMMIT),
        ],
        happened: |seen| seen.reads[T1].first() != seen.reads[T1].get(1),
    },
    AnomalyScript {
        id: "phantom",
        promise: "a transaction that repeats a query does not find new rows",
        steps: &[
            (T1, "SELECT 1000 * id + value FROM {} WHERE value = 30"),
            (T2, "INSERT INTO {} VALUES (3, 30)"),
            (T2, COMMIT),
            (T1, "SELECT 1000 * id + value FROM {} WHERE value > 25"),
            (T1, COMMIT),
        ],
        happened: |seen| rows(seen, T1, 1).contains(&3030),
    },
    LOST_UPDATE,
    AnomalyScript {
        id: "read-skew",
        promise: "a transaction sees all or nothing of another one",
        steps: &[
            (T1, ROW_1),
            (T2, "UPDATE {} SET value = 12 WHERE id = 1"),
            (T2, "UPDATE {} SET value = 18 WHERE id = 2"),
            (T2, COMMIT),
            (T1, ROW_2),
            (T1, COMMIT),
        ],
        happened: |seen| rows(seen, T1, 0) == [1010] && rows(seen, T1, 1) == [2018],
    },
    WRITE_SKEW,
];

/// Two transactions read a row, and both write it.
pub(super) const LOST_UPDATE: AnomalyScript = AnomalyScript {
    id: "lost-update",
    promise: "a transaction does not overwrite a value that it has not read",
    steps: &[
        (T1, ROW_1),
        (T2, ROW_1),
        (T1, "UPDATE {} SET value = 11 WHERE id = 1"),
        (T2, "UPDATE {} SET value = 12 WHERE id = 1"),
        (T1, COMMIT),
        (T2, COMMIT),
    ],
    happened: |seen| rows(seen, T1, 0) == [1010] && rows(seen, T2, 0) == [1010],
};

/// Two transactions read both rows, and each writes one of them.
pub(super) const WRITE_SKEW: AnomalyScript = AnomalyScript {
    id: "write-skew",
    promise: "two transactions do not both commit if each has read what the other one then wrote",
    steps: &[
        (T1, ALL),
        (T2, ALL),
        (T1, "UPDATE {} SET value = 11 WHERE id = 1"),
        (T2, "UPDATE {} SET value = 21 WHERE id = 2"),
        (T1, COMMIT),
        (T2, COMMIT),
    ],
    happened: |seen| [T1, T2].iter().all(|player| rows(seen, *player, 0) == [1010, 2020]),
};

/// The rows of a transaction's query, by its number.
fn rows(seen: &ScriptResult, player: usize, query: usize) -> &[i64] {
    seen.reads[player].get(query).map_or(&[], Vec::as_slice)
}

pub(super) fn checks<DB: Backend>() -> Vec<CertifyCheck<DB>> {
    let scripts_at = |level: &'static CertifiedLevel| {
        SCRIPTS.iter().map(move |script| {
            let id = format!("isolation.{}.{}", level.id, script.id);
            CertifyCheck::new(id, script.promise, move |lab| Box::pin(check(lab, script, level, [0, 0])))
        })
    };
    DB::CERTIFICATION.levels.iter().flat_map(scripts_at).collect()
}

/// Plays a script, and says what happened.
pub(super) async fn check<DB: Backend>(
    lab: &Lab<DB>,
    script: &'static AnomalyScript,
    level: &'static CertifiedLevel,
    nodes: [usize; 2],
) -> CheckResult {
    let seen = play(lab, script, level, nodes).await?;
    let waited = if seen.waited { ", after a wait" } else { "" };
    match &seen.failure {
        Some(failure) => held(format!("a transaction failed{waited}: {failure}")),
        None if (script.happened)(&seen) => {
            let [first, second] = &seen.reads;
            not_held(format!("both committed{waited}; T1 read {first:?}, T2 read {second:?}"))
        }
        None => held(format!("no transaction failed{waited}, and it did not happen")),
    }
}
