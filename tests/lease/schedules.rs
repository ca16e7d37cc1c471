//! Every schedule of callers that acquire a lease and of a former holder.

use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex};

use atomically::lease::{Held, Lease};
use atomically::testing::explore;
use atomically::{Error, Pessimistic, Transactor, TransactorExt as _, Tx};
use sqlx::Pool;

use crate::support::TestBackend;
use crate::{acquire, expire, lease};

/// Acquires the lease if it is free.
async fn try_acquire<DB: TestBackend>(
    lease: &Lease<DB>,
    db: &impl Transactor<DB>,
) -> Result<Option<ManuallyDrop<Held<DB>>>, String> {
    let acquired = lease.try_acquire_through(db).await.map_err(|error| error.to_string())?;
    // The lease stays held, so that its release is not a part of the schedule.
    Ok(acquired.map(ManuallyDrop::new))
}

/// Acquires the lease if it is free, and stores an effect under it.
async fn acquire_and_store<DB: TestBackend>(
    lease: &Lease<DB>,
    db: &impl Transactor<DB>,
) -> Result<(), String> {
    match try_acquire(lease, db).await? {
        Some(held) => store(&held, db).await,
        None => Ok(()),
    }
}

/// Stores an effect, unless a later holder has stored one before.
async fn store<DB: TestBackend>(held: &Held<DB>, db: &impl Transactor<DB>) -> Result<(), String> {
    let token = held.token();
    let unit = async |tx: &mut Tx<DB>| {
        held.check_in(tx).await?;
        let later = DB::sql("SELECT COUNT(*) FROM effect WHERE token > ?");
        let later = DB::fetch(tx, later, &[token]).await?;
        DB::execute(tx, DB::sql("INSERT INTO effect VALUES (?)"), &[token]).await?;
        Ok::<_, Error>(later)
    };
    match db.run(unit).await {
        Ok(0) => Ok(()),
        Ok(later) => Err(format!("{later} later holders had stored an effect")),
        Err(error) if error.is_stale_claim() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Empties the effects, and makes the lease as it was before: held with this token, and expired.
async fn reset<DB: TestBackend>(pool: Pool<DB>, token: i64) -> sqlx::Result<()> {
    DB::pool_execute(&pool, DB::sql("DELETE FROM effect"), &[]).await?;
    for table in ["atomically_lease", "atomically_lease_expiry"] {
        let sql = DB::sql(&format!("UPDATE {table} SET token = ?"));
        DB::pool_execute(&pool, sql, &[token]).await?;
    }
    expire(&pool).await;
    Ok(())
}

/// How many hold the lease: its row, unless it has expired.
async fn holders<DB: TestBackend>(pool: Pool<DB>) -> sqlx::Result<i64> {
    let sql = "SELECT COUNT(*) FROM atomically_lease AS l JOIN atomically_lease_expiry AS e \
               ON e.name = l.name AND e.token = l.token WHERE e.until > 1";
    DB::pool_fetch(&pool, DB::sql(sql), &[]).await
}

/// How many effects later holders have stored.
async fn later_effects<DB: TestBackend>(pool: Pool<DB>, token: i64) -> sqlx::Result<i64> {
    let sql = DB::sql("SELECT COUNT(*) FROM effect WHERE token > ?");
    DB::pool_fetch(&pool, sql, &[token]).await
}

/// The holder was suspended until its lease expired. It stores an effect while another acquires the lease.
pub(crate) async fn a_zombie_stores_nothing_after_its_successor<DB: TestBackend>() {
    let (pool, lease) = lease::<DB>(6).await;
    let db = Pessimistic::default().on(&pool);
    let (zombie, lease) = (&acquire(&lease).await, &lease);
    let token = zombie.token();
    let report = explore(&pool)
        .set_up(|pool| reset(pool, token))
        .client("successor", &db, |db| async move { acquire_and_store(lease, &db).await })
        .client("zombie", &db, |db| async move { store(zombie, &db).await })
        .expect("holders", 1_i64, holders)
        .expect("effects of the successor", 1_i64, |pool| later_effects(pool, token))
        .run()
        .await
        .expect("explored");
    assert!(report.passes(), "{report}");
    assert!(report.complete);
}

/// Two callers acquire a lease that has expired.
pub(crate) async fn one_of_two_callers_acquires_the_lease<DB: TestBackend>() {
    let (pool, lease) = lease::<DB>(6).await;
    let db = Pessimistic::default().on(&pool);
    let (held, lease) = (&acquire(&lease).await, &lease);
    let token = held.token();
    let report = explore(&pool)
        .set_up(|pool| reset(pool, token))
        .client("first", &db, |db| async move { try_acquire(lease, &db).await.map(|_| ()) })
        .client("second", &db, |db| async move { try_acquire(lease, &db).await.map(|_| ()) })
        .expect("holders", 1_i64, holders)
        .run()
        .await
        .expect("explored");
    assert!(report.passes(), "{report}");
    assert!(report.complete);
}

/// The tokens of the effects, in the order in which they were committed.
type Committed = Mutex<Vec<i64>>;

/// Stores an effect, and notes its token once its transaction has committed.
async fn store_and_note<DB: TestBackend>(
    held: &Held<DB>,
    db: &impl Transactor<DB>,
    committed: &Arc<Committed>,
) -> Result<(), String> {
    let token = held.token();
    let unit = async |tx: &mut Tx<DB>| {
        held.check_in(tx).await?;
        DB::execute(tx, DB::sql("INSERT INTO effect VALUES (?)"), &[token]).await?;
        let committed = committed.clone();
        tx.on_commit(async move { committed.lock().expect("no panic").push(token) });
        Ok::<_, Error>(())
    };
    match db.run(unit).await {
        Err(error) if !error.is_stale_claim() => Err(error.to_string()),
        _ => Ok(()),
    }
}

async fn acquire_and_note<DB: TestBackend>(
    lease: &Lease<DB>,
    db: &impl Transactor<DB>,
    committed: &Arc<Committed>,
) -> Result<(), String> {
    match try_acquire(lease, db).await? {
        Some(held) => store_and_note(&held, db, committed).await,
        None => Ok(()),
    }
}

/// Two callers acquire a lease and store an effect while the holder, who was suspended until it expired,
/// stores one as well, in every interleaving: one caller has the lease in the end and has stored its effect,
/// and no effect is stored after that of a later holder.
pub(crate) async fn two_callers_and_a_zombie_are_kept_apart<DB: TestBackend>() {
    let (pool, lease) = lease::<DB>(6).await;
    let db = Pessimistic::default().on(&pool);
    let (zombie, lease) = (&acquire(&lease).await, &lease);
    let (token, committed) = (zombie.token(), &Arc::<Committed>::default());
    let report = explore(&pool)
        .set_up(|pool| {
            committed.lock().expect("no panic").clear();
            reset(pool, token)
        })
        .client("first", &db, |db| async move { acquire_and_note(lease, &db, committed).await })
        .client("second", &db, |db| async move { acquire_and_note(lease, &db, committed).await })
        .client("zombie", &db, |db| async move { store_and_note(zombie, &db, committed).await })
        .expect("holders", 1_i64, holders)
        .expect("effects of the successor", 1_i64, |pool| later_effects(pool, token))
        .expect("the order of the effects is that of the tokens", true, |_| async {
            Ok::<_, Error>(committed.lock().expect("no panic").is_sorted())
        })
        .skip_equivalent()
        .max_schedules(5_000)
        .run()
        .await
        .expect("explored");
    println!("{}: {} schedules in {:?}", DB::NAME, report.schedules, report.elapsed);
    assert!(report.passes() && report.complete, "{report}");
}
