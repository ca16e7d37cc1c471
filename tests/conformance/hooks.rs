//! What is done once the end of a transaction is known.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{Error, ErrorKind, Optimistic, Pessimistic, TransactorExt as _, Tx};
use sqlx::Pool;
use sqlx::pool::PoolOptions;

use super::increments::{counter, increment, patient, value};
use super::outcomes::set_value;
use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestBackend, eventually};

/// What the hooks did, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, entry: impl Into<String>) {
        self.0.lock().expect("the diary").push(entry.into());
    }

    fn read(&self) -> Vec<String> {
        self.0.lock().expect("the diary").clone()
    }

    /// Registers a hook for each end.
    fn register<DB: TestBackend>(&self, tx: &mut Tx<DB>, name: &str) {
        let note = |end: &str| {
            let (diary, entry) = (self.clone(), format!("{name} {end}"));
            async move { diary.note(entry) }
        };
        let (committed, rolled_back, unknown) = (note("committed"), note("rolled back"), note("unknown"));
        tx.on_commit(committed);
        tx.on_rollback(rolled_back);
        tx.on_unknown(unknown);
    }
}

pub(crate) async fn hooks_run_once_in_order_after_the_last_attempt<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let diary = Diary::default();
    patient(Optimistic::default(), &pool)
        .run(async |tx: &mut Tx<DB>| {
            let attempt = tx.attempt();
            diary.register(tx, &format!("first of {attempt},"));
            diary.register(tx, &format!("second of {attempt},"));
            set_value(tx, 1).await?;
            tx.expect_one(u64::from(attempt == 3))
        })
        .await
        .expect("the third attempt");
    assert_eq!(diary.read(), ["first of 3, committed", "second of 3, committed"]);
}

pub(crate) async fn rolled_back_for_good_says_so_once<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let (own, exhausted, late) = (Diary::default(), Diary::default(), Diary::default());
    let db = Pessimistic::default().on(&pool);

    db.run(async |tx: &mut Tx<DB>| {
        own.register(tx, "own");
        Err::<(), Error>(sqlx::Error::RowNotFound.into())
    })
    .await
    .expect_err("its own error");
    assert_eq!(own.read(), ["own rolled back"]);

    let never = async |tx: &mut Tx<DB>| {
        exhausted.register(tx, &tx.attempt().to_string());
        tx.expect_one(0)
    };
    db.clone().attempts(3).run(never).await.expect_err("always stale");
    assert_eq!(exhausted.read(), ["3 rolled back"]);

    let slow = async |tx: &mut Tx<DB>| {
        late.register(tx, "late");
        std::future::pending::<()>().await;
        Ok::<_, Error>(())
    };
    db.deadline(Duration::from_millis(100)).run(slow).await.expect_err("too slow");
    eventually(vec!["late rolled back".to_owned()], async || late.read()).await;
}

pub(crate) async fn hooks_of_a_savepoint_go_with_it<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let diary = Diary::default();
    Pessimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            diary.register(tx, "outer");
            let _: Result<(), Error> = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    diary.register(tx, "undone");
                    Err(sqlx::Error::RowNotFound.into())
                })
                .await;
            tx.savepoint(async |tx: &mut Tx<DB>| {
                diary.register(tx, "kept");
                Ok::<_, Error>(())
            })
            .await
        })
        .await
        .expect("a commit");
    assert_eq!(diary.read(), ["outer committed", "undone rolled back", "kept committed"]);
}

/// The only connection of the pool is free again: a hook may use the pool.
pub(crate) async fn hooks_run_with_the_connection_given_back<DB: TestBackend>() {
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

pub(crate) async fn a_hook_that_panics_hides_nothing<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let diary = Diary::default();
    Pessimistic::default()
        .on(&pool)
        .run(async |tx: &mut Tx<DB>| {
            diary.register(tx, "before");
            tx.on_commit(async { panic!("a hook panics") });
            diary.register(tx, "after");
            increment(tx).await
        })
        .await
        .expect("a commit is a commit");
    assert_eq!(diary.read(), ["before committed", "after committed"]);
    assert_eq!(value(&pool).await, 1);
}

/// The caller goes while the first hook waits.
pub(crate) async fn hooks_go_on_when_the_caller_has_gone<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let diary = Diary::default();
    let (go, wait) = tokio::sync::watch::channel(false);
    let db = Pessimistic::default().on(&pool);
    let run = db.run(async |tx: &mut Tx<DB>| {
        let (diary, mut wait) = (diary.clone(), wait.clone());
        tx.on_commit(async move {
            diary.note("started");
            let _ = wait.wait_for(|go| *go).await;
            diary.note("finished");
        });
        increment(tx).await
    });
    let mut run = Box::pin(run);
    tokio::select! {
        _ = &mut run => panic!("the hook does not wait"),
        () = eventually(vec!["started".to_owned()], async || diary.read()) => {}
    }
    drop(run);
    go.send_replace(true);
    eventually(vec!["started".to_owned(), "finished".to_owned()], async || diary.read()).await;
    assert_eq!(value(&pool).await, 1);
}

pub(crate) async fn an_unknown_commit_runs_its_hooks<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await.expect("a pool");
    let diary = Diary::default();
    proxy.on(DB::COMMIT, Fault::CutAfter);
    let run = async |tx: &mut Tx<DB>| {
        diary.register(tx, "commit");
        increment(tx).await
    };
    let error = Pessimistic::default().on(&pool).run(run).await.expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    assert_eq!(diary.read(), ["commit unknown"]);
}
