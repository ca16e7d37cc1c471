use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{AssertSqlSafe, MySql};

use super::{Facts, Found, KeyStore, Write, hex};
use crate::backend::whole_seconds;
use crate::idempotency::claim::{Claimant, Terms};
use crate::idempotency::key::IdempotencyKey;
use crate::tx::Tx;

impl KeyStore for MySql {}

impl Facts for MySql {
    const KEEPS_STATEMENTS: bool = true;

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

    /// InnoDB waits for a row that is being changed, and compares it again then.
    const PURGE: &'static str =
        "DELETE FROM atomically_key WHERE expires_at <= UTC_TIMESTAMP() ORDER BY expires_at LIMIT 1000";

    /// Each statement is a packet of its own: see [`Engine::is_galera`](crate::backend::Engine::is_galera). MariaDB can
    /// limit the wait of one statement; on MySQL the limit is the session's, which takes two round trips more.
    ///
    /// The row is read with a lock, because a snapshot may be older than it. A row of another node is only there once
    /// its transaction is certified, so what is read of it holds. Two nodes that write the same key find out at COMMIT.
    fn claim<'t>(
        tx: &'t mut Tx<Self>,
        claimant: &Claimant,
        write: &Write,
    ) -> BoxFuture<'t, Result<Found, sqlx::Error>> {
        let waits = Waits::new(claimant.terms.wait, tx.lock_wait());
        let (mut write, select) = (write_text(claimant, write), Self::select_key(&claimant.terms.key));
        let waits = match waits {
            Some(Waits { key, .. }) if tx.engine().is_mariadb => {
                write = format!("SET STATEMENT {LIMIT} = {key} FOR {write}");
                None
            }
            waits => waits,
        };
        Box::pin(async move {
            if let Some(Waits { key, .. }) = waits {
                send(tx, limit_text(key)).await?;
            }
            if send(tx, write).await? == 0 {
                // Whoever finds the key in use ends the transaction, which puts the limit back.
                return Ok(Self::fetch_key(tx, format!("{select} LOCK IN SHARE MODE")).await?.into());
            }
            if let Some(Waits { unit, .. }) = waits {
                send(tx, limit_text(unit)).await?;
            }
            Ok(Found::Written)
        })
    }

    fn select_key(key: &IdempotencyKey) -> String {
        format!(
            "SELECT fingerprint, run, response, TIMESTAMPDIFF(SECOND, created_at, UTC_TIMESTAMP()), \
             TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), expires_at) FROM atomically_key WHERE digest = x'{}'",
            hex(&key.digest)
        )
    }
}

/// How long statements wait for locks, in seconds, where the key has another limit than the rest of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waits {
    key: u64,
    unit: u64,
}

impl Waits {
    /// `unit` is what the opening of the transaction has set. There is nothing to set where the key would wait longer.
    fn new(key: Option<Duration>, unit: Option<Duration>) -> Option<Self> {
        let (key, unit) = (whole_seconds(key?), whole_seconds(unit?));
        (key < unit).then_some(Self { key, unit })
    }
}

const LIMIT: &str = "innodb_lock_wait_timeout";

fn limit_text(seconds: u64) -> String {
    format!("SET {LIMIT} = {seconds}")
}

/// `IGNORE` leaves a key alone that is there, and has nothing else to ignore: the values fit their columns.
fn write_text(claimant: &Claimant, write: &Write) -> String {
    let Claimant { terms: Terms { key, .. }, run } = claimant;
    let (digest, fingerprint, run) = (hex(&key.digest), hex(&key.fingerprint), hex(run));
    let expires_at = format!("UTC_TIMESTAMP() + INTERVAL {} SECOND", claimant.terms.life());
    match write {
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
    }
}

async fn send(tx: &mut Tx<MySql>, sql: String) -> Result<u64, sqlx::Error> {
    Ok(sqlx::raw_sql(AssertSqlSafe(sql)).execute(tx).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_set_only_where_the_key_waits_for_less_time_than_the_unit() {
        let seconds = |seconds: f64| Some(Duration::from_secs_f64(seconds));
        assert_eq!(Waits::new(seconds(0.1), seconds(9.9)), Some(Waits { key: 1, unit: 10 }));
        assert_eq!(Waits::new(seconds(1.5), seconds(1.9)), None, "both are two");
        assert_eq!(Waits::new(seconds(20.0), seconds(10.0)), None);
        assert_eq!(Waits::new(None, seconds(10.0)), None, "a part waits as long as its unit");
    }
}
