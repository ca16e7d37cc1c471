//! What a holder that is no longer the holder can store: nothing.

use std::time::Duration;

use atomically::lease::{Held, Lease};
use atomically::{Error, ErrorKind, Isolation, Optimistic, Options, PoolTransactor, TransactorExt as _};
use sqlx::Pool;

use crate::support::TestBackend;
use crate::{acquire, effects, expire, lease};

const LEVELS: [Isolation; 3] = [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable];

fn at<DB: TestBackend>(level: Isolation, pool: &Pool<DB>) -> PoolTransactor<DB, Optimistic> {
    Optimistic::default().on(pool).options(Options::new().isolation(level))
}

async fn store<DB: TestBackend>(db: &PoolTransactor<DB, Optimistic>, held: &Held<DB>) -> Result<(), Error> {
    db.run(async |tx| {
        DB::execute(tx, DB::sql("INSERT INTO effect VALUES (?)"), &[held.token()]).await?;
        held.check_in(tx).await
    })
    .await
}

pub(crate) async fn a_zombie_leaves_no_effect<DB: TestBackend>() {
    let (pool, lease) = lease::<DB>(3).await;
    for level in LEVELS {
        let db = at(level, &pool);
        let before = effects(&pool).await;
        let zombie = acquire(&lease).await;
        store(&db, &zombie).await.expect("it is the holder");
        expire(&pool).await;
        let heir = acquire(&lease).await;
        assert!(!zombie.is_lost(), "its own clock does not tell");

        let error = store(&db, &zombie).await.expect_err("it is a zombie");
        assert_eq!(error.kind(), ErrorKind::StaleClaim, "{level}: {error}");
        assert_eq!(effects(&pool).await, before + 1, "{level}: the zombie left something");
        store(&db, &heir).await.expect("the heir is not disturbed");

        zombie.release().await.expect("nothing to release");
        assert!(lease.try_acquire().await.expect("an answer").is_none(), "the zombie released its heir's");
        heir.release().await.expect("released");
        let zombie = acquire(&lease).await;
        expire(&pool).await;
        acquire(&lease).await.release().await.expect("released");
        let error = store(&db, &zombie).await.expect_err("its successor is gone as well");
        assert_eq!(error.kind(), ErrorKind::StaleClaim, "{level}: {error}");
    }
}

pub(crate) async fn a_lost_lease_is_reported_even_if_the_unit_discards_it<DB: TestBackend>() {
    let (pool, lease) = lease::<DB>(3).await;
    let zombie = acquire(&lease).await;
    expire(&pool).await;
    let _heir = acquire(&lease).await;
    let db = at(Isolation::ReadCommitted, &pool);
    let run = db.run(async |tx| {
        DB::execute(tx, DB::sql("INSERT INTO effect VALUES (?)"), &[zombie.token()]).await?;
        let _ = zombie.check_in(tx).await;
        Ok::<_, Error>(())
    });
    assert_eq!(run.await.expect_err("it is a zombie").kind(), ErrorKind::StaleClaim);
    assert_eq!(effects(&pool).await, 0);
}

/// The holder is suspended for longer than its lease lasts, and no other caller has acquired the lease.
pub(crate) async fn a_holder_that_is_late_by_its_own_clock_is_refused<DB: TestBackend>() {
    let (pool, _) = lease::<DB>(3).await;
    let ttl = Duration::from_millis(100);
    let lease = Lease::new("short", &pool).ttl(ttl);
    let held = acquire(&lease).await;
    // No renewal succeeds any more.
    let delete = DB::sql("DELETE FROM atomically_lease_expiry");
    DB::pool_execute(&pool, delete, &[]).await.expect("deleted");
    held.lost().await;
    assert!(held.is_lost());
    let error = store(&at(Isolation::ReadCommitted, &pool), &held).await.expect_err("it is too late");
    assert_eq!(error.kind(), ErrorKind::StaleClaim);
    assert_eq!(effects(&pool).await, 0);
}
