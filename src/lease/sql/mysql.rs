//! Leases in MySQL and MariaDB.

use super::LeaseSql;

pub(super) const SQL: LeaseSql = LeaseSql {
    now: "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    has_coarse_local_clock: false,
    insert_missing: ("INSERT IGNORE", ""),
    replace_expiry: "ON DUPLICATE KEY UPDATE token = VALUES(token), until = VALUES(until)",
    share_lock: " LOCK IN SHARE MODE",
};
