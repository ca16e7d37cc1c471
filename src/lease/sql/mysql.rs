//! Leases in MySQL and MariaDB.

use super::LeaseSql;

pub(super) const SQL: LeaseSql = LeaseSql {
    schema: "CREATE TABLE IF NOT EXISTS atomically_lease (
    name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,
    token BIGINT NOT NULL,
    pins BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB;
CREATE TABLE IF NOT EXISTS atomically_lease_expiry (
    name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,
    token BIGINT NOT NULL,
    until BIGINT NOT NULL
) ENGINE = InnoDB;
",
    now: "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    insert_missing: ("INSERT IGNORE", ""),
    replace_expiry: "ON DUPLICATE KEY UPDATE token = VALUES(token), until = VALUES(until)",
    share_lock: " LOCK IN SHARE MODE",
};
