//! Maintenance of keys, and errors of the table.

use std::collections::BTreeMap;
use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, KeyError, Outcome};
use atomically::{Error, ErrorKind, Pessimistic, Schema, SchemaPart, Tx};

use crate::keeps::{Keeps, effects, key, ledger, stored_response, work};
use crate::support::eventually;

pub(crate) async fn a_missing_table_is_reported<DB: Keeps>() {
    let pool = DB::pool(2).await;
    let db = Pessimistic::default().on(&pool);
    for error in [
        db.once(&key("a")).run(work::<DB>).await.expect_err("no table"),
        db.keys().find(&key("a")).await.expect_err("no table"),
        db.keys().release(&key("a")).await.expect_err("no table"),
        db.keys().purge().await.expect_err("no table"),
    ] {
        assert!(matches!(KeyError::of(&error), Some(KeyError::NoTable(_))), "{error:?}");
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::MissingTable, None));
        assert!(error.to_string().contains("create_key_table"), "{error}");
    }
    // Another missing table is not a `KeyError`.
    db.create_key_table().await.expect("a table");
    db.create_key_table().await.expect("it is there already");
    let error = db.once(&key("a")).run(work::<DB>).await.expect_err("no ledger");
    assert!(KeyError::of(&error).is_none(), "{error:?}");
    let another = DB::sql("ALTER TABLE atomically_key RENAME COLUMN run TO walk");
    DB::pool_execute(&pool, another, &[]).await.expect("another table");
    let error = db.once(&key("a")).run(work::<DB>).await.expect_err("no such column");
    assert!(KeyError::of(&error).is_none(), "{error:?}");
    let schema = Schema::new().only(&[SchemaPart::Keys]).sql::<DB>();
    assert!(schema.contains("CREATE TABLE IF NOT EXISTS atomically_key"), "{schema}");
}

pub(crate) async fn a_response_that_is_not_json_is_reported<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    // The keys of a JSON object are strings.
    let error = db
        .once(&key("a"))
        .run(async |tx: &mut Tx<DB>| Ok::<_, Error>(BTreeMap::from([((1, 2), work(tx).await?)])))
        .await
        .expect_err("not to be written");
    assert!(matches!(KeyError::of(&error), Some(KeyError::Unwritable(_))), "{error:?}");
    assert_eq!(effects(&pool, 1).await, 0);

    let _ = db.once(&key("a")).run(work::<DB>).await.expect("an outcome");
    let error = db
        .once(&key("a"))
        .run(async |tx: &mut Tx<DB>| Ok::<_, Error>(work(tx).await?.to_string()))
        .await
        .expect_err("not to be read");
    assert!(matches!(KeyError::of(&error), Some(KeyError::Unreadable(_))), "{error:?}");
    assert_eq!(effects(&pool, 1).await, 1);
}

pub(crate) async fn keys_are_found_and_released<DB: Keeps>() {
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    assert_eq!(db.keys().find(&key("a")).await.expect("nothing"), None);
    assert!(!db.keys().release(&key("a")).await.expect("nothing"));
    let response = vec![String::from("it's \"so\" \\ \0 \u{1f980}")];
    let reply = response.clone();
    let unit = async |tx: &mut Tx<DB>| work(tx).await.map(|_| reply);
    let outcome = db.once(&key("a")).expires_after(Duration::from_secs(3600)).run(unit.clone()).await;
    assert_eq!(outcome.expect("an outcome"), Outcome::Fresh(response.clone()));
    let found = db.keys().find(&key("a")).await.expect("found out").expect("a key");
    assert_eq!(serde_json::from_str::<Vec<String>>(&found.response).expect("JSON"), response);
    assert!(found.age < Duration::from_secs(60), "{found:?}");
    let life = found.age + found.expires_in;
    assert!(life.abs_diff(Duration::from_secs(3600)) <= Duration::from_secs(1), "{found:?}");
    let outcome = db.once(&key("a")).run(unit).await;
    assert_eq!(outcome.expect("an outcome"), Outcome::Replayed(response));

    assert!(db.keys().release(&key("a")).await.expect("released"));
    let outcome = db.once(&key("a")).run(work::<DB>).await.expect("an outcome");
    assert!(matches!(outcome, Outcome::Fresh(_)), "{outcome:?}");
    assert_eq!(effects(&pool, 1).await, 2, "a fresh run was requested");
    let found = db.keys().find(&key("a")).await.expect("found out").expect("a key");
    assert_eq!((found.age + found.expires_in).as_secs().div_ceil(3600), 24, "{found:?}");
}

pub(crate) async fn an_expired_key_counts_as_new<DB: Keeps>() {
    let pool = ledger::<DB>(4).await;
    let db = Pessimistic::default().on(&pool);
    // A duration is rounded up to whole seconds, and limited to a century.
    let old = db.once(&key("a")).expires_after(Duration::ZERO).run(work::<DB>).await.expect("an outcome");
    let kept = db.once(&key("b")).expires_after(Duration::MAX).run(work::<DB>).await.expect("an outcome");
    let expires_in = async || db.keys().find(&key("a")).await.expect("found out").map(|key| key.expires_in);
    eventually(Some(Duration::ZERO), expires_in).await;

    // Other requests can use the key now, and one of them gets it.
    let key = key("a").request("another");
    let tasks = (0..4).map(|_| {
        let db = db.clone();
        let db = db.deadline(Duration::from_secs(120));
        tokio::spawn(async move {
            let once = db.once(&key).wait(Duration::from_secs(60));
            once.run(work::<DB>).await.expect("an outcome")
        })
    });
    let mut outcomes = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        outcomes.push(task.await.expect("no panic"));
    }
    let fresh: Vec<_> = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Fresh(_))).collect();
    assert_eq!(fresh.len(), 1, "{outcomes:?}");
    assert_ne!(*fresh[0], old);
    assert!(outcomes.iter().all(|outcome| outcome.response() == fresh[0].response()), "{outcomes:?}");
    let again = db.once(&crate::keeps::key("b")).run(work::<DB>).await.expect("an outcome");
    assert_eq!(again.response(), kept.response());
    assert_eq!(effects(&pool, 1).await, 3);
}

pub(crate) async fn expired_keys_are_purged_in_batches<DB: Keeps>() {
    const KEYS: i64 = 1 << 11;
    let pool = ledger::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let kept = db.once(&key("a")).run(work::<DB>).await.expect("an outcome");
    assert_eq!(db.keys().purge().await.expect("nothing"), 0);
    while DB::pool_fetch(&pool, DB::sql("SELECT COUNT(*) FROM ledger"), &[]).await.expect("a count") < KEYS {
        let double =
            DB::sql("INSERT INTO ledger SELECT k + (SELECT COUNT(*) FROM ledger), answer FROM ledger");
        DB::pool_execute(&pool, double, &[]).await.expect("twice as many");
    }
    DB::pool_execute(&pool, DB::sql(DB::EXPIRED_KEYS), &[]).await.expect("expired keys");
    assert_eq!(db.keys().purge().await.expect("all"), KEYS as u64);
    assert_eq!(
        DB::pool_fetch(&pool, DB::sql("SELECT COUNT(*) FROM atomically_key"), &[]).await.expect("a count"),
        1
    );
    let again = db.once(&key("a")).run(work::<DB>).await.expect("an outcome");
    assert_eq!(again, Outcome::Replayed(stored_response(&pool, 1).await));
    assert_eq!(again.response(), kept.response());
}

/// A session that takes over an expired key has locked its row when `purge` reaches it, and commits
/// afterwards.
pub(crate) async fn a_key_that_is_taken_over_concurrently_is_not_purged<DB: Keeps>() {
    let pool = ledger::<DB>(4).await;
    let db = Pessimistic::default().on(&pool);
    for name in ["a", "b"] {
        let _ = db.once(&key(name)).run(work::<DB>).await.expect("an outcome");
    }
    DB::pool_execute(&pool, DB::sql(DB::EXPIRE_KEYS), &[]).await.expect("both have expired");
    let mut heir = pool.acquire().await.expect("a connection");
    for sql in ["BEGIN", DB::TAKE_A_KEY_OVER] {
        DB::raw(&mut heir, sql).await.expect("a statement");
    }
    let purging = tokio::spawn({
        let db = db.clone();
        async move { db.keys().purge().await }
    });
    // The purge has reached the row: it waits for it, or has skipped it.
    eventually(true, async || purging.is_finished() || DB::waiting(&pool).await > 0).await;
    DB::raw(&mut heir, "COMMIT").await.expect("taken over");
    assert_eq!(purging.await.expect("no panic").expect("a purge"), 1);
    let left = DB::sql("SELECT COUNT(*) FROM atomically_key");
    assert_eq!(DB::pool_fetch(&pool, left, &[]).await.expect("a count"), 1);
}
