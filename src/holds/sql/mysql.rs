//! Holds in MySQL and MariaDB.

use super::HoldSql;

pub(super) const SQL: HoldSql = HoldSql {
    now: "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    lock: " FOR UPDATE",
    lock_free: " FOR UPDATE SKIP LOCKED",
};
