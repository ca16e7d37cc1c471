//! Keys in SQLite.

use super::{Claiming, KeySql, KeyWrite, hex};
use crate::idempotency::claimant::{ClaimTerms, Claimant};
use crate::idempotency::key::IdempotencyKey;

pub(super) const SQL: KeySql = KeySql {
    store_response: "UPDATE atomically_key SET response = ? WHERE digest = ? AND run = ?",
    release: "DELETE FROM atomically_key WHERE digest = ?",
    purge: "DELETE FROM atomically_key WHERE digest IN (SELECT digest FROM atomically_key \
         WHERE expires_at <= unixepoch() ORDER BY expires_at LIMIT 1000)",
    select,
    write,
    // There is one writer at a time, and the INSERT makes it this transaction.
    claiming: Claiming::OneText(|_, write, select| format!("{write}; {select}")),
};

fn select(key: &IdempotencyKey) -> String {
    format!(
        "SELECT fingerprint, run, response, unixepoch() - created_at, expires_at - unixepoch() \
         FROM atomically_key WHERE digest = x'{}'",
        hex(&key.digest)
    )
}

fn write(claimant: &Claimant, write: &KeyWrite) -> String {
    let Claimant { terms: ClaimTerms { key, .. }, run } = claimant;
    let (digest, fingerprint, run) = (hex(&key.digest), hex(&key.fingerprint), hex(run));
    let life = claimant.terms.life();
    match write {
        KeyWrite::Insert => format!(
            "INSERT INTO atomically_key (digest, fingerprint, run, created_at, expires_at) \
             VALUES (x'{digest}', x'{fingerprint}', x'{run}', unixepoch(), unixepoch() + {life}) \
             ON CONFLICT (digest) DO NOTHING"
        ),
        KeyWrite::TakeOver(expired) => format!(
            "UPDATE atomically_key SET fingerprint = x'{fingerprint}', run = x'{run}', response = NULL, \
             created_at = unixepoch(), expires_at = unixepoch() + {life} \
             WHERE digest = x'{digest}' AND run = x'{}'",
            hex(expired)
        ),
    }
}
