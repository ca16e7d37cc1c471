//! Orders of locks that could deadlock are found without a deadlock, and without anybody waiting.

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

/// One transaction that changes these accounts, one after the other.
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

/// One after the other, on one connection even: nobody ever waits.
pub(crate) async fn opposite_transfers_are_reported<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let order = LockOrder::new();
    let (here, there) = (Pessimistic::default().on(&pool), Pessimistic::default().on(&pool));
    change(&order.on(&here), &[1, 2]).await;
    change(&order.on(&here), &[1, 2, 1]).await;
    order.assert_consistent();

    // Another transactor, and a clone of what has seen the first one.
    change(&order.clone().on(&there), &[2, 1]).await;
    assert_eq!(reports(&order), [OPPOSITE]);
    let panic = catch_unwind(AssertUnwindSafe(|| order.assert_consistent())).expect_err("it asserts");
    let message = panic.downcast_ref::<String>().expect("a text");
    assert_eq!(*message, format!("locks are taken in orders that can deadlock:\n\n{OPPOSITE}"));

    // Other rows, the same statements: nothing new.
    for accounts in [[3, 4], [4, 3]] {
        change(&order.on(&here), &accounts).await;
    }
    assert_eq!(reports(&order).len(), 1);
    assert_eq!(order.unknown(), []);
}

pub(crate) async fn rows_locked_first_are_not<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    let db = order.on(&db);
    for [from, to] in [[1, 2], [2, 1]] {
        db.run(async |tx: &mut Tx<DB>| {
            DB::lock_accounts(tx, &[from, to]).await?;
            // In whatever order: they are held already.
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

pub(crate) async fn three_orders_can_make_a_circle<DB: TestBackend>() {
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

/// By an error of its own, or because nobody waited for it any more.
pub(crate) async fn records_the_order_of_failed_and_dropped_runs<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    for dropped in [false, true] {
        let order = LockOrder::new();
        change(&order.on(&db), &[1, 2]).await;
        let there = Notify::new();
        let watched = order.on(&db);
        let failing = watched.run(async |tx: &mut Tx<DB>| {
            add(tx, 2, 5).await?;
            add(tx, 1, 5).await?;
            if dropped {
                there.notify_one();
                std::future::pending::<()>().await;
            }
            Err::<(), Error>(sqlx::Error::RowNotFound.into())
        });
        tokio::select! {
            ended = failing => assert!(!dropped && ended.is_err()),
            () = there.notified() => {}
        }
        assert_eq!(reports(&order), [OPPOSITE], "dropped: {dropped}");
    }
}

/// What the first one held the second one does not.
pub(crate) async fn attempts_are_transactions_of_their_own<DB: TestBackend>() {
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
    let why = |order: &LockOrder| order.unknown().iter().map(|unknown| unknown.reason).collect::<Vec<_>>();
    assert_eq!(why(&by_id), [UnknownReason::Rows, UnknownReason::Order]);
    assert_eq!(why(&by_balance), [UnknownReason::Rows]);
    let unknown = by_id.unknown()[0].to_string();
    assert!(
        unknown.starts_with("does not say which rows it locks: UPDATE account SET balance = 7"),
        "{unknown}"
    );
}

/// The explorer holds the steps back, and they are noted all the same.
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

pub(crate) async fn advisory_locks_have_an_order_too<DB: TestBackend>() {
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

    // Whoever only tries waits for nobody.
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

pub(crate) async fn a_lock_in_front_is_a_gate<DB: TestBackend>() {
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

/// One alone shows it, and two of them do deadlock.
pub(crate) async fn shared_first_and_changed_then_is_reported<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let order = LockOrder::new();
    let both_share = Barrier::new(2);
    let deadlocks = AtomicU32::new(0);
    let unit = async |tx: &mut Tx<DB>, in_company: bool| {
        let select = DB::sql("SELECT balance FROM account WHERE id = 1");
        DB::fetch(tx, tx.locking(RowLock::SHARE, select)?, &[]).await?;
        if in_company && tx.attempt() == 1 {
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

    let in_company = || db.run(async |tx: &mut Tx<DB>| unit(tx, true).await);
    let (one, other) = tokio::join!(in_company(), in_company());
    one.and(other).expect("both get there in the end");
    assert_eq!(deadlocks.into_inner(), 1);
}

/// PostgreSQL gives the locks of a savepoint back, InnoDB only if it came first: the checker says what the
/// server does.
pub(crate) async fn savepoints_release_the_locks_that_the_server_releases<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    for comes_first in [true, false] {
        let order = LockOrder::new();
        let watched = order.on(&db);
        let is_free = async || {
            let try_it = DB::sql("SELECT balance FROM account WHERE id = 1 FOR UPDATE NOWAIT");
            DB::pool_fetch(&pool, try_it, &[]).await.is_ok()
        };
        let freed = watched
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
        assert_eq!(order.inversions().is_empty(), freed, "comes first: {comes_first}");
    }
}

/// And whoever goes on without it has shown no order.
pub(crate) async fn a_refused_lock_is_not_held<DB: TestBackend>() {
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
        let done = unit.await;
        held.wait().await;
        done
    };
    let (holder, other) = tokio::join!(holder, other);
    holder.and(other.map(drop)).expect("two commits");
    change(&watched, &[2, 1]).await;
    order.assert_consistent();
}

pub(crate) async fn tells_concurrent_runs_apart<DB: TestBackend>() {
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
