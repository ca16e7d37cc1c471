//! Keys in PostgreSQL.

use super::{Claiming, KeySql, KeyWrite, hex};
use crate::idempotency::claimant::{ClaimTerms, Claimant};
use crate::idempotency::key::IdempotencyKey;

pub(super) const SQL: KeySql = KeySql {
    store_response: "UPDATE atomically_key SET response = $1 WHERE digest = $2 AND run = $3",
    release: "DELETE FROM atomically_key WHERE digest = $1",
    // A key may be taken over between the search and the deletion: the lock and the repeated condition
    // protect it.
    purge: "DELETE FROM atomically_key WHERE digest = ANY(ARRAY(SELECT digest FROM atomically_key \
         WHERE expires_at <= now() ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED)) \
         AND expires_at <= now()",
    select,
    write,
    claiming: Claiming::OneText(claim),
};

fn select(key: &IdempotencyKey) -> String {
    format!(
        "SELECT fingerprint, run, response, floor(extract(epoch FROM now() - created_at))::bigint, \
         ceil(extract(epoch FROM expires_at - now()))::bigint FROM atomically_key WHERE digest = '\\x{}'",
        hex(&key.digest)
    )
}

/// An existing key does not make the INSERT fail, which would abort the transaction. If the key was committed
/// after the snapshot of a transaction above READ COMMITTED, the INSERT is a serialization failure; so a row
/// that the SELECT does not see does not exist.
fn write(claimant: &Claimant, write: &KeyWrite) -> String {
    let Claimant { terms: ClaimTerms { key, .. }, run } = claimant;
    let (digest, fingerprint, run) = (hex(&key.digest), hex(&key.fingerprint), hex(run));
    let expires_at = format!("now() + interval '1 second' * {}", claimant.terms.life());
    match write {
        KeyWrite::Insert => format!(
            "INSERT INTO atomically_key (digest, fingerprint, run, created_at, expires_at) \
             VALUES ('\\x{digest}', '\\x{fingerprint}', '\\x{run}', now(), {expires_at}) \
             ON CONFLICT (digest) DO NOTHING"
        ),
        KeyWrite::TakeOver(expired) => format!(
            "UPDATE atomically_key SET fingerprint = '\\x{fingerprint}', run = '\\x{run}', response = NULL, \
             created_at = now(), expires_at = {expires_at} \
             WHERE digest = '\\x{digest}' AND run = '\\x{}'",
            hex(expired)
        ),
    }
}

/// `lock_timeout` is text with a unit; 0 means no limit.
fn claim(claimant: &Claimant, write: String, select: String) -> String {
    let Some(wait) = claimant.terms.wait else { return format!("{write}; {select}") };
    let millis = wait.as_micros().div_ceil(1000).clamp(1, i32::MAX as u128);
    format!(
        "SELECT set_config('atomically.lock_timeout', current_setting('lock_timeout'), true); \
         SELECT set_config('lock_timeout', LEAST({millis}, NULLIF(1000 * \
         extract(epoch FROM current_setting('lock_timeout')::interval), 0))::bigint::text, true); \
         {write}; {select}; \
         SELECT set_config('lock_timeout', current_setting('atomically.lock_timeout'), true)"
    )
}
