//! Requests with an idempotency key that are dropped and sent again.

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome, once_in};
use atomically::{Error, Pessimistic, TransactorExt as _, Tx};

use super::{Ledger, write_twice};
use crate::support::TestBackend;

fn key_of(k: i64) -> IdempotencyKey {
    IdempotencyKey::new("dropped", k.to_string()).expect("a key")
}

/// Drops requests, and sends each of them again. Asserts that the key of a request is stored together with
/// its effect, and that the second request returns the result without repeating the effect.
async fn drop_and_resend<DB: TestBackend>(
    ledger: &Ledger<DB>,
    what: &str,
    send: impl AsyncFn(i64) -> Result<Outcome<i64>, Error>,
) {
    let prepare = async |_: i64| ();
    let run = async |k: i64, (): &()| send(k).await;
    let check = async |k: i64, (): (), outcome: Option<Result<Outcome<i64>, Error>>| {
        let stored = ledger.rows(k).await;
        if let Some(done) = outcome {
            assert_eq!((done.expect("an outcome"), stored), (Outcome::Fresh(k), 2), "{what}");
        }
        let keys = Pessimistic::default().on(&ledger.watcher);
        let key = keys.keys().find(&key_of(k)).await.expect("a lookup");
        let again = send(k).await.expect("an outcome");
        match (stored, key.is_some()) {
            (0, false) => assert_eq!(again, Outcome::Fresh(k), "{what}"),
            (2, true) => assert_eq!(again, Outcome::Replayed(k), "{what}"),
            (rows, key) => panic!("{what}: {rows} rows are stored, and the key is stored: {key}"),
        }
        assert_eq!(ledger.rows(k).await, 2, "{what}");
    };
    ledger.at_every_poll(what, prepare, run, check).await;
}

pub(crate) async fn dropped_and_resent_requests_take_effect_once<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let db = Pessimistic::default().on(&ledger.pool);
    db.create_key_table().await.expect("the table of keys");
    let send = async |k: i64| {
        let unit = async |tx: &mut Tx<DB>| write_twice(tx, k).await.map(|()| k);
        db.once(&key_of(k)).run(unit).await
    };
    drop_and_resend(&ledger, "once", send).await;
}

pub(crate) async fn dropped_and_resent_parts_of_a_unit_take_effect_once<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let db = Pessimistic::default().on(&ledger.pool);
    db.create_key_table().await.expect("the table of keys");
    let send = async |k: i64| {
        let unit = async |tx: &mut Tx<DB>| {
            let part = async |tx: &mut Tx<DB>| write_twice(tx, k).await.map(|()| k);
            once_in(tx, &key_of(k)).run(part).await
        };
        db.run(unit).await
    };
    drop_and_resend(&ledger, "once_in", send).await;
}
