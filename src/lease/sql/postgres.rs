//! Leases in PostgreSQL.

use super::LeaseSql;

pub(super) const SQL: LeaseSql = LeaseSql {
    schema: "CREATE TABLE IF NOT EXISTS atomically_lease (
    name TEXT COLLATE \"C\" PRIMARY KEY,
    token BIGINT NOT NULL,
    pins BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS atomically_lease_expiry (
    name TEXT COLLATE \"C\" PRIMARY KEY,
    token BIGINT NOT NULL,
    until BIGINT NOT NULL
) WITH (fillfactor = 50);
",
    now: "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint",
    insert_missing: ("INSERT", " ON CONFLICT DO NOTHING"),
    replace_expiry: "ON CONFLICT (name) DO UPDATE SET token = excluded.token, until = excluded.until",
    share_lock: " FOR SHARE",
};
