//! `LockOrder` reports lock orders that can deadlock, although no transaction deadlocks or waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use atomically::testing::{LockOrder, UnknownReason, explore};
use atomically::{Error, FailureKind, Pessimistic, RowLock, Transactor, TransactorExt as _, Tx};
use tokio::sync::{Barrier, Notify};

use super::locks::bank;
use crate::support::TestBackend;

async fn add<DB: TestBackend>(tx: &mut Tx<DB>, account: i64, money: i64) -> Result<u64, Error> {
    let update = DB::sql("UPDATE account SET balance = balance + ? WHERE id = ?");
    Ok(DB::execute(tx, update, &[money, account]).await?)
}

/// Runs one transaction that changes these accounts in this order.
async fn change<DB: TestBackend>(db: &impl Transactor<DB>, accounts: &[i64]) {
    let all = async |tx: &mut Tx<DB>| {
        for account in accounts {
            add(tx, *account, 5).await?;
        }
        Ok::<_, Error>(())
    };
    db.run(all).await.expect("a commit");
}

fn reports(order: &LockOrder) -> Vec<String> {
    order.inversions().iter().map(ToString::to_string).collect()
}

const OPPOSITE: &str = "account id=1 before account id=2:
    UPDATE account SET balance = balance + 5 WHERE id = 1
    UPDATE account SET balance = balance + 5 WHERE id = 2
and account id=2 before account id=1:
    UPDATE account SET balance = balance + 5 WHERE id = 2
    UPDATE account SET balance = balance + 5 WHERE id = 1";

/// The transactions run one after another on one connection, so none of them waits.
pub(crate) async fn reports_transfers_in_opposite_orders<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let order = LockOrder::new();
    let (one, other) = (Pessimistic::default().on(&pool), Pessimistic::default().on(&pool));
    change(&order.on(&one), &[1, 2]).await;
    change(&order.on(&one), &[1, 2, 1]).await;
    order.assert_consistent();

    // Another transactor, and a clone of the recorder.
    change(&order.clone().on(&other), &[2, 1]).await;
    assert_eq!(reports(&order), [OPPOSITE]);
    let panic =
        catch_unwind(AssertUnwindSafe(|| order.assert_consistent())).expect_err("the assertion fails");
    let message = panic.downcast_ref::<String>().expect("a text");
    assert_eq!(*message, format!("locks are taken in orders that can deadlock:\n\n{OPPOSITE}"));

    // The same statements on other rows are not reported again.
    for accounts in [[3, 4], [4, 3]] {
        change(&order.on(&one), &accounts).await;
    }
    assert_eq!(reports(&order).len(), 1);
    assert_eq!(order.unknown(), []);
}

pub(crate) async fn accepts_opposite_orders_of_rows_locked_in_advance<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    let db = order.on(&db);
    for [from, to] in [[1, 2], [2, 1]] {
        db.run(async |tx: &mut Tx<DB>| {
            DB::lock_accounts(tx, &[from, to]).await?;
            // The order of this statement is irrelevant, because the rows are locked already.
            DB::execute(tx, DB::sql("UPDATE account SET balance = balance WHERE id IN (2, 1)"), &[]).await?;
            add(tx, from, -5).await?;
            add(tx, to, 5).await
        })
        .await
        .expect("a commit");
        db.run(async |tx: &mut Tx<DB>| {
            for account in [3, 4] {
                let select = DB::sql("SELECT balance FROM account WHERE id = ?");
                DB::fetch(tx, tx.for_update(select), &[account]).await?;
            }
            add(tx, from + 2, -5).await?;
            add(tx, to + 2, 5).await
        })
        .await
        .expect("a commit");
    }
    order.assert_consistent();
    assert_eq!(order.unknown(), []);
}

pub(crate) async fn reports_a_cycle_of_three_orders<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    change(&order.on(&db), &[1, 2]).await;
    change(&order.on(&db), &[2, 3]).await;
    order.assert_consistent();
    change(&order.on(&db), &[3, 1]).await;
    let found = order.inversions();
    let [inversion] = found.as_slice() else { panic!("{found:?}") };
    let orders: Vec<_> = inversion
        .orders()
        .iter()
        .map(|order| (order.first.lock.as_str(), order.then.lock.as_str()))
        .collect();
    let [one, two, three] = ["account id=1", "account id=2", "account id=3"];
    assert_eq!(orders, [(one, two), (two, three), (three, one)]);
}

/// The run returns its own error, or is dropped.
pub(crate) async fn records_the_order_of_failed_and_dropped_runs<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    for dropped in [false, true] {
        let order = LockOrder::new();
        change(&order.on(&db), &[1, 2]).await;
        let has_locked = Notify::new();
        let watched = order.on(&db);
        let failing = watched.run(async |tx: &mut Tx<DB>| {
            add(tx, 2, 5).await?;
            add(tx, 1, 5).await?;
            if dropped {
                has_locked.notify_one();
                std::future::pending::<()>().await;
            }
            Err::<(), Error>(sqlx::Error::RowNotFound.into())
        });
        tokio::select! {
            ended = failing => assert!(!dropped && ended.is_err()),
            () = has_locked.notified() => {}
        }
        assert_eq!(reports(&order), [OPPOSITE], "dropped: {dropped}");
    }
}

/// The second attempt does not hold the locks of the first one.
pub(crate) async fn tracks_each_attempt_separately<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    let watched = order.on(&db);
    watched
        .run(async |tx: &mut Tx<DB>| {
            let attempt = i64::from(tx.attempt());
            add(tx, attempt, 5).await?;
            tx.expect_one(u64::from(attempt == 2))
        })
        .await
        .expect("the second attempt");
    change(&watched, &[2, 1]).await;
    order.assert_consistent();
}

pub(crate) async fn lists_locks_whose_rows_are_unknown<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let (by_id, by_balance) = (LockOrder::new(), LockOrder::new().key("account", "balance"));
    for order in [&by_id, &by_balance] {
        for _ in 0..2 {
            let unit = async |tx: &mut Tx<DB>| {
                DB::execute(tx, DB::sql("UPDATE account SET balance = 7 WHERE balance = ?"), &[1]).await?;
                DB::execute(tx, DB::sql("UPDATE account SET balance = balance WHERE id IN (4, 5)"), &[])
                    .await?;
                Ok::<_, Error>(())
            };
            order.on(&db).run(unit).await.expect("a commit");
        }
    }
    let reasons =
        |order: &LockOrder| order.unknown().iter().map(|unknown| unknown.reason).collect::<Vec<_>>();
    assert_eq!(reasons(&by_id), [UnknownReason::Rows, UnknownReason::Order]);
    assert_eq!(reasons(&by_balance), [UnknownReason::Rows]);
    let unknown = by_id.unknown()[0].to_string();
    assert!(
        unknown.starts_with("does not say which rows it locks: UPDATE account SET balance = 7"),
        "{unknown}"
    );
}

/// The steps are recorded although the explorer delays them.
pub(crate) async fn records_the_order_of_explored_units<DB: TestBackend>() {
    let pool = bank::<DB>(3).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    let watched = order.on(&db);
    let report = explore(&pool)
        .unit("alice", &watched, async |tx: &mut Tx<DB>| {
            add(tx, 1, 5).await?;
            add(tx, 2, 5).await
        })
        .unit("bob", &watched, async |tx: &mut Tx<DB>| {
            add(tx, 2, 5).await?;
            add(tx, 1, 5).await
        })
        .max_schedules(2)
        .allow_deadlocks()
        .run()
        .await
        .expect("explored");
    assert_eq!(report.schedules, 2);
    assert_eq!(reports(&order), [OPPOSITE]);
}

pub(crate) async fn reports_advisory_locks_in_opposite_orders<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    let watched = order.on(&db);
    for days in [[1, 2], [2, 1]] {
        watched
            .run(async |tx: &mut Tx<DB>| {
                for day in days {
                    tx.advisory_lock(("day", day)).await?;
                }
                Ok::<_, Error>(())
            })
            .await
            .expect("a commit");
    }
    let found = reports(&order);
    assert!(matches!(found.as_slice(), [one] if one.starts_with("advisory lock ")), "{found:?}");

    // `try_advisory_lock` never waits, so its order does not matter.
    let order = LockOrder::new();
    let watched = order.on(&db);
    for days in [[1, 2], [2, 1]] {
        watched
            .run(async |tx: &mut Tx<DB>| {
                for day in days {
                    tx.try_advisory_lock(("day", day)).await?;
                }
                Ok::<_, Error>(())
            })
            .await
            .expect("a commit");
    }
    order.assert_consistent();
}

pub(crate) async fn accepts_opposite_orders_behind_a_common_lock<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    for (gates, inversions) in [([7, 7], 0), ([7, 8], 1)] {
        let order = LockOrder::new();
        let watched = order.on(&db);
        for (gate, [first, second]) in gates.into_iter().zip([[1, 2], [2, 1]]) {
            watched
                .run(async |tx: &mut Tx<DB>| {
                    tx.advisory_lock(gate).await?;
                    add(tx, first, 5).await?;
                    add(tx, second, 5).await
                })
                .await
                .expect("a commit");
        }
        assert_eq!(order.inversions().len(), inversions, "{gates:?}");
    }
}

/// One transaction is enough for the report, and two concurrent ones do deadlock.
pub(crate) async fn reports_an_upgrade_from_a_shared_lock<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    let both_share = Barrier::new(2);
    let deadlocks = AtomicU32::new(0);
    let unit = async |tx: &mut Tx<DB>, concurrent: bool| {
        let select = DB::sql("SELECT balance FROM account WHERE id = 1");
        DB::fetch(tx, tx.locking(RowLock::SHARE, select)?, &[]).await?;
        if concurrent && tx.attempt() == 1 {
            both_share.wait().await;
        }
        let changed = add(tx, 1, 5).await;
        let failure = changed.as_ref().err().and_then(Error::failure);
        if failure.is_some_and(|failure| failure.kind() == FailureKind::Deadlock) {
            deadlocks.fetch_add(1, Ordering::Relaxed);
        }
        changed
    };
    order.on(&db).run(async |tx: &mut Tx<DB>| unit(tx, false).await).await.expect("a commit");
    let found = reports(&order);
    let [report] = found.as_slice() else { panic!("{found:?}") };
    assert!(report.starts_with("account id=1 shared before it is locked for a change"), "{report}");

    let concurrent = || db.run(async |tx: &mut Tx<DB>| unit(tx, true).await);
    let (one, other) = tokio::join!(concurrent(), concurrent());
    one.and(other).expect("both units commit");
    // A retried unit may share the row before the server has woken the other one, and then they meet again.
    assert!(deadlocks.into_inner() > 0, "two transactions shared the row, and did not deadlock");
}

/// On rollback to a savepoint PostgreSQL releases its locks, and InnoDB only if nothing preceded the
/// savepoint. The report agrees with the server.
pub(crate) async fn savepoints_release_the_locks_that_the_server_releases<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    for comes_first in [true, false] {
        let order = LockOrder::new();
        let watched = order.on(&db);
        let is_free = async || {
            let select = DB::sql("SELECT balance FROM account WHERE id = 1 FOR UPDATE NOWAIT");
            DB::pool_fetch(&pool, select, &[]).await.is_ok()
        };
        let released = watched
            .run(async |tx: &mut Tx<DB>| {
                if !comes_first {
                    add(tx, 3, 5).await?;
                }
                let undone = tx
                    .savepoint(async |tx: &mut Tx<DB>| {
                        add(tx, 1, 5).await?;
                        assert!(!is_free().await);
                        Err::<(), Error>(sqlx::Error::RowNotFound.into())
                    })
                    .await;
                undone.expect_err("its own error");
                add(tx, 2, 5).await?;
                Ok::<_, Error>(is_free().await)
            })
            .await
            .expect("a commit");
        change(&watched, &[2, 1]).await;
        assert_eq!(order.inversions().is_empty(), released, "comes first: {comes_first}");
    }
}

/// A unit that continues without a refused lock has not locked the row, so it shows no order.
pub(crate) async fn does_not_record_a_refused_lock<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    let watched = order.on(&db);
    let held = Barrier::new(2);
    let holder = db.run(async |tx: &mut Tx<DB>| {
        add(tx, 1, 5).await?;
        held.wait().await;
        held.wait().await;
        Ok::<_, Error>(())
    });
    let other = async {
        held.wait().await;
        let unit = watched.run(async |tx: &mut Tx<DB>| {
            add(tx, 3, 5).await?;
            let refused = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    let select = DB::sql("SELECT balance FROM account WHERE id = 1");
                    let select = tx.locking(RowLock::UPDATE.nowait(), select)?;
                    Ok::<_, Error>(DB::fetch(tx, select, &[]).await?)
                })
                .await;
            assert!(refused.is_err());
            add(tx, 2, 5).await
        });
        let result = unit.await;
        held.wait().await;
        result
    };
    let (holder, other) = tokio::join!(holder, other);
    holder.and(other.map(drop)).expect("two commits");
    change(&watched, &[2, 1]).await;
    order.assert_consistent();
}

pub(crate) async fn tracks_concurrent_runs_separately<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    let watched = order.on(&db);
    let first_done = Barrier::new(2);
    let first = watched.run(async |tx: &mut Tx<DB>| {
        add(tx, 1, 5).await?;
        first_done.wait().await;
        first_done.wait().await;
        Ok::<_, Error>(())
    });
    let second = async {
        first_done.wait().await;
        change(&watched, &[2]).await;
        first_done.wait().await;
    };
    tokio::join!(first, second).0.expect("a commit");
    change(&watched, &[2, 1]).await;
    order.assert_consistent();
}
