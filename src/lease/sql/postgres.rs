//! Leases in PostgreSQL.

use super::LeaseSql;

pub(super) const SQL: LeaseSql = LeaseSql {
    now: "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint",
    has_coarse_local_clock: false,
    insert_missing: ("INSERT", " ON CONFLICT DO NOTHING"),
    replace_expiry: "ON CONFLICT (name) DO UPDATE SET token = excluded.token, until = excluded.until",
    share_lock: " FOR SHARE",
};
