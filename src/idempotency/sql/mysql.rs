//! Keys in MySQL and MariaDB.

use super::{Claiming, KeySql, KeyWrite, hex};
use crate::idempotency::claimant::{ClaimTerms, Claimant};
use crate::idempotency::key::IdempotencyKey;

/// The times are UTC whatever the time zone of the session.
pub(super) const SQL: KeySql = KeySql {
    store_response: "UPDATE atomically_key SET response = ? WHERE digest = ? AND run = ?",
    release: "DELETE FROM atomically_key WHERE digest = ?",
    // InnoDB waits for a row that is being changed, and then evaluates the condition again.
    purge: "DELETE FROM atomically_key WHERE expires_at <= UTC_TIMESTAMP() ORDER BY expires_at LIMIT 1000",
    select,
    write,
    claiming: Claiming::OneByOne,
};

fn select(key: &IdempotencyKey) -> String {
    format!(
        "SELECT fingerprint, run, response, TIMESTAMPDIFF(SECOND, created_at, UTC_TIMESTAMP()), \
         TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), expires_at) FROM atomically_key WHERE digest = x'{}'",
        hex(&key.digest)
    )
}

/// `IGNORE` skips an existing key. There is nothing else to ignore, because the values fit their columns.
fn write(claimant: &Claimant, write: &KeyWrite) -> String {
    let Claimant { terms: ClaimTerms { key, .. }, run } = claimant;
    let (digest, fingerprint, run) = (hex(&key.digest), hex(&key.fingerprint), hex(run));
    let expires_at = format!("UTC_TIMESTAMP() + INTERVAL {} SECOND", claimant.terms.life());
    match write {
        KeyWrite::Insert => format!(
            "INSERT IGNORE INTO atomically_key (digest, fingerprint, run, created_at, expires_at) \
             VALUES (x'{digest}', x'{fingerprint}', x'{run}', UTC_TIMESTAMP(), {expires_at})"
        ),
        KeyWrite::TakeOver(expired) => format!(
            "UPDATE atomically_key SET fingerprint = x'{fingerprint}', run = x'{run}', response = NULL, \
             created_at = UTC_TIMESTAMP(), expires_at = {expires_at} \
             WHERE digest = x'{digest}' AND run = x'{}'",
            hex(expired)
        ),
    }
}

const LOCK_WAIT: &str = "innodb_lock_wait_timeout";

/// MariaDB: limits the wait of one statement.
pub(super) fn with_lock_wait(seconds: u64, statement: &str) -> String {
    format!("SET STATEMENT {LOCK_WAIT} = {seconds} FOR {statement}")
}

/// Limits the waits of the session.
pub(super) fn set_lock_wait(seconds: u64) -> String {
    format!("SET {LOCK_WAIT} = {seconds}")
}
