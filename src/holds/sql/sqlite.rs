//! Holds in SQLite.

use super::HoldSql;

pub(super) const SQL: HoldSql = HoldSql {
    now: "(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)",
    clock: "(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)",
    // There is one writer at a time, and it began before it read.
    lock: "",
    lock_free: "",
};
