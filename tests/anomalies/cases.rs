//! The scripts of [Hermitage](https://github.com/ept/hermitage). Their steps are ordered so that the results
//! alone show whether the anomaly happened, no matter which session had to wait.

use crate::engines::Rows;
use crate::script::{Case, Seen};

const T1: usize = 0;
const T2: usize = 1;
const T3: usize = 2;

const ROW_1: &str = "SELECT id, value FROM test WHERE id = 1";
const ROW_2: &str = "SELECT id, value FROM test WHERE id = 2";
const ALL: &str = "SELECT id, value FROM test";
const THIRDS: &str = "SELECT id, value FROM test WHERE value % 3 = 0";
const COMMIT: &str = "COMMIT";

/// In the order of the guide.
pub(crate) const CASES: [Case; 14] = [
    Case {
        name: "dirty write (G0)",
        steps: &[
            (T1, "UPDATE test SET value = 11 WHERE id = 1"),
            (T2, "UPDATE test SET value = 12 WHERE id = 1"),
            (T2, "UPDATE test SET value = 22 WHERE id = 2"),
            (T1, "UPDATE test SET value = 21 WHERE id = 2"),
            (T1, COMMIT),
            (T2, COMMIT),
        ],
        happened: |seen| matches!(both(&seen.after), (Some(12), Some(21)) | (Some(11), Some(22))),
    },
    Case {
        name: "dirty read, of what is rolled back (G1a)",
        steps: &[
            (T1, "UPDATE test SET value = 101 WHERE id = 1"),
            (T2, ROW_1),
            (T1, "ROLLBACK"),
            (T2, ROW_1),
            (T2, COMMIT),
        ],
        happened: |seen| seen.by[T2].iter().any(|rows| value(rows, 1) == Some(101)),
    },
    Case {
        name: "dirty read, of what is overwritten (G1b)",
        steps: &[
            (T1, "UPDATE test SET value = 101 WHERE id = 1"),
            (T2, ROW_1),
            (T1, "UPDATE test SET value = 11 WHERE id = 1"),
            (T1, COMMIT),
            (T2, ROW_1),
            (T2, COMMIT),
        ],
        happened: |seen| seen.by[T2].iter().any(|rows| value(rows, 1) == Some(101)),
    },
    Case {
        name: "circular information flow (G1c)",
        steps: &[
            (T1, "UPDATE test SET value = 11 WHERE id = 1"),
            (T2, "UPDATE test SET value = 22 WHERE id = 2"),
            (T1, ROW_2),
            (T2, ROW_1),
            (T1, COMMIT),
            (T2, COMMIT),
        ],
        happened: |seen| first(seen, T1, 2) == Some(22) && first(seen, T2, 1) == Some(11),
    },
    Case {
        name: "observed transaction vanishes (OTV)",
        steps: &[
            (T1, "UPDATE test SET value = 11 WHERE id = 1"),
            (T1, "UPDATE test SET value = 12 WHERE id = 2"),
            (T2, "UPDATE test SET value = 21 WHERE id = 1"),
            (T1, COMMIT),
            (T3, ALL),
            (T2, "UPDATE test SET value = 22 WHERE id = 2"),
            (T3, ALL),
            (T2, COMMIT),
            (T3, ALL),
            (T3, COMMIT),
        ],
        // T3 sees the write of T2 in one row, and afterwards the write of T1 in the other.
        happened: |seen| seen.by[T3].iter().any(|rows| both(rows) == (Some(21), Some(12))),
    },
    Case {
        name: "non-repeatable read",
        steps: &[
            (T1, ROW_1),
            (T2, "UPDATE test SET value = 11 WHERE id = 1"),
            (T2, COMMIT),
            (T1, ROW_1),
            (T1, COMMIT),
        ],
        happened: |seen| seen.by[T1][0] != seen.by[T1][1],
    },
    Case {
        name: "phantom (PMP)",
        steps: &[
            (T1, "SELECT id, value FROM test WHERE value = 30"),
            (T2, "INSERT INTO test VALUES (3, 30)"),
            (T2, COMMIT),
            (T1, THIRDS),
            (T1, COMMIT),
        ],
        happened: |seen| seen.by[T1][0].is_empty() && value(&seen.by[T1][1], 3).is_some(),
    },
    Case {
        name: "phantom, for a write (PMP)",
        steps: &[
            (T2, "SELECT id, value FROM test WHERE value = 20"),
            (T1, "UPDATE test SET value = value + 10"),
            (T2, "DELETE FROM test WHERE value = 20"),
            (T1, COMMIT),
            (T2, COMMIT),
        ],
        // T2 deletes the row that it has read, unless its DELETE uses another snapshot than its SELECT.
        happened: |seen| seen.by[T2][0].iter().any(|row| value(&seen.after, row[0]).is_some()),
    },
    Case {
        name: "lost update (P4)",
        steps: &[
            (T1, ROW_1),
            (T2, ROW_1),
            (T1, "UPDATE test SET value = 11 WHERE id = 1"),
            (T2, "UPDATE test SET value = 11 WHERE id = 1"),
            (T1, COMMIT),
            (T2, COMMIT),
        ],
        happened: |seen| first(seen, T1, 1) == Some(10) && first(seen, T2, 1) == Some(10),
    },
    Case {
        name: "read skew (G-single)",
        steps: &[
            (T1, ROW_1),
            (T2, "UPDATE test SET value = 12 WHERE id = 1"),
            (T2, "UPDATE test SET value = 18 WHERE id = 2"),
            (T2, COMMIT),
            (T1, ROW_2),
            (T1, COMMIT),
        ],
        happened: |seen| first(seen, T1, 1) == Some(10) && value(&seen.by[T1][1], 2) == Some(18),
    },
    Case {
        name: "read skew, for a write (G-single)",
        steps: &[
            (T1, ROW_1),
            (T2, "UPDATE test SET value = 12 WHERE id = 1"),
            (T2, "UPDATE test SET value = 18 WHERE id = 2"),
            (T2, COMMIT),
            (T1, "DELETE FROM test WHERE value = 20"),
            (T1, COMMIT),
        ],
        // T1 has read the first row as it was before T2, and its DELETE searches for the second as it is
        // after T2.
        happened: |seen| first(seen, T1, 1) == Some(10) && value(&seen.after, 2).is_some(),
    },
    Case {
        name: "write skew on rows (G2-item)",
        steps: &[
            (T1, ALL),
            (T2, ALL),
            (T1, "UPDATE test SET value = 11 WHERE id = 1"),
            (T2, "UPDATE test SET value = 21 WHERE id = 2"),
            (T1, COMMIT),
            (T2, COMMIT),
        ],
        happened: |seen| [T1, T2].iter().all(|session| both(&seen.by[*session][0]) == (Some(10), Some(20))),
    },
    Case {
        name: "write skew on a condition (G2)",
        steps: &[
            (T1, THIRDS),
            (T2, THIRDS),
            (T1, "INSERT INTO test VALUES (3, 30)"),
            (T2, "INSERT INTO test VALUES (4, 42)"),
            (T1, COMMIT),
            (T2, COMMIT),
        ],
        happened: |seen| [T1, T2].iter().all(|session| seen.by[*session][0].is_empty()),
    },
    Case {
        name: "write skew, seen by a reader (G2)",
        steps: &[
            (T1, ALL),
            (T2, "UPDATE test SET value = value + 5 WHERE id = 2"),
            (T2, COMMIT),
            (T3, ALL),
            (T3, COMMIT),
            (T1, "UPDATE test SET value = 0 WHERE id = 1"),
            (T1, COMMIT),
        ],
        // For T3, T2 comes before T1; for T1, which has not seen the write of T2, T2 comes after.
        happened: |seen| {
            both(&seen.by[T1][0]) == (Some(10), Some(20)) && both(&seen.by[T3][0]) == (Some(10), Some(25))
        },
    },
];

fn value(rows: &Rows, id: i64) -> Option<i64> {
    rows.iter().find(|row| row[0] == id).map(|row| row[1])
}

fn both(rows: &Rows) -> (Option<i64>, Option<i64>) {
    (value(rows, 1), value(rows, 2))
}

/// The value of this row in the first result of this session.
fn first(seen: &Seen, session: usize, id: i64) -> Option<i64> {
    seen.by[session].first().and_then(|rows| value(rows, id))
}
