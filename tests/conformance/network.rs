//! Lost connections, lost responses and unreachable servers.

use std::time::Duration;

use atomically::{Atomic, Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};
use sqlx::pool::PoolOptions;
use tokio::time::timeout;

use super::increments::{counter, increment, value};
use crate::support::proxy::{Fault, Proxy, closed_port};
use crate::support::{ServerBackend, TestBackend, eventually, with_longer_limits};

/// Distinguishes slow from never, even on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Usually long enough to reach the fault.
const SHORT: Duration = Duration::from_millis(1500);

pub(crate) async fn times_out_if_no_server_listens<DB: TestBackend>() {
    let real = counter::<DB>(1).await;
    let (_reserved, unused) = closed_port();
    let url = Proxy::to(&real.url).await.url(&real.url);
    let proxied = url.rsplit_once('@').expect("a host").1.split('/').next().expect("a host").to_owned();
    let pool = PoolOptions::<DB>::new()
        .connect_lazy(&url.replace(&proxied, &format!("127.0.0.1:{unused}")))
        .expect("a URL");

    let run = async { Pessimistic::default().on(&pool).deadline(SHORT).run(increment::<DB>).await };
    let error = timeout(TEST_TIMEOUT, run).await.expect("in time").expect_err("no server listens");
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.is_exhausted(), "{error:?}");
}

/// The pool has one connection, which becomes silent at the opening of a transaction or at a statement. The
/// next run gets another connection.
pub(crate) async fn times_out_on_a_silent_connection<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await.expect("a pool");
    for trigger in ["ISOLATION LEVEL", "SELECT value"] {
        with_longer_limits(SHORT, async |deadline| {
            proxy.on(trigger, Fault::SilenceBefore);
            let before = proxy.hits();
            let db = Pessimistic::default().on(&pool).deadline(deadline);
            let run = db.run(async |tx: &mut Tx<DB>| {
                // Each text is new, so that it is sent as text and not by the name of a prepared statement.
                let select =
                    format!("SELECT value FROM counter WHERE id = 1 AND '{deadline:?}{before}' <> ''");
                DB::fetch(tx, DB::sql(&select), &[]).await?;
                increment(tx).await
            });
            let error =
                timeout(deadline + TEST_TIMEOUT, run).await.expect("in time").expect_err("no response");
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{trigger}: {error:?}");
            proxy.heal();
            if proxy.hits() > before { Ok(()) } else { Err(format!("{trigger} was never sent")) }
        })
        .await;
        let patient = Pessimistic::default().on(&pool).deadline(TEST_TIMEOUT);
        timeout(TEST_TIMEOUT, patient.run(increment::<DB>))
            .await
            .expect("in time")
            .expect("a commit on another connection");
    }
    assert_eq!(value(&direct).await, 2);
}

/// The caller cannot know whether the commit was delivered, so the unit is not retried.
pub(crate) async fn a_commit_without_a_response_is_unknown<DB: ServerBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await.expect("a pool");
    let db = Pessimistic::default().on(&pool);
    let mut stored = 0;
    for (fault, delivered) in [
        (Fault::SilenceBefore, false),
        (Fault::SilenceAfter, true),
        (Fault::CutBefore, false),
        (Fault::CutAfter, true),
    ] {
        let before = proxy.hits();
        let error = with_longer_limits(SHORT, async |deadline| {
            proxy.on(DB::COMMIT, fault);
            let db = db.clone().deadline(deadline);
            let run = timeout(deadline + TEST_TIMEOUT, db.run(increment::<DB>));
            let error = run.await.expect("in time").expect_err("no response");
            proxy.heal();
            if proxy.hits() > before { Ok(error) } else { Err(error) }
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{fault:?}: {error:?}");
        assert!(error.is_commit_unknown() && error.attempts() == Some(1), "{error:?}");
        assert_eq!(proxy.hits(), before + 1, "the commit was sent once");
        stored += i64::from(delivered);
        eventually(stored, async || value(&direct).await).await;

        // The row is unlocked for the next run, unless the server was not notified that its client has
        // disconnected.
        if !matches!(fault, Fault::SilenceBefore) {
            let patient = db.clone().deadline(TEST_TIMEOUT);
            timeout(TEST_TIMEOUT, patient.run(increment::<DB>)).await.expect("in time").expect("a commit");
            stored += 1;
        } else {
            DB::kill_sessions(&direct.url).await;
        }
    }
    assert_eq!(value(&direct).await, stored);

    proxy.on("value = value + 0", Fault::CutAfter);
    let db = Atomic::default().on(&pool);
    let single = db.apply(sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 0"))).await;
    assert!(single.expect_err("no response").is_commit_unknown(), "a single statement is its own commit");
}

pub(crate) async fn retries_after_losing_the_connection_before_the_commit<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await.expect("a pool");
    let db = Pessimistic::default().on(&pool);
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        // Each text is new, so that it is sent as text and not by the name of a prepared statement.
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
