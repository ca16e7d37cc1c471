//! How many round trips a transfer takes, counted by a proxy: the numbers that the guide gives.

use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Pool, Postgres};

use crate::bank::{Bank, bank, ids, keep, transfer};
use crate::support::TestPool;
use crate::support::proxy::Proxy;

struct Distant<DB: Bank> {
    pool: Pool<DB>,
    db: PoolTransactor<DB, Pessimistic>,
    proxy: Proxy,
    _server: TestPool<DB>,
}

async fn distant<DB: Bank>() -> Distant<DB> {
    let server = bank::<DB>(1).await;
    let proxy = Proxy::to(&server.url).await;
    let pool = PoolOptions::<DB>::new().max_connections(1).test_before_acquire(false);
    let pool = pool.connect(&proxy.url(&server.url)).await.expect("a pool through the proxy");
    let db = Pessimistic::default().on(&pool).reuse_connections();
    Distant { pool, db, proxy, _server: server }
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
