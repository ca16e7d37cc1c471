//! Options of transactions, which have no effect on later users of the connection.

use std::time::Duration;

use atomically::{
    Atomic, Begin, Error, ErrorKind, Isolation, Options, Pessimistic, Resolve, RowLock, Serializable,
    TransactorExt as _, Tx,
};

use sqlx::Pool;

use super::increments::{counter, value};
use super::outcomes::set_value;
use crate::support::TestBackend;

pub(crate) const LEVELS: [Isolation; 4] = [
    Isolation::ReadUncommitted,
    Isolation::ReadCommitted,
    Isolation::RepeatableRead,
    Isolation::Serializable,
];

/// Reads the settings inside of the transaction, and then on the only connection of the pool.
pub(crate) async fn sets_and_resets_every_isolation_level<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let before = DB::limits(&pool).await;
    let db = Pessimistic::default().on(&pool);
    for level in LEVELS {
        db.with(Options::new().isolation(level))
            .run(async |tx: &mut Tx<DB>| {
                // InnoDB lists a transaction once it has written, and refreshes the list when it was not read
                // for a tenth of a second.
                set_value(tx, 1).await?;
                // SQLite has one level, whichever is requested.
                let wanted = if DB::NAME == "SQLite" { Isolation::Serializable } else { level }.to_string();
                let mut inside = DB::level_inside(tx).await;
                for _ in 0..40 {
                    if inside == wanted {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(150)).await;
                    inside = DB::level_inside(tx).await;
                }
                assert_eq!(inside, wanted);
                Ok::<_, Error>(())
            })
            .await
            .expect("a commit");
        assert_eq!(DB::limits(&pool).await, before, "after {level}");
    }
}

pub(crate) async fn read_only_refuses_writes_and_is_reset<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool).options(Options::new().read_only());
    let read = async |tx: &mut Tx<DB>| {
        // No row is locked: databases refuse row locks in read-only transactions.
        let select = tx.for_update(DB::sql("SELECT value FROM counter WHERE id = 1"));
        Ok::<_, Error>(DB::fetch(tx, select, &[]).await?)
    };
    assert_eq!(db.run(read).await.expect("a read"), 0);
    let update = DB::sql("UPDATE counter SET value = value + 0 WHERE id = 1");
    DB::pool_execute(&pool, update, &[]).await.expect("the next user of the connection may write");

    let write = async |tx: &mut Tx<DB>| Ok::<_, Error>(set_value(tx, 9).await?);
    let error = db.run(write).await.expect_err("a write");
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "a requested restriction is not retried: {error:?}");

    Pessimistic::default().on(&pool).run(write).await.expect("a commit after the refusal");
    assert_eq!(value(&pool).await, 9);
}

pub(crate) async fn sets_and_resets_timeouts<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let before = DB::limits(&pool).await;
    let db = Serializable::default().on(&pool).deadline(Duration::from_secs(9));
    let options =
        DB::with_timeouts(Options::new().lock_timeout(Duration::from_secs(2)), Duration::from_secs(3));
    let inside = db
        .with(options)
        .run(async |tx: &mut Tx<DB>| Ok::<_, Error>(DB::limits_inside(tx).await))
        .await
        .expect("a commit");
    assert!(inside.starts_with(DB::TWO_AND_THREE_SECONDS), "{inside}");
    assert_eq!(DB::limits(&pool).await, before);
}

/// The server closes the connection of a unit that is idle for too long. Nothing was stored, so the unit is
/// retried.
pub(crate) async fn retries_a_unit_that_exceeds_its_idle_timeout<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let watcher = DB::another(&pool.url).await;
    // Longer than a busy machine pauses between the two statements of the second attempt.
    let limits = Options::new().idle_timeout(Duration::from_secs(3)).deadline(Duration::from_secs(60));
    let db = Pessimistic::default().on(&pool).options(limits);
    let unit = async |tx: &mut Tx<DB>| {
        set_value(tx, 1).await?;
        if tx.attempt() == 1 {
            DB::until_no_transaction_is_open(&watcher).await;
        }
        set_value(tx, 2).await?;
        Ok::<_, Error>(tx.attempt())
    };
    let outcome = db.run(unit).await;
    if has_an_idle_limit(&pool).await {
        assert_eq!(outcome.expect("the second attempt commits"), 2);
        assert_eq!(value(&pool).await, 2);
    } else {
        let error = outcome.expect_err("the server has no such limit");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    }
}

/// Whether the server can limit idle transactions: PostgreSQL and MariaDB can, MySQL cannot.
async fn has_an_idle_limit<DB: TestBackend>(pool: &Pool<DB>) -> bool {
    if DB::NAME != "MySQL" {
        return true;
    }
    let is_mariadb = DB::sql("SELECT CAST(VERSION() LIKE '%MariaDB%' AS SIGNED)");
    DB::pool_fetch(pool, is_mariadb, &[]).await.expect("the version") == 1
}

/// The check precedes the request for a connection, of which none is available.
pub(crate) async fn refuses_options_that_the_database_does_not_support<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let _only_one = pool.acquire().await.expect("the only connection");
    let db = Pessimistic::default().on(&pool);
    let second = Duration::from_secs(1);
    let refused = match DB::NAME {
        "PostgreSQL" => vec![Options::new().deferrable(), Options::new().begin(Begin::Immediate)],
        "MySQL" => vec![
            Options::new().deferrable(),
            Options::new().begin(Begin::Exclusive),
            Options::new().resolve_commits(Resolve::TransactionStatus),
        ],
        _ => vec![
            Options::new().deferrable(),
            Options::new().statement_timeout(second),
            Options::new().idle_timeout(second),
            Options::new().resolve_commits(Resolve::TransactionStatus),
        ],
    };
    for options in refused {
        let run = db.with(options.clone());
        let error = run.run(async |tx: &mut Tx<DB>| Ok::<_, Error>(set_value(tx, 1).await?)).await;
        let error = error.expect_err("the database has no such option");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{options:?}: {error:?}");
        assert!(error.to_string().contains(" has no "), "{error}");
    }
}

/// Each lock strength and each wait mode is valid SQL on the database, or a typed error.
pub(crate) async fn every_row_lock_is_acquired_or_unsupported<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Atomic::default().on(&pool);
    for lock in [RowLock::UPDATE, RowLock::NO_KEY_UPDATE, RowLock::SHARE, RowLock::KEY_SHARE] {
        for lock in [lock, lock.nowait(), lock.skip_locked()] {
            let unit = async |tx: &mut Tx<DB>| {
                let select = tx.locking(lock, DB::sql("SELECT value FROM counter WHERE id = 1;"))?;
                Ok::<_, Error>(DB::fetch(tx, select, &[]).await?)
            };
            let outcome = db.run(unit).await;
            if DB::NAME == "SQLite" {
                assert_eq!(
                    outcome.expect_err("it has no row locks").kind(),
                    ErrorKind::Unsupported,
                    "{lock:?}"
                );
            } else {
                assert_eq!(outcome.unwrap_or_else(|error| panic!("{lock:?}: {error:?}")), 0);
            }
        }
    }
}

/// Another session holds one of two rows: a lock waits for it, fails with NOWAIT, or skips it.
pub(crate) async fn row_locks_wait_fail_or_skip<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    let db = Atomic::default().on(&pool);
    let count = |lock: RowLock, deadline: Duration| {
        let db = &db;
        async move {
            db.with(Options::new().attempts(1).deadline(deadline))
                .run(async |tx: &mut Tx<DB>| {
                    let select = tx.locking(lock, DB::sql("SELECT id FROM counter ORDER BY id"))?;
                    Ok::<_, Error>(DB::fetch(tx, select, &[]).await?)
                })
                .await
        }
    };
    let (short, long) = (Duration::from_millis(500), Duration::from_secs(60));
    assert_eq!(count(RowLock::UPDATE.skip_locked(), long).await.expect("the other row"), 2);
    assert_eq!(count(RowLock::SHARE.skip_locked(), long).await.expect("the other row"), 2);
    for lock in [RowLock::UPDATE, RowLock::SHARE] {
        assert!(count(lock.nowait(), long).await.expect_err("the row is locked").is_lock_not_available());
        assert!(count(lock, short).await.expect_err("the row is locked").is_exhausted());
    }
    drop(blocker);
}
