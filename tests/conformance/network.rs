//! Networks that lose things, and servers that are not there.

use std::time::Duration;

use atomically::{Atomic, Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};
use sqlx::pool::PoolOptions;
use tokio::time::timeout;

use super::increments::{counter, increment, value};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{ServerBackend, TestBackend, eventually};

/// Only to tell "in time" from "never", on the busiest of machines.
const FOR_EVER: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

pub(crate) async fn a_server_that_is_not_there_is_a_typed_error_in_time<DB: TestBackend>() {
    let real = counter::<DB>(1).await;
    // A port that was free a moment ago.
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let url = Proxy::to(&real.url).await.url(&real.url);
    let proxied = url.rsplit_once('@').expect("a host").1.split('/').next().expect("a host").to_owned();
    let pool =
        PoolOptions::<DB>::new().connect_lazy(&url.replace(&proxied, &nobody.to_string())).expect("a URL");

    let run = async { Pessimistic::default().on(&pool).deadline(SHORT).run(increment::<DB>).await };
    let error = timeout(FOR_EVER, run).await.expect("in time").expect_err("nobody is there");
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.is_exhausted(), "{error:?}");
}

/// The pool has one connection; it goes silent at the opening, or at a statement, and the next run has
/// another one.
pub(crate) async fn a_peer_that_falls_silent_is_a_typed_error_in_time<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await.expect("a pool");
    let db = Pessimistic::default().on(&pool).deadline(SHORT);
    for trigger in ["ISOLATION LEVEL", "SELECT value"] {
        proxy.on(trigger, Fault::SilenceBefore);
        let before = proxy.hits();
        let run = db.run(async |tx: &mut Tx<DB>| {
            // Never sent before, so that it is sent as text and not by the name of a prepared statement.
            let select = format!("SELECT value FROM counter WHERE id = 1 AND {before} = {before}");
            DB::fetch(tx, DB::sql(&select), &[]).await?;
            increment(tx).await
        });
        let error = timeout(FOR_EVER, run).await.expect("in time").expect_err("silence");
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{trigger}: {error:?}");
        assert!(proxy.hits() > before, "{trigger} was never sent");
        proxy.heal();
        timeout(FOR_EVER, db.run(increment::<DB>))
            .await
            .expect("in time")
            .expect("the pool is usable at once");
    }
    assert_eq!(value(&direct).await, 2);
}

/// Whether or not it was delivered: nobody can know, and it is not run again.
pub(crate) async fn a_commit_that_is_not_answered_is_unknown<DB: ServerBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await.expect("a pool");
    let db = Pessimistic::default().on(&pool).deadline(SHORT);
    let mut stored = 0;
    for (fault, delivered) in [
        (Fault::SilenceBefore, false),
        (Fault::SilenceAfter, true),
        (Fault::CutBefore, false),
        (Fault::CutAfter, true),
    ] {
        proxy.on(DB::COMMIT, fault);
        let before = proxy.hits();
        let run = db.run(increment::<DB>);
        let error = timeout(FOR_EVER, run).await.expect("in time").expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{fault:?}: {error:?}");
        assert!(error.is_commit_unknown() && error.attempts() == Some(1), "{error:?}");
        assert_eq!(proxy.hits(), before + 1, "the commit was sent once");
        proxy.heal();
        stored += i64::from(delivered);
        eventually(stored, async || value(&direct).await).await;

        // The row is not locked for those who come after, unless the server has not heard that its client is
        // gone.
        if !matches!(fault, Fault::SilenceBefore) {
            let patient = db.clone().deadline(FOR_EVER);
            timeout(FOR_EVER, patient.run(increment::<DB>)).await.expect("in time").expect("usable at once");
            stored += 1;
        } else {
            DB::kill_sessions(&direct.url).await;
        }
    }
    assert_eq!(value(&direct).await, stored);

    proxy.on("value = value + 0", Fault::CutAfter);
    let db = Atomic::default().on(&pool);
    let lone = db.apply(sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 0"))).await;
    assert!(lone.expect_err("no answer").is_commit_unknown(), "a lone statement commits itself");
}

pub(crate) async fn a_connection_cut_before_the_commit_is_run_again<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await.expect("a pool");
    let db = Pessimistic::default().on(&pool);
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        // Of its own, so that it is sent as text and not by the name of a prepared statement.
        let update = format!("UPDATE counter SET version = version + 1 WHERE id = 1 /* {fault:?} */");
        let attempts = db.run(async |tx: &mut Tx<DB>| {
            if tx.attempt() == 1 {
                proxy.on(&update, fault);
            } else {
                proxy.heal();
            }
            DB::execute(tx, DB::sql(&update), &[]).await?;
            increment(tx).await?;
            Ok::<_, Error>(tx.attempt())
        });
        assert_eq!(attempts.await.expect("the second attempt commits"), 2, "{fault:?}");
        proxy.heal();
    }
    assert_eq!(value(&direct).await, 2);
}
