//! Leader election.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::lease::{Lease, lead};
use atomically::{Error, ErrorKind};
use futures_util::future::join_all;
use tokio::sync::Notify;

use crate::support::TestBackend;
use crate::{expire, lease};

/// Counts a leader until it is dropped.
struct Leading<'a>(&'a AtomicU32);

impl<'a> Leading<'a> {
    fn begin(leaders: &'a AtomicU32) -> Self {
        assert_eq!(leaders.fetch_add(1, SeqCst), 0, "there was a leader already");
        Self(leaders)
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

pub(crate) async fn one_leader_works_at_a_time<DB: TestBackend>() {
    let (_pool, lease) = lease::<DB>(4).await;
    let leaders = Arc::<AtomicU32>::default();
    let workers = (0..4).map(|_| {
        let (lease, leaders) = (lease.clone(), leaders.clone());
        tokio::spawn(async move {
            lead(&lease, async |_| {
                let _leading = Leading::begin(&leaders);
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok::<_, Error>(())
            })
            .await
        })
    });
    for done in join_all(workers).await {
        done.expect("no panic").expect("the work is done");
    }
}

pub(crate) async fn a_leader_that_loses_its_lease_is_stopped<DB: TestBackend>() {
    let (pool, _) = lease::<DB>(4).await;
    let lease =
        Lease::new("short", &pool).ttl(Duration::from_millis(300)).poll_every(Duration::from_millis(10));
    let (calls, leading, led) = (AtomicU32::new(0), AtomicU32::new(0), Arc::new(Notify::new()));
    let begun = led.clone();
    let leader = lead(&lease, async |_| {
        let _leading = Leading::begin(&leading);
        if calls.fetch_add(1, SeqCst) == 0 {
            begun.notify_one();
            std::future::pending::<()>().await;
        }
        Ok::<_, Error>("done by the second call")
    });
    let trouble = async {
        led.notified().await;
        expire(&pool).await;
    };
    let (done, ()) = tokio::join!(leader, trouble);
    assert_eq!(done.expect("the work is done"), "done by the second call");
    assert_eq!((calls.load(SeqCst), leading.load(SeqCst)), (2, 0));
}

pub(crate) async fn the_error_of_the_work_is_returned<DB: TestBackend>() {
    let (pool, lease) = lease::<DB>(2).await;
    let led = lead(&lease, async |_| Err::<(), _>(Error::from(sqlx::Error::RowNotFound)));
    assert!(matches!(led.await, Err(error) if error.kind() == ErrorKind::RowNotFound));
    // The lease was released.
    assert!(lease.try_acquire().await.expect("an answer").is_some());
    // An error that does not pass is not waited out.
    let nameless = Lease::new("no name", &pool);
    let led = lead(&nameless, async |_| Ok::<_, Error>(()));
    assert_eq!(led.await.expect_err("a bad name").kind(), ErrorKind::InvalidInput);
}
