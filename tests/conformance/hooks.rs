//! Hooks that run once the outcome of a transaction is known.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{Error, ErrorKind, Optimistic, Pessimistic, TransactorExt as _, Tx};
use sqlx::Pool;
use sqlx::pool::PoolOptions;

use super::increments::{counter, increment, patient, value};
use super::outcomes::set_value;
use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestBackend, eventually, with_longer_limits};

/// The entries that hooks have recorded, in order.
#[derive(Clone, Default)]
struct HookLog(Arc<Mutex<Vec<String>>>);

impl HookLog {
    fn record(&self, entry: impl Into<String>) {
        self.0.lock().expect("the log").push(entry.into());
    }

    fn entries(&self) -> Vec<String> {
        self.0.lock().expect("the log").clone()
    }

    /// Registers a hook for each outcome.
    fn register<DB: TestBackend>(&self, tx: &mut Tx<DB>, name: &str) {
        let record = |outcome: &str| {
            let (log, entry) = (self.clone(), format!("{name} {outcome}"));
            async move { log.record(entry) }
        };
        let (committed, rolled_back, unknown) =
            (record("committed"), record("rolled back"), record("unknown"));
        tx.on_commit(committed);
        tx.on_rollback(rolled_back);
        tx.on_unknown(unknown);
    }
}

pub(crate) async fn hooks_run_once_in_order_after_the_last_attempt<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let log = HookLog::default();
    patient(Optimistic::default(), &pool)
        .run(async |tx: &mut Tx<DB>| {
            let attempt = tx.attempt();
            log.register(tx, &format!("first of {attempt},"));
            log.register(tx, &format!("second of {attempt},"));
            set_value(tx, 1).await?;
            tx.expect_one(u64::from(attempt == 3))
        })
        .await
        .expect("the third attempt");
    assert_eq!(log.entries(), ["first of 3, committed", "second of 3, committed"]);
}

pub(crate) async fn rollback_hooks_run_once_after_the_last_attempt<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let (own_error, exhausted, late) = (HookLog::default(), HookLog::default(), HookLog::default());
    let db = Pessimistic::default().on(&pool);

    db.run(async |tx: &mut Tx<DB>| {
        own_error.register(tx, "own");
        Err::<(), Error>(sqlx::Error::RowNotFound.into())
    })
    .await
    .expect_err("its own error");
    assert_eq!(own_error.entries(), ["own rolled back"]);

    let conflicts = async |tx: &mut Tx<DB>| {
        exhausted.register(tx, &tx.attempt().to_string());
        tx.expect_one(0)
    };
    db.clone().attempts(3).run(conflicts).await.expect_err("always stale");
    assert_eq!(exhausted.entries(), ["3 rolled back"]);

    let has_begun = AtomicBool::new(false);
    let slow = async |tx: &mut Tx<DB>| {
        late.register(tx, "late");
        has_begun.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
        Ok::<_, Error>(())
    };
    with_longer_limits(Duration::from_secs(1), async |deadline| {
        let error = db.clone().deadline(deadline).run(slow).await.expect_err("too slow");
        if has_begun.load(Ordering::Relaxed) { Ok(()) } else { Err(error) }
    })
    .await;
    eventually(vec!["late rolled back".to_owned()], async || late.entries()).await;
}

pub(crate) async fn hooks_of_a_rolled_back_savepoint_run_as_rolled_back<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let log = HookLog::default();
    Pessimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            log.register(tx, "outer");
            let _: Result<(), Error> = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    log.register(tx, "undone");
                    Err(sqlx::Error::RowNotFound.into())
                })
                .await;
            tx.savepoint(async |tx: &mut Tx<DB>| {
                log.register(tx, "kept");
                Ok::<_, Error>(())
            })
            .await
        })
        .await
        .expect("a commit");
    assert_eq!(log.entries(), ["outer committed", "undone rolled back", "kept committed"]);
}

/// The pool's only connection is idle again, so a hook can use the pool.
pub(crate) async fn hooks_run_after_the_connection_is_released<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let seen = Arc::new(Mutex::new(None));
    Pessimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            increment(tx).await?;
            let (pool, seen): (Pool<DB>, _) = (pool.pool.clone(), seen.clone());
            tx.on_commit(async move {
                let value = value(&pool).await;
                *seen.lock().expect("the slot") = Some(value);
            });
            Ok::<_, Error>(())
        })
        .await
        .expect("a commit");
    assert_eq!(*seen.lock().expect("the slot"), Some(1));
}

pub(crate) async fn a_panicking_hook_does_not_affect_the_result<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let log = HookLog::default();
    Pessimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            log.register(tx, "before");
            tx.on_commit(async { panic!("a hook panics") });
            log.register(tx, "after");
            increment(tx).await
        })
        .await
        .expect("the commit succeeds although a hook panics");
    assert_eq!(log.entries(), ["before committed", "after committed"]);
    assert_eq!(value(&pool).await, 1);
}

/// The caller is dropped while the hook waits.
pub(crate) async fn hooks_finish_after_the_caller_is_dropped<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let log = HookLog::default();
    let (release, released) = tokio::sync::watch::channel(false);
    let db = Pessimistic::default().on(&pool);
    let run = db.run(async |tx: &mut Tx<DB>| {
        let (log, mut released) = (log.clone(), released.clone());
        tx.on_commit(async move {
            log.record("started");
            let _ = released.wait_for(|released| *released).await;
            log.record("finished");
        });
        increment(tx).await
    });
    let mut run = Box::pin(run);
    tokio::select! {
        _ = &mut run => panic!("the run returned before its hook finished"),
        () = eventually(vec!["started".to_owned()], async || log.entries()) => {}
    }
    drop(run);
    release.send_replace(true);
    eventually(vec!["started".to_owned(), "finished".to_owned()], async || log.entries()).await;
    assert_eq!(value(&pool).await, 1);
}

pub(crate) async fn runs_the_unknown_hook_after_an_unknown_commit<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await.expect("a pool");
    let log = HookLog::default();
    proxy.on(DB::COMMIT, Fault::CutAfter);
    let run = async |tx: &mut Tx<DB>| {
        log.register(tx, "commit");
        increment(tx).await
    };
    let error = Pessimistic::default().on(&pool).run(run).await.expect_err("no response");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    assert_eq!(log.entries(), ["commit unknown"]);
}
