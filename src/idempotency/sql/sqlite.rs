use futures_core::future::BoxFuture;
use sqlx::Sqlite;

use super::{Facts, Found, KeyStore, Write, hex};
use crate::idempotency::claim::{Claimant, Terms};
use crate::idempotency::key::IdempotencyKey;
use crate::tx::Tx;

impl KeyStore for Sqlite {}

impl Facts for Sqlite {
    const KEEPS_STATEMENTS: bool = true;

    const CREATE_KEYS: &'static str = "CREATE TABLE IF NOT EXISTS atomically_key (
        digest BLOB PRIMARY KEY,
        fingerprint BLOB NOT NULL,
        run BLOB NOT NULL,
        response TEXT,
        created_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS atomically_key_expires_at ON atomically_key (expires_at)";

    const STORE_RESPONSE: &'static str =
        "UPDATE atomically_key SET response = ? WHERE digest = ? AND run = ?";

    const RELEASE: &'static str = "DELETE FROM atomically_key WHERE digest = ?";

    const PURGE: &'static str = "DELETE FROM atomically_key WHERE digest IN (SELECT digest FROM atomically_key \
         WHERE expires_at <= unixepoch() ORDER BY expires_at LIMIT 1000)";

    /// There is one writer at a time, and the INSERT makes this the one.
    fn claim<'t>(
        tx: &'t mut Tx<Self>,
        claimant: &Claimant,
        write: &Write,
    ) -> BoxFuture<'t, Result<Found, sqlx::Error>> {
        let text = claim_text(claimant, write);
        Box::pin(async move { Ok(Self::fetch_key(tx, text).await?.into()) })
    }

    fn select_key(key: &IdempotencyKey) -> String {
        format!(
            "SELECT fingerprint, run, response, unixepoch() - created_at, expires_at - unixepoch() \
             FROM atomically_key WHERE digest = x'{}'",
            hex(&key.digest)
        )
    }
}

/// Everything in one round trip.
fn claim_text(claimant: &Claimant, write: &Write) -> String {
    let Claimant { terms: Terms { key, .. }, run } = claimant;
    let (digest, fingerprint, run) = (hex(&key.digest), hex(&key.fingerprint), hex(run));
    let life = claimant.terms.life();
    let write = match write {
        Write::Insert => format!(
            "INSERT INTO atomically_key (digest, fingerprint, run, created_at, expires_at) \
             VALUES (x'{digest}', x'{fingerprint}', x'{run}', unixepoch(), unixepoch() + {life}) \
             ON CONFLICT (digest) DO NOTHING"
        ),
        Write::TakeOver(expired) => format!(
            "UPDATE atomically_key SET fingerprint = x'{fingerprint}', run = x'{run}', response = NULL, \
             created_at = unixepoch(), expires_at = unixepoch() + {life} \
             WHERE digest = x'{digest}' AND run = x'{}'",
            hex(expired)
        ),
    };
    format!("{write}; {}", Sqlite::select_key(key))
}
