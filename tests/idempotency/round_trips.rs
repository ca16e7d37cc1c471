//! How many round trips a key costs, counted by a proxy: the numbers that the guide gives.

use atomically::idempotency::{IdempotencyExt as _, Outcome};
use atomically::{Error, Pessimistic, TransactorExt as _, Tx};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Postgres};

use crate::keeps::{Keeps, effect, key, ledger};
use crate::support::proxy::Proxy;

/// Returns by how many round trips a unit with a key takes longer than the same unit without one.
async fn round_trips_of_a_key<DB: Keeps>() -> u32 {
    let direct = ledger::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = PoolOptions::<DB>::new().max_connections(1).test_before_acquire(false);
    let pool = pool.connect(&proxy.url(&direct.url)).await.expect("a pool through the proxy");
    let db = Pessimistic::default().on(&pool);
    // The pool pings each connection that is released. Acquiring the only one waits for that ping.
    let requests = async || {
        let _connection = pool.acquire().await.expect("the connection is released");
        proxy.requests()
    };
    let mut extra = 0;
    // The first round prepares the statements.
    for k in [1, 2] {
        let start = requests().await;
        let unit = async |tx: &mut Tx<DB>| Ok::<_, Error>(effect(tx, k).await?);
        db.run(unit).await.expect("a commit");
        let without_key = requests().await;
        let outcome = db.once(&key(&k.to_string())).run(unit).await.expect("a commit");
        assert!(matches!(outcome, Outcome::Fresh(_)), "{outcome:?}");
        let with_key = requests().await;
        extra = (with_key - without_key) - (without_key - start);
    }
    extra
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_costs_two_round_trips_on_postgres() {
    assert_eq!(round_trips_of_a_key::<Postgres>().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_costs_two_round_trips_on_mariadb() {
    assert_eq!(round_trips_of_a_key::<MySql>().await, 2);
}
