//! How many round trips transfers, savepoints and batches take, counted by a proxy: the numbers that the
//! guide gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::DeltaOutcome::{Applied, NotFound, Refused};
use atomically::holds::{HoldOutcome, Holds};
use atomically::{Deltas, Error, Options, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use futures_util::future::try_join_all;
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Pool, Postgres};

use crate::bank::{BALANCE, Bank, balance, bank, ids, keep, transfer};
use crate::support::TestPool;
use crate::support::proxy::{Fault, Proxy};

struct Distant<DB: Bank> {
    pool: Pool<DB>,
    db: PoolTransactor<DB, Pessimistic>,
    proxy: Proxy,
    server: TestPool<DB>,
}

async fn distant<DB: Bank>() -> Distant<DB> {
    let server = bank::<DB>(1).await;
    let proxy = Proxy::to(&server.url).await;
    let pool = PoolOptions::<DB>::new().max_connections(1).test_before_acquire(false);
    let pool = pool.connect(&proxy.url(&server.url)).await.expect("a pool through the proxy");
    let db = Pessimistic::default().on(&pool).reuse_connections();
    Distant { pool, db, proxy, server }
}

impl<DB: Bank> Distant<DB> {
    /// The number of round trips of a run, without those of the pool.
    async fn count(&self, run: impl Future<Output = Result<(), Error>>) -> u32 {
        // The pool pings each connection that is released: the one that this acquires, and the one of the
        // run. Acquiring the only connection waits for that ping.
        let requests = async || {
            let _connection = self.pool.acquire().await.expect("the connection is released");
            self.proxy.requests()
        };
        let before = requests().await;
        run.await.expect("a commit");
        requests().await - before - 2
    }
}

async fn a_transfer_takes_two_round_trips<DB: Bank>() {
    let distant = distant::<DB>().await;
    let mut counts = Vec::new();
    for _ in 0..4 {
        counts.push(distant.count(transfer::<DB>(&distant.db, 1, 2)).await);
    }
    // The first run asks for the engine, or for the session's settings.
    assert_eq!(counts[1..], [2, 2, 2], "{counts:?}");
    let without_rows = async |tx: &mut Tx<DB>| {
        keep(tx, "UPDATE account SET balance = 3 WHERE id = ?", &[1])?.expect_one();
        Ok::<_, Error>(())
    };
    assert_eq!(distant.count(distant.db.run(without_rows)).await, 2);
    let only_locked = async |_: &mut Tx<DB>| Ok::<_, Error>(());
    let on_rows = distant.db.on_rows("account", "id", ids::<DB, 2>([2, 1]));
    assert_eq!(distant.count(on_rows.run(only_locked)).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_takes_two_round_trips_on_postgres() {
    a_transfer_takes_two_round_trips::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_takes_two_round_trips_on_mariadb() {
    a_transfer_takes_two_round_trips::<MySql>().await;
}

async fn add<DB: Bank>(tx: &mut Tx<DB>) -> Result<(), Error> {
    DB::execute(tx, DB::sql("UPDATE account SET balance = balance + ? WHERE id = 1"), &[1]).await?;
    Ok(())
}

async fn add_in_savepoint<DB: Bank>(tx: &mut Tx<DB>) -> Result<(), Error> {
    tx.savepoint(async |tx: &mut Tx<DB>| add(tx).await).await
}

/// `with_statement` is the number of round trips of a savepoint of one statement that is followed by another
/// statement of the unit.
async fn a_savepoint_is_released_together_with_the_next_statement<DB: Bank>(with_statement: u32) {
    let distant = distant::<DB>().await;
    let alone = async |tx: &mut Tx<DB>| add_in_savepoint(tx).await;
    let in_a_row = async |tx: &mut Tx<DB>| {
        add_in_savepoint(tx).await?;
        add_in_savepoint(tx).await?;
        add_in_savepoint(tx).await
    };
    let nested =
        async |tx: &mut Tx<DB>| tx.savepoint(async |tx: &mut Tx<DB>| add_in_savepoint(tx).await).await;
    let before_a_statement = async |tx: &mut Tx<DB>| {
        add_in_savepoint(tx).await?;
        add(tx).await
    };
    let rolled_back = async |tx: &mut Tx<DB>| {
        let failing = async |tx: &mut Tx<DB>| {
            add_in_savepoint(tx).await?;
            Err::<(), Error>(sqlx::Error::RowNotFound.into())
        };
        assert!(tx.savepoint(failing).await.is_err());
        Ok::<_, Error>(())
    };
    // The first run asks for the engine, and prepares the statement.
    distant.count(distant.db.run(alone)).await;
    // BEGIN, and for each savepoint SAVEPOINT and an update, then COMMIT.
    assert_eq!(distant.count(distant.db.run(alone)).await, 4);
    assert_eq!(distant.count(distant.db.run(in_a_row)).await, 8);
    assert_eq!(distant.count(distant.db.run(nested)).await, 5);
    assert_eq!(distant.count(distant.db.run(before_a_statement)).await, with_statement);
    assert_eq!(distant.count(distant.db.run(rolled_back)).await, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_is_released_together_with_the_next_statement_on_postgres() {
    // The unit's own statement must not run inside of the savepoint, so the release precedes it.
    a_savepoint_is_released_together_with_the_next_statement::<Postgres>(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_is_released_together_with_the_next_statement_on_mariadb() {
    a_savepoint_is_released_together_with_the_next_statement::<MySql>(5).await;
}

/// A connection that is lost while a release is sent ends the attempt, and the unit runs again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_is_lost_runs_the_unit_again() {
    let distant = distant::<Postgres>().await;
    // The first release is sent with the second savepoint, the second one by itself.
    for lost in [0, 1] {
        let mut fates = [None; 6];
        fates[lost] = Some(Fault::CutBefore);
        distant.proxy.heal();
        distant.proxy.cycle("RELEASE SAVEPOINT", &fates);
        let attempts = Arc::new(AtomicU32::new(0));
        let unit = async |tx: &mut Tx<Postgres>| {
            attempts.fetch_add(1, Ordering::Relaxed);
            add_in_savepoint(tx).await?;
            add_in_savepoint(tx).await?;
            add(tx).await
        };
        distant.db.run(unit).await.expect("a commit");
        assert_eq!((attempts.load(Ordering::Relaxed), distant.proxy.hits()), (2, 1 + lost as u32));
    }
    assert_eq!(balance(&distant.server, 1).await, BALANCE + 6);
}

/// The rows are locked with BEGIN, and changed and checked with COMMIT. One thread, so that calls share a
/// batch.
#[tokio::test]
async fn a_batch_of_deltas_takes_two_round_trips_on_mariadb() {
    let distant = distant::<MySql>().await;
    let balances = Deltas::on(&distant.pool, "account", "id", "balance").reuse_connections().at_least(0);
    let add = async |deltas: &Deltas<MySql, i64>, calls: &[(i64, i64)]| {
        let outcomes = try_join_all(calls.iter().map(|(id, delta)| deltas.add(*id, *delta)));
        let mut seen = Vec::new();
        let count = distant
            .count(async {
                seen = outcomes.await?;
                Ok(())
            })
            .await;
        (count, seen)
    };
    // The first run asks for the engine.
    add(&balances, &[(1, 0)]).await;
    let mut expected = BALANCE;
    for _ in 0..2 {
        expected += 1;
        assert_eq!(add(&balances, &[(1, 1)]).await, (2, vec![Applied { value: expected }]));
    }
    let calls = [(1, -expected), (3, 5), (9, 1), (1, -1), (2, 7), (3, -6)];
    let outcomes = vec![
        Applied { value: 0 },
        Applied { value: BALANCE + 5 },
        NotFound,
        Refused { value: 0 },
        Applied { value: BALANCE + 7 },
        Applied { value: BALANCE - 1 },
    ];
    assert_eq!(add(&balances, &calls).await, (2, outcomes));
    assert_eq!(add(&balances, &[(1, -1)]).await, (2, vec![Refused { value: 0 }]));

    // Options that keep a batch from being a single statement do not keep it from sharing texts.
    let limited = balances.clone().options(Options::new().lock_timeout(Duration::from_secs(60)));
    assert_eq!(add(&limited, &[(1, 2)]).await, (2, vec![Applied { value: 2 }]));
    let bound = balances.single_statement(false);
    add(&bound, &[(1, 1)]).await;
    assert_eq!(add(&bound, &[(1, 1)]).await, (5, vec![Applied { value: 4 }]), "all values are bound");
    assert_eq!(balance(&distant.pool, 1).await, 4);
}

#[tokio::test]
async fn a_batch_of_holds_takes_two_round_trips_on_mariadb() {
    let distant = distant::<MySql>().await;
    let balances = Holds::on(&distant.pool, "account", "id", "balance").reuse_connections();
    balances.create_tables().await.expect("the table");
    let ten_minutes = Duration::from_secs(600);
    let mut counts = Vec::new();
    for _ in 0..3 {
        let calls = [1_i64, 2, 1].map(|id| balances.hold(id, 5, ten_minutes));
        let held = async {
            let outcomes = try_join_all(calls).await?;
            assert!(outcomes.iter().all(|outcome| matches!(outcome, HoldOutcome::Held(_))), "{outcomes:?}");
            Ok(())
        };
        counts.push(distant.count(held).await);
    }
    assert_eq!(counts[1..], [2, 2], "{counts:?}");
    let left = [balance(&distant.pool, 1).await, balance(&distant.pool, 2).await];
    assert_eq!(left, [BALANCE - 30, BALANCE - 15]);
    let expired = "UPDATE atomically_hold SET expires_at = expires_at - 700 * 1000 * 1000";
    sqlx::query(expired).execute(&distant.pool).await.expect("time passes");
    assert_eq!(balances.sweep().await.expect("given back"), 9);
    assert_eq!(balance(&distant.pool, 1).await, BALANCE);
}
