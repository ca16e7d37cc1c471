//! Write skew and double booking: found without a guard, and not found with one.

use atomically::testing::{Explore, explore};
use atomically::{Error, Isolation, Pessimistic, PoolTransactor, Serializable, Transactor, Tx};
use sqlx::Pool;

use super::{
    Unguarded, all, assert_passes, assert_passes_with_any_victim, assert_violation, database, integer,
};
use crate::support::{TestBackend, TestPool};

const DOCTOR: &str = "CREATE TABLE doctor (id BIGINT PRIMARY KEY, on_call BIGINT NOT NULL)";
const ON_CALL: &str = "SELECT COUNT(*) FROM doctor WHERE on_call = 1";

async fn go_off_duty<DB: TestBackend>(tx: &mut Tx<DB>, id: i64) -> Result<(), Error> {
    if DB::fetch(tx, DB::sql(ON_CALL), &[]).await? > 1 {
        DB::execute(tx, DB::sql("UPDATE doctor SET on_call = 0 WHERE id = ?"), &[id]).await?;
    }
    Ok(())
}

fn duty<'a, DB: TestBackend, X: Transactor<DB>>(pool: &Pool<DB>, db: &'a X) -> Explore<'a, DB> {
    explore(pool)
        .set_up(|pool| all(pool, &["DELETE FROM doctor", "INSERT INTO doctor VALUES (1, 1), (2, 1)"]))
        .unit("alice", db, async |tx: &mut Tx<DB>| go_off_duty(tx, 1).await)
        .unit("bob", db, async |tx: &mut Tx<DB>| go_off_duty(tx, 2).await)
        .invariant("a doctor is on call", |pool| async move {
            match integer(pool, ON_CALL).await {
                Ok(1) => Ok(()),
                Ok(count) => Err(format!("{count} on call")),
                Err(error) => Err(error.to_string()),
            }
        })
}

pub(crate) async fn finds_write_skew_below_serializable<DB: TestBackend>() {
    let pool = database::<DB>(DOCTOR, 2).await;
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        let db = PoolTransactor::new(Unguarded(isolation), &pool);
        assert_violation(|| duty(&pool, &db)).await;
    }
}

pub(crate) async fn serializable_prevents_write_skew<DB: TestBackend>() {
    let pool = database::<DB>(DOCTOR, 2).await;
    let db = Serializable::default().on(&pool);
    assert_passes(duty(&pool, &db).allow_deadlocks()).await;
}

const BOOKING: &str = "CREATE TABLE booking (seat BIGINT NOT NULL, guest BIGINT NOT NULL)";
const SEAT: &str = "CREATE TABLE seat (id BIGINT PRIMARY KEY)";
const BOOKED: &str = "SELECT COUNT(*) FROM booking WHERE seat = 1";

async fn book<DB: TestBackend>(tx: &mut Tx<DB>, guest: i64) -> Result<(), Error> {
    let seat = tx.for_update(DB::sql("SELECT id FROM seat WHERE id = 1"));
    let seat = DB::fetch(tx, seat, &[]).await?;
    if DB::fetch(tx, DB::sql(BOOKED), &[]).await? == 0 {
        DB::execute(tx, DB::sql("INSERT INTO booking VALUES (?, ?)"), &[seat, guest]).await?;
    }
    Ok(())
}

fn bookings<'a, DB: TestBackend, X: Transactor<DB>>(pool: &Pool<DB>, db: &'a X) -> Explore<'a, DB> {
    explore(pool)
        .set_up(|pool| all(pool, &["DELETE FROM booking"]))
        .unit("alice", db, async |tx: &mut Tx<DB>| book(tx, 1).await)
        .unit("bob", db, async |tx: &mut Tx<DB>| book(tx, 2).await)
        .expect("bookings of the seat", 1_i64, |pool| integer(pool, BOOKED))
}

async fn theatre<DB: TestBackend>() -> TestPool<DB> {
    let pool = database::<DB>(BOOKING, 2).await;
    all(pool.pool.clone(), &[SEAT, "INSERT INTO seat VALUES (1)"]).await.expect("a seat");
    pool
}

pub(crate) async fn finds_double_booking_without_a_guard<DB: TestBackend>() {
    let pool = theatre::<DB>().await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    assert_violation(|| bookings(&pool, &db)).await;
}

pub(crate) async fn a_guarded_seat_is_booked_once<DB: TestBackend>() {
    let pool = theatre::<DB>().await;
    assert_passes(bookings(&pool, &Pessimistic::default().on(&pool))).await;
    let serializable = Serializable::default().on(&pool);
    assert_passes_with_any_victim(bookings(&pool, &serializable).allow_deadlocks()).await;
}
