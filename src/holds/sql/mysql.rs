//! Holds in MySQL and MariaDB.

use super::HoldSql;

pub(super) const SQL: HoldSql = HoldSql {
    now: "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    // SYSDATE is the time of its call, in the time zone of the session, and NOW that of the statement.
    clock: "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) \
            + TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6))",
    lock: " FOR UPDATE",
    lock_free: " FOR UPDATE SKIP LOCKED",
};
