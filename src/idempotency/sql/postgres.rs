use futures_core::future::BoxFuture;
use sqlx::Postgres;

use super::{Facts, Found, KeyStore, Write, hex};
use crate::idempotency::claim::{Claimant, Terms};
use crate::idempotency::key::IdempotencyKey;
use crate::tx::Tx;

impl KeyStore for Postgres {}

impl Facts for Postgres {
    const KEEPS_STATEMENTS: bool = false;

    const CREATE_KEYS: &'static str = "CREATE TABLE IF NOT EXISTS atomically_key (
        digest BYTEA PRIMARY KEY,
        fingerprint BYTEA NOT NULL,
        run BYTEA NOT NULL,
        response TEXT,
        created_at TIMESTAMPTZ NOT NULL,
        expires_at TIMESTAMPTZ NOT NULL
    );
    CREATE INDEX IF NOT EXISTS atomically_key_expires_at ON atomically_key (expires_at)";

    const STORE_RESPONSE: &'static str =
        "UPDATE atomically_key SET response = $1 WHERE digest = $2 AND run = $3";

    const RELEASE: &'static str = "DELETE FROM atomically_key WHERE digest = $1";

    /// A key may be taken over between the search and the removal: the lock and the repeated condition protect it.
    const PURGE: &'static str = "DELETE FROM atomically_key WHERE digest = ANY(ARRAY(SELECT digest FROM atomically_key \
         WHERE expires_at <= now() ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED)) AND expires_at <= now()";

    /// A key that is there does not make the INSERT fail, which would end the transaction. Where the key was committed after
    /// the snapshot of a transaction above READ COMMITTED, it is a serialization failure; so what the SELECT does not see
    /// is not there.
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
            "SELECT fingerprint, run, response, floor(extract(epoch FROM now() - created_at))::bigint, \
             ceil(extract(epoch FROM expires_at - now()))::bigint FROM atomically_key WHERE digest = '\\x{}'",
            hex(&key.digest)
        )
    }
}

/// Everything in one round trip.
fn claim_text(claimant: &Claimant, write: &Write) -> String {
    let Claimant { terms: Terms { key, wait, .. }, run } = claimant;
    let (digest, fingerprint, run) = (hex(&key.digest), hex(&key.fingerprint), hex(run));
    let expires_at = format!("now() + interval '1 second' * {}", claimant.terms.life());
    let write = match write {
        Write::Insert => format!(
            "INSERT INTO atomically_key (digest, fingerprint, run, created_at, expires_at) \
             VALUES ('\\x{digest}', '\\x{fingerprint}', '\\x{run}', now(), {expires_at}) \
             ON CONFLICT (digest) DO NOTHING"
        ),
        Write::TakeOver(expired) => format!(
            "UPDATE atomically_key SET fingerprint = '\\x{fingerprint}', run = '\\x{run}', response = NULL, \
             created_at = now(), expires_at = {expires_at} \
             WHERE digest = '\\x{digest}' AND run = '\\x{}'",
            hex(expired)
        ),
    };
    let select = Postgres::select_key(key);
    let Some(wait) = wait else { return format!("{write}; {select}") };
    let millis = wait.as_micros().div_ceil(1000).clamp(1, i32::MAX as u128);
    // The setting is text with a unit, and 0 for no limit.
    format!(
        "SELECT set_config('atomically.lock_timeout', current_setting('lock_timeout'), true); \
         SELECT set_config('lock_timeout', LEAST({millis}, NULLIF(1000 * \
         extract(epoch FROM current_setting('lock_timeout')::interval), 0))::bigint::text, true); \
         {write}; {select}; \
         SELECT set_config('lock_timeout', current_setting('atomically.lock_timeout'), true)"
    )
}
