//! Requests that are sent twice with one key.

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
use atomically::{Error, Pessimistic, PoolTransactor, Tx};
use sqlx::Pool;

use crate::database::SoakDatabase;

pub(crate) struct Requests<DB: SoakDatabase>(PoolTransactor<DB, Pessimistic>);

impl<DB: SoakDatabase> Requests<DB> {
    pub(crate) fn on(pool: &Pool<DB>) -> Self {
        Self(Pessimistic::default().on(pool))
    }

    /// Sends a request twice at the same time. It has succeeded if one of them got its response.
    pub(crate) async fn run(&self, op: i64) -> Result<(), Error> {
        let (first, second) = tokio::join!(self.send(op), self.send(op));
        match (first, second) {
            (Ok(true), _) | (_, Ok(true)) => Ok(()),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
            // An unknown commit of either of them may be stored.
            (Err(first), Err(second)) => Err(if first.is_commit_unknown() { first } else { second }),
            // Both found the other one in progress, which ended without an effect.
            (Ok(false), Ok(false)) => self.send(op).await.map(drop),
        }
    }

    /// Returns whether there was a response.
    async fn send(&self, op: i64) -> Result<bool, Error> {
        let key = IdempotencyKey::new("soak", op.to_string())
            .map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let pay = async |tx: &mut Tx<DB>| {
            DB::execute(tx, DB::sql("INSERT INTO payment VALUES (?)"), &[op]).await?;
            Ok::<_, Error>(op)
        };
        let outcome = self.0.once(&key).run(pay).await?;
        Ok(matches!(outcome, Outcome::Fresh(_) | Outcome::Replayed(_)))
    }
}
