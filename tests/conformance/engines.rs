//! The engine behind a pool, and what units request of it.

use atomically::{Capability, EngineProduct, Error, ErrorKind, Optimistic, Pessimistic, Support};
use atomically::{TransactorExt as _, Tx};
use sqlx::pool::PoolOptions;

use super::increments::{counter, increment, value};
use crate::support::proxy::Proxy;
use crate::support::{ServerBackend, TestBackend};

pub(crate) async fn the_engine_is_the_product_and_version_of_the_server<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let engine = db.engine().await.expect("an engine");
    let products: &[_] = match DB::NAME {
        "PostgreSQL" => &[EngineProduct::PostgreSql],
        "MySQL" => &[EngineProduct::MySql, EngineProduct::MariaDb],
        _ => &[EngineProduct::Sqlite],
    };
    assert!(products.contains(&engine.product()), "{engine:?}");
    assert!(engine.version().major >= 3, "{engine:?}");
    assert_eq!(engine.cluster(), None);
    let begins_with_version = engine.to_string().contains(&format!(" {}", engine.version()));
    assert!(begins_with_version, "{engine}");
    let inside = db.run(async |tx: &mut Tx<DB>| Ok::<_, Error>(tx.engine())).await.expect("a commit");
    assert_eq!(inside.product(), engine.product());
    for capability in Capability::ALL {
        assert_ne!(engine.supports(capability), Support::Unknown, "{capability:?} of {engine}");
    }
}

/// The engine is queried by the first unit on a pool. Later units, and other transactors on the pool, cost
/// what a unit costs. New options of the pool may lead to another server, so it is queried again.
pub(crate) async fn the_engine_is_queried_once_for_each_pool<DB: ServerBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = PoolOptions::<DB>::new().max_connections(1).test_before_acquire(false);
    let pool = pool.connect(&proxy.url(&direct.url)).await.expect("a pool through the proxy");
    // Acquiring the only connection waits for the ping of its release.
    let requests = async || {
        let _connection = pool.acquire().await.expect("the connection is released");
        proxy.requests()
    };
    let cost_of_a_unit = async || {
        let before = requests().await;
        let db = Optimistic::default().on(&pool);
        db.run(async |_: &mut Tx<DB>| Ok::<_, Error>(())).await.expect("a commit");
        requests().await - before
    };
    let first = cost_of_a_unit().await;
    let second = cost_of_a_unit().await;
    assert_eq!(first, second + 1, "the engine, in one round trip");
    let before = requests().await;
    Pessimistic::default().on(&pool).engine().await.expect("an engine");
    assert_eq!(requests().await, before, "it is known");
    pool.set_connect_options((*pool.connect_options()).clone());
    assert_eq!(cost_of_a_unit().await, first, "other options");
    assert_eq!(cost_of_a_unit().await, second);
}

/// A text that the engine is known to refuse is not sent, and the unit may go on without it.
pub(crate) async fn a_lock_that_the_engine_lacks_is_refused_before_it_is_sent<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let of_one_table = atomically::RowLock::UPDATE.of("counter");
    let sql = "SELECT value FROM counter WHERE id = 1";
    let lacks = db
        .run(async |tx: &mut Tx<DB>| {
            let refused = tx.locking(of_one_table, sql).err();
            increment(tx).await?;
            let lacks = tx.engine().supports(Capability::LocksOfOneTable).is_no();
            assert_eq!(refused.as_ref().map(Error::kind), lacks.then_some(ErrorKind::Unsupported));
            Ok::<_, Error>(lacks.then(|| refused.map(|error| error.to_string())))
        })
        .await
        .expect("a commit");
    assert_eq!(value(&pool).await, 1);
    if let Some(message) = lacks.flatten() {
        let name = db.engine().await.expect("an engine").name();
        assert!(message.contains(name), "{message}");
    }
}
