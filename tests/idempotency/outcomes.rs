//! The outcomes of runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome, once_in};
use atomically::{
    Adaptive, Atomic, Error, Isolation, Optimistic, Options, Pessimistic, Serializable, Transactor,
    TransactorExt as _, Tx,
};
use sqlx::Pool;

use crate::keeps::{Keeps, effect, effects, key, ledger, stored_response, work};

async fn replays<DB: Keeps>(pool: &Pool<DB>, db: &dyn Transactor<DB>, k: i64) {
    let key = key(&k.to_string());
    let unit = async |tx: &mut Tx<DB>| effect(tx, k).await.map_err(Error::from);
    let first = db.once(&key).run(unit).await.expect("the first");
    let second = db.once(&key).run(unit).await.expect("the second");
    let third = db.once(&key).run(unit).await.expect("the third");
    let response = stored_response(pool, k).await;
    assert_eq!(
        [first, second, third],
        [Outcome::Fresh(response), Outcome::Replayed(response), Outcome::Replayed(response)]
    );
}

pub(crate) async fn responses_are_replayed_under_every_strategy_and_isolation_level<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let strategies: [&dyn Transactor<DB>; 5] = [
        &Pessimistic::default().on(&pool),
        &Optimistic::default().on(&pool),
        &Serializable::default().on(&pool),
        &Atomic::default().on(&pool),
        &Adaptive::default().on(&pool),
    ];
    let mut k = 0;
    for db in strategies {
        for level in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
            k += 1;
            replays(&pool, &db.with(Options::new().isolation(level)), k).await;
        }
    }
}

/// Each run of a builder is a run of its own: it must not mistake the row of the first one for its own.
pub(crate) async fn a_builder_that_is_run_twice_is_fresh_once<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let key = key("a");
    let once = db.once(&key);
    let first = once.run(work::<DB>).await.expect("the first");
    let second = once.run(work::<DB>).await.expect("the second");
    let response = stored_response(&pool, 1).await;
    assert_eq!([first, second], [Outcome::Fresh(response), Outcome::Replayed(response)]);
    assert_eq!(effects(&pool, 1).await, 1);
}

pub(crate) async fn once_works_on_a_dyn_transactor<DB: Keeps>() {
    let pool = ledger::<DB>(4).await;
    let db: Arc<dyn Transactor<DB>> = Arc::new(Pessimistic::default().on(&pool));
    let tasks = (0..8).map(|_| {
        let db = db.clone();
        tokio::spawn(async move { db.once(&key("a")).run(work::<DB>).await.expect("an outcome") })
    });
    let mut responses = BTreeSet::new();
    let mut fresh = 0;
    for task in tasks.collect::<Vec<_>>() {
        let outcome = task.await.expect("no panic");
        fresh += u32::from(matches!(outcome, Outcome::Fresh(_)));
        responses.extend(outcome.response());
    }
    assert_eq!((fresh, responses), (1, BTreeSet::from([stored_response(&pool, 1).await])));
}

pub(crate) async fn a_different_request_with_the_same_key_is_a_mismatch<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let key = key("a").request("500");
    let Outcome::Fresh(response) = db.once(&key).run(work::<DB>).await.expect("fresh") else {
        panic!("not fresh")
    };
    let other = key.request("501");
    assert_eq!(db.once(&other).run(work::<DB>).await.expect("an outcome"), Outcome::Mismatch);
    assert_eq!(stored_response(&pool, 1).await, response);
    assert_eq!(db.once(&key).run(work::<DB>).await.expect("an outcome"), Outcome::Replayed(response));

    let elsewhere = IdempotencyKey::new("elsewhere", "a").expect("a key").request("501");
    let unit = async |tx: &mut Tx<DB>| effect(tx, 2).await.map_err(Error::from);
    let outcome = db.once(&elsewhere).run(unit).await.expect("an outcome");
    assert_eq!(outcome, Outcome::Fresh(stored_response(&pool, 2).await), "another scope is another key");
}

#[derive(Debug)]
enum Refusal {
    SoldOut,
    Other(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Other(error.into())
    }
}

async fn sold_out<DB: Keeps>(tx: &mut Tx<DB>) -> Result<i64, Refusal> {
    effect(tx, 1).await?;
    Err(Refusal::SoldOut)
}

/// The request can be sent again and succeed.
pub(crate) async fn an_error_of_the_unit_leaves_no_key<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let refused = db.once(&key("a")).run(sold_out::<DB>).await;
    assert!(matches!(refused, Err(Refusal::SoldOut)), "{refused:?}");
    assert_eq!(db.keys().find(&key("a")).await.expect("found out"), None);
    assert_eq!(effects(&pool, 1).await, 0);
    let outcome = db.once(&key("a")).run(work::<DB>).await.expect("an outcome");
    assert_eq!(outcome, Outcome::Fresh(stored_response(&pool, 1).await));
}

/// Not even if the unit itself deletes the key.
pub(crate) async fn no_effect_is_stored_without_its_key<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let outcome = db
        .once(&key("a"))
        .run(async |tx: &mut Tx<DB>| {
            if tx.attempt() == 1 {
                DB::execute(tx, DB::sql("DELETE FROM atomically_key"), &[]).await?;
            }
            work(tx).await
        })
        .await;
    assert_eq!(outcome.expect("an outcome"), Outcome::Fresh(stored_response(&pool, 1).await));
    assert!(db.keys().find(&key("a")).await.expect("found out").is_some());
}

/// The effect and the key are rolled back together even if the unit discards the failure.
pub(crate) async fn a_discarded_failure_leaves_no_key<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let outcome = db
        .once(&key("a"))
        .run(async |tx: &mut Tx<DB>| {
            let answer = effect(tx, 1).await?;
            let _ = DB::execute(tx, DB::sql("INSERT INTO ledger VALUES (NULL, NULL)"), &[]).await;
            Ok::<_, Error>(answer)
        })
        .await;
    let kept = db.keys().find(&key("a")).await.expect("found out").is_some();
    assert_eq!((outcome.is_ok(), effects(&pool, 1).await), (kept, i64::from(kept)), "{outcome:?}");
    // PostgreSQL aborts the transaction; the others undo only the statement.
    assert_eq!(kept, DB::NAME != "PostgreSQL");
}

pub(crate) async fn once_in_runs_a_part_once<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let consume = || {
        db.run(async |tx: &mut Tx<DB>| {
            let outcome = once_in(tx, &key("a")).run(work::<DB>).await?;
            let again = once_in(tx, &key("a")).run(work::<DB>).await?;
            let other = once_in(tx, &key("a").request("x")).run(work::<DB>).await?;
            Ok::<_, Error>([outcome, again, other])
        })
    };
    let [first, again, other] = consume().await.expect("the first");
    let response = stored_response(&pool, 1).await;
    assert_eq!(
        [first, again, other],
        [Outcome::Fresh(response), Outcome::Replayed(response), Outcome::Mismatch]
    );
    let [second, ..] = consume().await.expect("the second");
    assert_eq!(second, Outcome::Replayed(response));
    assert_eq!(effects(&pool, 1).await, 1);

    // Its key is rolled back with the transaction.
    let undone = db
        .run(async |tx: &mut Tx<DB>| {
            let _ = once_in(tx, &key("b")).run(work::<DB>).await?;
            Err::<(), _>(Refusal::SoldOut)
        })
        .await;
    assert!(matches!(undone, Err(Refusal::SoldOut)), "{undone:?}");
    assert_eq!(db.keys().find(&key("b")).await.expect("found out"), None);
}

/// The rest of the unit is stored.
pub(crate) async fn a_part_that_fails_leaves_neither_effect_nor_key<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        effect(tx, 2).await?;
        let refused = once_in(tx, &key("a")).run(sold_out::<DB>).await;
        assert!(matches!(refused, Err(Refusal::SoldOut)), "{refused:?}");
        Ok::<_, Error>(())
    })
    .await
    .expect("the rest");
    assert_eq!((effects(&pool, 1).await, effects(&pool, 2).await), (0, 1));
    let outcome = db.once(&key("a")).run(work::<DB>).await.expect("an outcome");
    assert_eq!(outcome, Outcome::Fresh(stored_response(&pool, 1).await));
}

pub(crate) async fn a_nested_part_with_the_same_key_is_in_progress<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let outcome = db
        .once(&key("a"))
        .run(async |tx: &mut Tx<DB>| {
            let inside = once_in(tx, &key("a")).run(work::<DB>).await?;
            assert_eq!(inside, Outcome::InProgress);
            work(tx).await
        })
        .await;
    assert_eq!(outcome.expect("an outcome"), Outcome::Fresh(stored_response(&pool, 1).await));
}
