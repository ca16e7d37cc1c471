//! Rows that are named before the unit runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
use atomically::{
    Adaptive, Atomic, Error, ErrorKind, Gate, Optimistic, Options, Pessimistic, Serializable, Strategy,
    TransactorExt as _, Tx,
};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::bank::{
    ACCOUNTS, Account, BALANCE, Bank, balance, bank, ids, integer, keep, keep_balance, patient, transfer,
};
use crate::support::{ServerBackend, TestPool};

async fn read<DB: Bank, S: Strategy>(
    pool: &TestPool<DB>,
    strategy: S,
    of: &[i64],
) -> Result<Vec<i64>, Error> {
    let keys: Vec<DB::Id> = of.iter().map(|id| DB::Id::from(*id)).collect();
    atomically::PoolTransactor::new(strategy, pool)
        .on_rows("account", "id", keys)
        .reading::<<DB as Bank>::Row>("id, balance, version")
        .run(async |_: &mut Tx<DB>, rows: Vec<<DB as Bank>::Row>| {
            Ok(rows.into_iter().map(|row| Into::<Account>::into(row).0).collect())
        })
        .await
}

pub(crate) async fn the_unit_receives_its_rows_in_the_order_of_the_keys<DB: Bank>() {
    let pool = bank::<DB>(2).await;
    for keys in [&[3, 1, 2][..], &[2, 2, 1], &[6, 5, 4, 3, 2, 1, 1, 2, 3, 4]] {
        // The second time, the session may have the statement.
        for _ in 0..2 {
            assert_eq!(read(&pool, Pessimistic::default(), keys).await.expect("rows"), keys);
            assert_eq!(read(&pool, Optimistic::default(), keys).await.expect("rows"), keys);
            assert_eq!(read(&pool, Serializable::default(), keys).await.expect("rows"), keys);
            assert_eq!(read(&pool, Adaptive::default(), keys).await.expect("rows"), keys);
        }
    }
}

pub(crate) async fn missing_rows_are_reported_before_the_unit_runs<DB: Bank>() {
    let pool = bank::<DB>(2).await;
    let error = read(&pool, Pessimistic::default(), &[9, 1, 8]).await.expect_err("two rows are missing");
    assert_eq!((error.kind(), error.missing_rows()), (ErrorKind::RowNotFound, &[0, 2][..]), "{error}");
    assert_eq!(
        error.to_string(),
        "the table `account` has no row with the `id` at index 0, 2 of the keys that the unit runs on"
    );
    let ran = Arc::new(AtomicU32::new(0));
    let unit = async |_: &mut Tx<DB>| {
        ran.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Error>(())
    };
    let keys = || ids::<DB, 2>([1, 9]);
    let pessimistic = Pessimistic::default().on(&pool).on_rows("account", "id", keys()).run(unit).await;
    assert_eq!(pessimistic.expect_err("a missing row").missing_rows(), [1]);
    let optimistic = Optimistic::default().on(&pool).on_rows("account", "id", keys()).run(unit).await;
    assert_eq!(optimistic.expect_err("a missing row").missing_rows(), [1]);
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    // Names only.
    Serializable::default().on(&pool).on_rows("account", "id", keys()).run(unit).await.expect("a commit");
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

/// Runs transfers of all clients at once, and returns how often units ran.
async fn transfers<DB: Bank, S: Strategy + Clone + 'static>(strategy: S) -> u32 {
    const CLIENTS: i64 = 6;
    const ROUNDS: i64 = 12;
    let pool = bank::<DB>(6).await;
    let db = patient(strategy, &pool).reuse_connections();
    let attempts = Arc::new(AtomicU32::new(0));
    let counter = attempts.clone();
    let db = db.observed_by(move |event: &atomically::Event<'_>| {
        if let atomically::Event::Unit { event: atomically::UnitEvent::AttemptStarted { .. }, .. } = event {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let start = Arc::new(Barrier::new(CLIENTS as usize));
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS {
        let (db, start) = (db.clone(), start.clone());
        tasks.spawn(async move {
            start.wait().await;
            for round in 0..ROUNDS {
                // Pairs of neighbours, in both directions.
                let (low, high) = (1 + (client + round) % 2, 2 + (client + round) % 2);
                let (from, to) = if client % 2 == 0 { (low, high) } else { (high, low) };
                transfer::<DB>(&db, from, to).await.expect("a transfer");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic");
    }
    assert_eq!(integer(&pool, DB::TOTAL).await, ACCOUNTS * BALANCE, "the total has changed");
    let writes = integer(&pool, &DB::TOTAL.replace("balance", "version")).await;
    assert_eq!(writes, 2 * CLIENTS * ROUNDS, "an update is lost or doubled");
    attempts.load(Ordering::Relaxed) - (CLIENTS * ROUNDS) as u32
}

pub(crate) async fn transfers_in_opposite_directions_never_deadlock<DB: Bank>() {
    let retries = transfers::<DB, _>(Pessimistic::default()).await;
    assert_eq!(retries, 0);
}

pub(crate) async fn every_strategy_transfers_without_a_lost_update<DB: Bank>() {
    transfers::<DB, _>(Optimistic::default()).await;
    transfers::<DB, _>(Atomic::default()).await;
    transfers::<DB, _>(Serializable::default()).await;
    transfers::<DB, _>(Adaptive::default()).await;
}

/// Another transaction changes the row between the opening and the commit.
pub(crate) async fn a_stale_read_runs_the_unit_again<DB: Bank>() {
    let pool = bank::<DB>(3).await;
    let attempts = AtomicU32::new(0);
    let db = Optimistic::default().on(&pool);
    db.on_rows("account", "id", ids::<DB, 1>([1]))
        .reading::<<DB as Bank>::Row>("id, balance, version")
        .run(async |tx: &mut Tx<DB>, [account]: [<DB as Bank>::Row; 1]| {
            if attempts.fetch_add(1, Ordering::Relaxed) == 0 {
                let update = DB::sql("UPDATE account SET balance = 7, version = version + 1 WHERE id = ?");
                DB::pool_execute(&pool, update, &[1]).await?;
            }
            keep_balance(tx, account.into(), -1)
        })
        .await
        .expect("a commit");
    assert_eq!((attempts.load(Ordering::Relaxed), balance(&pool, 1).await), (2, 6));
}

/// Runs on the same rows, in any order, queue at the gate; a gate without a queue refuses the second one.
pub(crate) async fn the_rows_are_the_key_of_the_run<DB: Bank>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool).gate(&Gate::new().queue(0));
    let nested = AtomicU32::new(0);
    let other = Pessimistic::default().on(&pool).gate(&Gate::new().queue(0));
    let inside = Arc::new(Barrier::new(2));
    let leave = Arc::new(Barrier::new(2));
    let first = tokio::spawn({
        let (db, inside, leave) = (db.clone(), inside.clone(), leave.clone());
        async move {
            let unit = async |_: &mut Tx<DB>| {
                inside.wait().await;
                leave.wait().await;
                Ok::<_, Error>(())
            };
            db.on_rows("account", "id", ids::<DB, 2>([1, 2])).run(unit).await
        }
    });
    inside.wait().await;
    let unit = async |_: &mut Tx<DB>| {
        nested.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Error>(())
    };
    let limit = Options::new().deadline(Duration::from_millis(300));
    let same = db.with(limit.clone());
    let same = same.on_rows("account", "id", ids::<DB, 2>([2, 1])).run(unit).await;
    let same = same.expect_err("the first run holds the rows");
    assert!(same.is_overloaded() || same.is_deadline_exceeded(), "{same}");
    assert_eq!(nested.load(Ordering::Relaxed), 0);
    leave.wait().await;
    first.await.expect("no panic").expect("a commit");
    other.on_rows("account", "id", ids::<DB, 2>([2, 1])).run(unit).await.expect("the rows are free");
}

pub(crate) async fn a_row_that_cannot_be_decoded_is_an_error<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let wrong = Pessimistic::default()
        .on(&pool)
        .on_rows("account", "id", ids::<DB, 1>([1]))
        .reading::<<DB as Bank>::Row>("id, balance, 'text' AS version")
        .run(async |_: &mut Tx<DB>, _: [<DB as Bank>::Row; 1]| Ok::<_, Error>(()))
        .await
        .expect_err("text is no integer");
    assert_eq!(wrong.kind(), ErrorKind::Decode, "{wrong}");
    let wrong = Pessimistic::default()
        .on(&pool)
        .on_rows("no_such_table", "id", ids::<DB, 1>([1]))
        .run(async |_: &mut Tx<DB>| Ok::<_, Error>(()))
        .await
        .expect_err("there is no such table");
    assert_eq!(wrong.kind(), ErrorKind::Database, "{wrong}");
    assert_eq!(read(&pool, Pessimistic::default(), &[1]).await.expect("the connection is usable"), [1]);
}

/// The statement that fails is a part of the text that opens the transaction.
pub(crate) async fn the_error_of_an_unknown_table_names_it<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let unit = async |_: &mut Tx<DB>| Ok::<_, Error>(());
    let error = db.on_rows("no_such_table", "id", ids::<DB, 1>([1])).run(unit).await.expect_err("no table");
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    assert!(error.to_string().contains("`no_such_table` by the column `id`"), "{error}");
}

pub(crate) async fn too_many_keys_are_refused<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    let keys: Vec<i64> = (0..32_001).collect();
    let error = read(&pool, Pessimistic::default(), &keys).await.expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

pub(crate) async fn no_keys_name_no_rows<DB: Bank>() {
    let pool = bank::<DB>(1).await;
    assert!(read(&pool, Pessimistic::default(), &[]).await.expect("no rows").is_empty());
}

/// The lock is waited for in the opening.
pub(crate) async fn a_lock_timeout_at_the_opening_is_reported_as_one<DB: Bank + ServerBackend>() {
    let pool = bank::<DB>(3).await;
    let db = Pessimistic::default().on(&pool).attempts(1);
    let (held, release) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let holder = tokio::spawn({
        let (db, held, release) = (db.clone(), held.clone(), release.clone());
        async move {
            db.run(async |tx: &mut Tx<DB>| {
                DB::lock_accounts(tx, &[1]).await?;
                held.wait().await;
                release.wait().await;
                Ok::<_, Error>(())
            })
            .await
        }
    });
    held.wait().await;
    let ran = AtomicU32::new(0);
    let limit = Options::new().lock_timeout(Duration::from_millis(100));
    let error = db
        .with(limit)
        .on_rows("account", "id", ids::<DB, 2>([2, 1]))
        .run(async |_: &mut Tx<DB>| {
            ran.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the row is locked");
    assert!(error.is_lock_timeout(), "{error}");
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    release.wait().await;
    holder.await.expect("no panic").expect("a commit");
    transfer::<DB>(&db, 1, 2).await.expect("no lock and no statement is left");
}

/// The first request deletes the row that both name.
pub(crate) async fn a_repeated_request_is_replayed_although_its_row_is_gone<DB: Bank>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    db.create_key_table().await.expect("the table of keys");
    let key = IdempotencyKey::new("close", "account 3").expect("a key");
    let rows = db.on_rows("account", "id", ids::<DB, 1>([3]));
    let close = async |tx: &mut Tx<DB>| {
        keep(tx, "DELETE FROM account WHERE id = ?", &[3])?.expect_one();
        Ok::<_, Error>(String::from("closed"))
    };
    assert_eq!(rows.once(&key).run(close).await.expect("a commit"), Outcome::Fresh("closed".into()));
    assert_eq!(rows.once(&key).run(close).await.expect("a replay"), Outcome::Replayed("closed".into()));
    let other = IdempotencyKey::new("close", "account 3 again").expect("a key");
    let missing = rows.once(&other).run(close).await.expect_err("the account is gone");
    assert_eq!(missing.missing_rows(), [0], "{missing}");
}
