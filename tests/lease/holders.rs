//! Acquiring and releasing.

use std::time::Duration;

use atomically::ErrorKind;
use atomically::lease::Lease;
use futures_util::future::join_all;

use crate::support::{TestBackend, eventually};
use crate::{acquire, lease};

pub(crate) async fn one_of_many_callers_acquires_a_free_lease<DB: TestBackend>() {
    let (_pool, lease) = lease::<DB>(4).await;
    for _ in 0..5 {
        let attempts = join_all((0..8).map(|_| lease.try_acquire())).await;
        let mut held: Vec<_> = attempts.into_iter().filter_map(|held| held.expect("an answer")).collect();
        assert_eq!(held.len(), 1);
        assert!(!held[0].is_lost());
        held.remove(0).release().await.expect("released");
    }
}

pub(crate) async fn tokens_grow_even_if_the_rows_are_deleted<DB: TestBackend>() {
    let (pool, lease) = lease::<DB>(2).await;
    let mut last = 0;
    for round in 0..60 {
        let held = acquire(&lease).await;
        assert!(held.token() > last, "{} after {last}", held.token());
        last = held.token();
        held.release().await.expect("released");
        if round % 3 == 2 {
            for table in ["atomically_lease", "atomically_lease_expiry"] {
                let delete = DB::sql(&format!("DELETE FROM {table}"));
                DB::pool_execute(&pool, delete, &[]).await.expect("deleted");
            }
        }
    }
}

pub(crate) async fn a_released_lease_is_free<DB: TestBackend>() {
    let (_pool, lease) = lease::<DB>(2).await;
    let held = acquire(&lease).await;
    assert!(lease.try_acquire().await.expect("an answer").is_none());
    held.release().await.expect("released");
    acquire(&lease).await.release().await.expect("released");
}

pub(crate) async fn a_dropped_lease_is_free<DB: TestBackend>() {
    let (_pool, lease) = lease::<DB>(2).await;
    drop(acquire(&lease).await);
    eventually(true, async || lease.try_acquire().await.expect("an answer").is_some()).await;
}

pub(crate) async fn acquire_waits_until_the_lease_is_released<DB: TestBackend>() {
    let (_pool, lease) = lease::<DB>(2).await;
    let first = acquire(&lease).await;
    let waiting = tokio::spawn({
        let lease = lease.clone();
        async move { lease.acquire(Duration::from_secs(60)).await }
    });
    let token = first.token();
    first.release().await.expect("released");
    let second = waiting.await.expect("no panic").expect("an answer").expect("the lease was released");
    assert!(second.token() > token);
}

pub(crate) async fn acquire_returns_none_when_its_limit_has_passed<DB: TestBackend>() {
    let (_pool, lease) = lease::<DB>(2).await;
    let _held = acquire(&lease).await;
    let limit = Duration::from_millis(100);
    let begun = std::time::Instant::now();
    assert!(lease.acquire(limit).await.expect("an answer").is_none());
    assert!(begun.elapsed() >= limit);
}

pub(crate) async fn an_invalid_name_is_refused<DB: TestBackend>() {
    let (pool, _lease) = lease::<DB>(2).await;
    for name in ["", "it's", "a b", "ü", &"x".repeat(101)] {
        let error = Lease::new(name, &pool).try_acquire().await.expect_err("a bad name");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {error}");
    }
    acquire(&Lease::new(&"x".repeat(100), &pool)).await.release().await.expect("released");
}

pub(crate) async fn a_missing_table_is_an_error<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let error = Lease::new("report", &pool).acquire(Duration::from_secs(60)).await.expect_err("no table");
    assert_eq!(error.kind(), ErrorKind::MissingTable, "{error}");
    assert!(error.to_string().contains("create atomically_lease with `Lease::create_tables`"), "{error}");
}
