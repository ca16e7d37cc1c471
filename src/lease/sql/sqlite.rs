//! Leases in SQLite.

use super::LeaseSql;

pub(super) const SQL: LeaseSql = LeaseSql {
    now: "(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)",
    has_coarse_local_clock: true,
    insert_missing: ("INSERT", " ON CONFLICT DO NOTHING"),
    replace_expiry: "ON CONFLICT (name) DO UPDATE SET token = excluded.token, until = excluded.until",
    // A transaction whose snapshot is older than a change of the row cannot write, and there is one writer
    // at a time.
    share_lock: "",
};
