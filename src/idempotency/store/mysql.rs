use sqlx::MySql;

use super::{Facts, KeyStore, Write, hex, performed};
use crate::idempotency::claim::Claimant;
use crate::idempotency::key::IdempotencyKey;

impl KeyStore for MySql {}

impl Facts for MySql {
    /// The times are UTC whatever the time zone of the session.
    const CREATE_KEYS: &'static str = "CREATE TABLE IF NOT EXISTS atomically_key (
        digest BINARY(32) PRIMARY KEY,
        fingerprint BINARY(32) NOT NULL,
        run BINARY(16) NOT NULL,
        response LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
        created_at DATETIME NOT NULL,
        expires_at DATETIME NOT NULL,
        KEY atomically_key_expires_at (expires_at)
    ) ENGINE = InnoDB";

    const STORE_RESPONSE: &'static str =
        "UPDATE atomically_key SET response = ? WHERE digest = ? AND run = ?";

    const RELEASE: &'static str = "DELETE FROM atomically_key WHERE digest = ?";

    const PURGE: &'static str =
        "DELETE FROM atomically_key WHERE expires_at <= UTC_TIMESTAMP() ORDER BY expires_at LIMIT 1000";

    /// `IGNORE` leaves a key alone that is there, and has nothing else to ignore: the values fit their columns. Whether it
    /// wrote is told by the row, not by the number of rows. The row is read with a lock, because a snapshot may be
    /// older than it.
    fn claim(claimant: &Claimant, write: &Write) -> String {
        let Claimant { key, run, wait, .. } = claimant;
        let (digest, fingerprint, run) = (hex(&key.digest), hex(&key.fingerprint), hex(run));
        let expires_at = format!("UTC_TIMESTAMP() + INTERVAL {} SECOND", claimant.life());
        let write = match write {
            Write::Insert => format!(
                "INSERT IGNORE INTO atomically_key (digest, fingerprint, run, created_at, expires_at) \
                 VALUES (x'{digest}', x'{fingerprint}', x'{run}', UTC_TIMESTAMP(), {expires_at})"
            ),
            Write::TakeOver(expired) => format!(
                "UPDATE atomically_key SET fingerprint = x'{fingerprint}', run = x'{run}', response = NULL, \
                 created_at = UTC_TIMESTAMP(), expires_at = {expires_at} \
                 WHERE digest = x'{digest}' AND run = x'{}'",
                hex(expired)
            ),
        };
        let select = Self::select_key(key);
        let claim = format!("{write}; {select} LOCK IN SHARE MODE");
        let Some(wait) = wait else { return claim };
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        format!(
            "SET @atomically_key_wait = @@innodb_lock_wait_timeout, \
             innodb_lock_wait_timeout = LEAST(@@innodb_lock_wait_timeout, {seconds}); \
             {claim}; SET innodb_lock_wait_timeout = @atomically_key_wait"
        )
    }

    fn select_key(key: &IdempotencyKey) -> String {
        format!(
            "SELECT fingerprint, run, response, TIMESTAMPDIFF(SECOND, created_at, UTC_TIMESTAMP()), \
             TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), expires_at) FROM atomically_key WHERE digest = x'{}'",
            hex(&key.digest)
        )
    }

    performed!(true);
}
