//! Holds in PostgreSQL.

use super::HoldSql;

pub(super) const SQL: HoldSql = HoldSql {
    now: "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint",
    clock: "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint",
    lock: " FOR UPDATE",
    lock_free: " FOR UPDATE SKIP LOCKED",
};
