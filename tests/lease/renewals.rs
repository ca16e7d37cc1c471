//! What goes on in the background.

use std::sync::Arc;
use std::time::Duration;

use atomically::lease::{Lease, PgWake};
use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::{Pool, Postgres};
use tokio::sync::Notify;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{ServerBackend, TestBackend, eventually};
use crate::{acquire, effects, expire, lease, take_over};

/// Long enough to be renewed in time on a busy machine.
const SHORT: Duration = Duration::from_secs(5);

/// Far longer than any step takes.
const LIMIT: Duration = Duration::from_secs(60);

/// When the lease expires, in microseconds.
async fn until<DB: TestBackend>(pool: &Pool<DB>) -> i64 {
    let sql = DB::sql("SELECT until FROM atomically_lease_expiry WHERE name = 'short'");
    DB::pool_fetch(pool, sql, &[]).await.expect("an expiry")
}

/// Returns when the lease has been renewed after the time at which it would have expired.
async fn renewed_repeatedly<DB: TestBackend>(pool: &Pool<DB>) {
    let first = until(pool).await;
    let later = first + SHORT.as_micros() as i64;
    eventually(true, async || until(pool).await > later).await;
}

pub(crate) async fn a_lease_outlives_its_time_while_it_is_renewed<DB: TestBackend>() {
    let (pool, _) = lease::<DB>(3).await;
    let lease = Lease::new("short", &pool).ttl(SHORT);
    let held = acquire(&lease).await;
    renewed_repeatedly(&pool).await;
    assert!(!held.is_lost());
    assert!(lease.try_acquire().await.expect("an answer").is_none());
    held.release().await.expect("released");
}

/// Its renewal does not extend the lease of its successor.
pub(crate) async fn a_holder_learns_that_another_has_the_lease<DB: TestBackend>() {
    let (pool, _) = lease::<DB>(3).await;
    let lease = Lease::new("short", &pool).ttl(Duration::from_secs(3));
    let zombie = acquire(&lease).await;
    let heir = take_over(&pool, &lease.clone().ttl(Duration::from_secs(3600))).await;
    tokio::time::timeout(LIMIT, zombie.lost()).await.expect("it is lost");
    assert!(!heir.is_lost());
    heir.release().await.expect("released");
}

pub(crate) async fn a_transaction_that_checked_in_delays_a_successor<DB: ServerBackend>() {
    let (pool, lease) = lease::<DB>(4).await;
    let db = Pessimistic::default().on(&pool).deadline(LIMIT);
    let held = acquire(&lease).await;
    expire(&pool).await;
    let (checked_in, proceed) = (&Arc::new(Notify::new()), &Arc::new(Notify::new()));
    let unit = db.run(async |tx| {
        DB::execute(tx, DB::sql("INSERT INTO effect VALUES (?)"), &[held.token()]).await?;
        held.check_in(tx).await?;
        checked_in.notify_one();
        proceed.notified().await;
        Ok::<_, Error>(())
    });
    let successor = async {
        checked_in.notified().await;
        let acquiring = lease.acquire(LIMIT);
        let waiting = async {
            // Its transaction is open beside the unit's.
            let both = async || DB::open_transactions(&pool).await > 1;
            eventually(true, both).await;
            proceed.notify_one();
        };
        let (acquired, ()) = tokio::join!(acquiring, waiting);
        let heir = acquired.expect("an answer").expect("it is free in the end");
        (heir.token(), effects(&pool).await)
    };
    let (stored, (heir, effects)) = tokio::join!(unit, successor);
    stored.expect("no other caller had the lease");
    assert!(heir > held.token());
    assert_eq!(effects, 1, "the successor began before the commit");
}

pub(crate) async fn a_transaction_that_checked_in_delays_no_renewal<DB: ServerBackend>() {
    let (pool, _) = lease::<DB>(4).await;
    let lease = Lease::new("short", &pool).ttl(SHORT);
    let db = Pessimistic::default().on(&pool).deadline(LIMIT);
    let held = acquire(&lease).await;
    let (checked_in, proceed) = (&Notify::new(), &Notify::new());
    let unit = db.run(async |tx| {
        held.check_in(tx).await?;
        checked_in.notify_one();
        proceed.notified().await;
        Ok::<_, Error>(())
    });
    let renewals = async {
        checked_in.notified().await;
        renewed_repeatedly(&pool).await;
        proceed.notify_one();
    };
    let (stored, ()) = tokio::join!(unit, renewals);
    stored.expect("it was renewed meanwhile");
    assert!(!held.is_lost());
}

pub(crate) async fn a_lease_that_cannot_be_renewed_is_lost_before_another_has_it<DB: ServerBackend>() {
    let (direct, _) = lease::<DB>(2).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = DB::another(&proxy.url(&direct.url)).await;
    let held = acquire(&Lease::new("short", &pool).ttl(SHORT)).await;
    proxy.on("SET until", Fault::SilenceBefore);
    let other = Lease::new("short", &direct).poll_every(Duration::from_millis(10));
    let heir = other.acquire(LIMIT).await.expect("an answer").expect("it has expired");
    assert!(held.is_lost(), "there were two holders");
    assert!(heir.token() > held.token());
    held.lost().await;
    assert!(proxy.hits() > 0, "it was not renewed");
}

/// The next poll would come after an hour.
pub(crate) async fn a_release_wakes_those_who_wait<DB: TestBackend>(
    wake: impl AsyncFn(Lease<DB>) -> Lease<DB>,
) {
    let (_pool, lease) = lease::<DB>(6).await;
    let lease = wake(lease.poll_every(Duration::from_secs(3600))).await;
    let held = acquire(&lease).await;
    let waiting = {
        let lease = lease.clone();
        tokio::spawn(async move { lease.acquire(Duration::from_secs(3600)).await })
    };
    // Whether it waits already makes no difference: it looks before it waits.
    held.release().await.expect("released");
    let acquired = tokio::time::timeout(LIMIT, waiting).await.expect("it was woken");
    assert!(acquired.expect("no panic").expect("an answer").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_notifies_of_a_release() {
    a_release_wakes_those_who_wait::<Postgres>(async |lease| {
        let lease = lease.notifying();
        let wake = PgWake::listen_for_release(&lease).await.expect("a listener");
        lease.wake(Arc::new(wake))
    })
    .await;
}
