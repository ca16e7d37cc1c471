//! What `Failover` refuses. `tests/galera` and `tests/failover` show what it does.

#![cfg(feature = "sqlite")]

use sqlx::SqlitePool;

use super::Failover;
use crate::error::{Error, ErrorKind};
use crate::strategies::Pessimistic;
use crate::transactor::TransactorExt as _;
use crate::tx::Tx;

#[tokio::test]
async fn refuses_databases_without_servers() {
    let pool = SqlitePool::connect_lazy("sqlite::memory:").expect("a pool");
    let db = Failover::new(Pessimistic::default().on(&pool), [&pool]);
    let unit = db.run(async |_: &mut Tx<_>| Ok::<_, Error>(()));
    let error = unit.await.expect_err("no server");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}
