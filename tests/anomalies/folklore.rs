//! Common advice that is wrong, each with the proof.

use std::collections::HashMap;
use std::time::Duration;

use atomically::{Backoff, FailureKind};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sqlx::{MySql, Postgres};

use crate::engines::Engine;
use crate::scene::Scene;

const STOCK: [&str; 2] = [
    "CREATE TABLE product (id BIGINT PRIMARY KEY, stock BIGINT, version BIGINT)",
    "INSERT INTO product VALUES (1, 10, 1)",
];
const READ: &str = "SELECT stock FROM product WHERE id = 1";

/// Returns the stock left of ten after two sales of one each, as transactions that run `read`, then `write`.
///
/// `write` builds its statement from the stock that was read.
async fn left_after_two_sales<E: Engine>(read: &str, write: fn(i64) -> String) -> i64 {
    let scene = Scene::<E>::at("read committed", &STOCK).await;
    let (mut one, mut other) = (scene.begun().await, scene.begun().await);
    let stock = one.read(read).await;
    if other.waits(read).await {
        one.run(&write(stock)).await;
        one.run("COMMIT").await;
        let stock = other.granted().await.rows[0][0];
        other.run(&write(stock)).await;
    } else {
        one.run(&write(stock)).await;
        assert!(other.waits(&write(stock)).await, "two write the same row at once");
        one.run("COMMIT").await;
        other.granted().await;
    }
    other.run("COMMIT").await;
    scene.client().await.read(READ).await
}

async fn a_transaction_is_not_a_lock<E: Engine>() {
    let write = |stock| format!("UPDATE product SET stock = {} WHERE id = 1", stock - 1);
    let locked = format!("{READ} FOR UPDATE");
    assert_eq!(left_after_two_sales::<E>(READ, write).await, 9, "ten minus two");
    assert_eq!(left_after_two_sales::<E>(&locked, write).await, 8);
    let compute = |_| "UPDATE product SET stock = stock - 1 WHERE id = 1".to_owned();
    assert_eq!(left_after_two_sales::<E>(READ, compute).await, 8);
}

#[tokio::test]
async fn folklore_a_transaction_around_read_and_write_still_loses_updates() {
    a_transaction_is_not_a_lock::<Postgres>().await;
    a_transaction_is_not_a_lock::<MySql>().await;
}

async fn readers_of_a_locked_row<E: Engine>() {
    let scene = Scene::<E>::at("read committed", &STOCK).await;
    let mut owner = scene.begun().await;
    owner.run(&format!("{READ} FOR UPDATE")).await;
    owner.run("UPDATE product SET stock = 0 WHERE id = 1").await;

    assert_eq!(scene.begun().await.read(READ).await, 10, "the last committed stock");
    let mut other = scene.begun().await;
    assert!(other.waits(&format!("{READ} FOR UPDATE")).await);
    owner.run("COMMIT").await;
    assert_eq!(other.granted().await.rows[0][0], 0, "the newest stock");
}

#[tokio::test]
async fn folklore_for_update_does_not_keep_others_from_reading() {
    readers_of_a_locked_row::<Postgres>().await;
    readers_of_a_locked_row::<MySql>().await;
}

/// Longer than any acceptable wait.
const ATTEMPTS: usize = 20;

#[tokio::test]
async fn folklore_reading_again_in_the_same_transaction_shows_the_same_stale_row() {
    let scene = Scene::<MySql>::at("repeatable read", &STOCK).await;
    let (mut one, mut other) = (scene.begun().await, scene.client().await);
    let version = "SELECT version FROM product WHERE id = 1";
    one.read(version).await;
    other.run("UPDATE product SET stock = 9, version = 2 WHERE id = 1").await;

    let sell = |version| {
        format!("UPDATE product SET stock = stock - 1, version = version + 1 WHERE version = {version}")
    };
    for _ in 0..ATTEMPTS {
        let seen = one.read(version).await;
        assert_eq!((seen, one.run(&sell(seen)).await.affected), (1, 0), "the version that is gone");
    }
    one.run("ROLLBACK").await;
    let seen = one.read(version).await;
    assert_eq!((seen, one.run(&sell(seen)).await.affected), (2, 1), "a new transaction sees the new version");
}

#[tokio::test]
async fn folklore_reading_again_with_snapshot_isolation_is_too_late() {
    let scene = Scene::<MySql>::at("repeatable read, `innodb_snapshot_isolation`", &STOCK).await;
    let (mut one, mut other) = (scene.begun().await, scene.client().await);
    one.read(READ).await;
    let sell = "UPDATE product SET stock = stock - 1 WHERE id = 1";
    other.run(sell).await;
    assert_eq!(one.refused(sell).await, Some(FailureKind::SerializationFailure));
    assert_eq!(
        one.read("SELECT CAST(@@in_transaction AS SIGNED)").await,
        0,
        "the transaction is gone as well"
    );
}

#[tokio::test]
async fn folklore_a_savepoint_does_not_rescue_from_a_serialization_failure() {
    let scene = Scene::<Postgres>::at("repeatable read", &STOCK).await;
    let (mut one, mut other) = (scene.begun().await, scene.client().await);
    let sell = "UPDATE product SET stock = stock - 1 WHERE id = 1";
    one.read(READ).await;
    other.run(sell).await;

    one.run("SAVEPOINT before").await;
    for _ in 0..ATTEMPTS {
        assert_eq!(one.refused(sell).await, Some(FailureKind::SerializationFailure));
        one.run("ROLLBACK TO SAVEPOINT before").await;
    }
    one.run("ROLLBACK").await;
    assert_eq!(one.run(sell).await.affected, 1, "a new transaction goes through");
}

/// The bookings of a room with two seats: two transactions read at the same time, each sees one seat left,
/// and each books it.
#[tokio::test]
async fn folklore_repeatable_read_of_postgresql_has_no_phantoms_and_still_overbooks() {
    let create = "CREATE TABLE booking (id BIGINT PRIMARY KEY, room BIGINT)";
    let scene =
        Scene::<Postgres>::at("repeatable read", &[create, "INSERT INTO booking VALUES (1, 1)"]).await;
    let taken = "SELECT COUNT(*) FROM booking WHERE room = 1";
    let (mut one, mut other) = (scene.begun().await, scene.begun().await);
    assert_eq!((one.read(taken).await, other.read(taken).await), (1, 1));
    one.run("INSERT INTO booking VALUES (2, 1)").await;
    one.run("COMMIT").await;
    assert_eq!(other.read(taken).await, 1, "no phantom");
    other.run("INSERT INTO booking VALUES (3, 1)").await;
    other.run("COMMIT").await;
    assert_eq!(scene.client().await.read(taken).await, 3, "for two places");
}

#[tokio::test]
async fn folklore_for_update_also_locks_out_rows_that_only_refer_to_the_locked_one() {
    let child = "CREATE TABLE review (id BIGINT PRIMARY KEY, product BIGINT REFERENCES product (id))";
    for (lock, locks_out) in [("FOR UPDATE", true), ("FOR NO KEY UPDATE", false)] {
        let scene = Scene::<Postgres>::at("read committed", &[STOCK[0], STOCK[1], child]).await;
        let (mut seller, mut reviewer) = (scene.begun().await, scene.begun().await);
        seller.run(&format!("{READ} {lock}")).await;
        assert_eq!(reviewer.waits("INSERT INTO review VALUES (1, 1)").await, locks_out, "{lock}");
    }
}

/// The times at which each transaction that collided at time zero retries, given the pauses.
fn instants(pauses: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut now = Duration::ZERO;
    pauses
        .map(|pause| {
            now += pause;
            now
        })
        .take(ATTEMPTS)
        .collect()
}

/// The largest number of retries within one millisecond, at this attempt.
fn largest_crowd(clients: &[Vec<Duration>], attempt: usize) -> usize {
    let mut crowds = HashMap::new();
    for client in clients {
        *crowds.entry(client[attempt].as_millis()).or_insert(0) += 1;
    }
    crowds.into_values().max().unwrap_or(0)
}

#[test]
fn folklore_a_fixed_pause_keeps_colliding_transactions_in_step() {
    const CLIENTS: u64 = 50;
    let tenth = Duration::from_millis(100);
    let backoff = Backoff::exponential(tenth, tenth);
    let fixed: Vec<_> = (0..CLIENTS).map(|_| instants(backoff.ceilings())).collect();
    let drawn: Vec<_> =
        (0..CLIENTS).map(|client| instants(backoff.delays(StdRng::seed_from_u64(client)))).collect();
    for attempt in 0..ATTEMPTS {
        assert_eq!(largest_crowd(&fixed, attempt), 50, "all retries collide again");
        assert!(largest_crowd(&drawn, attempt) <= 8, "at attempt {attempt}");
    }
}
