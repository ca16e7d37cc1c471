//! Hooks of an attempt after which no other one can begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, Pessimistic, TransactorExt as _, Tx};

use crate::support::{TestBackend, eventually};
use crate::{add_one, counter};

/// The first attempt ends with a conflict, and the second one finds the pool closed.
pub(crate) async fn on_rollback_runs_when_the_next_attempt_cannot_open<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let ran = Arc::new([const { AtomicU32::new(0) }; 2]);
    let closing = pool.pool.clone();
    let unit = {
        let ran = ran.clone();
        async move |tx: &mut Tx<DB>| {
            let (on_rollback, on_commit) = (ran.clone(), ran.clone());
            tx.on_rollback(async move { on_rollback[0].fetch_add(1, Ordering::SeqCst) });
            tx.on_commit(async move { on_commit[1].fetch_add(1, Ordering::SeqCst) });
            add_one(tx).await?;
            let pool = closing.clone();
            tokio::spawn(async move { pool.close().await });
            while !closing.is_closed() {
                tokio::task::yield_now().await;
            }
            tx.expect_one(0)
        }
    };
    let error: Error = Pessimistic::default().on(&pool).run(unit).await.expect_err("the pool is closed");
    assert_eq!(error.attempts(), Some(2), "{error:?}");
    eventually((1, 0), async || (ran[0].load(Ordering::SeqCst), ran[1].load(Ordering::SeqCst))).await;
}
