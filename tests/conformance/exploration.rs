//! What is known to be wrong is found by exploring, and what the guide recommends passes.

use std::sync::Arc;
use std::time::Duration;

use atomically::testing::{Client, Counterexample, Explore, ExploreError, Problem, Report, explore};
use atomically::{
    Atomic, Attempt, Error, Isolation, Optimistic, Pessimistic, Plan, PoolTransactor, Serializable, Strategy,
    Transactor, TransactorExt as _, Tx,
};
use sqlx::Pool;
use tokio::sync::Barrier;

use crate::support::{TestBackend, TestPool, eventually};

/// A transaction around it, and nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unguarded(pub(crate) Isolation);

impl Strategy for Unguarded {
    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(self.0)
    }
}

/// A pool with this table, for so many clients.
pub(crate) async fn database<DB: TestBackend>(table: &str, clients: u32) -> TestPool<DB> {
    let pool = DB::pool(clients + 1).await;
    DB::pool_execute(&pool, DB::sql(table), &[]).await.expect("a table");
    pool
}

pub(crate) async fn all<DB: TestBackend>(pool: Pool<DB>, statements: &[&str]) -> sqlx::Result<()> {
    for sql in statements {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await?;
    }
    Ok(())
}

pub(crate) async fn integer<DB: TestBackend>(pool: Pool<DB>, sql: &str) -> sqlx::Result<i64> {
    DB::pool_fetch(&pool, DB::sql(sql), &[]).await
}

async fn explored<DB: TestBackend>(exploration: Explore<'_, DB>) -> Report {
    let report = exploration.run().await.expect("explored");
    println!("{}: {} schedules in {:?}: {report}", DB::NAME, report.schedules, report.elapsed);
    assert_eq!(report.diverged, 0, "a schedule did not repeat itself");
    report
}

/// Everything was tried, and nothing went wrong.
pub(crate) async fn passes<DB: TestBackend>(exploration: Explore<'_, DB>) {
    let report = explored(exploration).await;
    report.assert_passes();
    assert!(report.complete, "{report}");
}

/// The same where units deadlock. Of two transactions that have done equally much, InnoDB ends one or the
/// other, so a schedule may not repeat itself there; nothing else may go wrong.
async fn passes_whoever_is_the_victim<DB: TestBackend>(exploration: Explore<'_, DB>) {
    if DB::NAME != "MySQL" {
        return passes(exploration).await;
    }
    let report = exploration.run().await.expect("explored");
    let mut problems = report.counterexamples.iter().flat_map(Counterexample::problems);
    assert!(problems.all(|problem| matches!(problem, Problem::Diverged { .. })), "{report}");
    assert!(report.counterexamples.len() * 10 < report.schedules, "{report}");
}

/// Some schedules break the invariant and some do not; the first one does again when it is replayed.
async fn breaks<'a, DB: TestBackend>(exploration: impl Fn() -> Explore<'a, DB>) -> Report {
    let report = explored(exploration()).await;
    assert!(report.counterexamples.len() < report.schedules, "one after the other is no problem: {report}");
    let finding = report.first().expect("a finding");
    assert!(
        finding.problems().iter().any(|problem| matches!(problem, Problem::Invariant { .. })),
        "{report}"
    );
    let again = exploration().replay(&finding.schedule().to_string()).await.expect("replayed");
    assert_eq!(again.first().map(ToString::to_string), Some(finding.to_string()));
    report
}

// --- The lost update. ---

const PRODUCT: &str =
    "CREATE TABLE product (id BIGINT PRIMARY KEY, stock BIGINT NOT NULL, version BIGINT NOT NULL)";

/// The folklore fix: read, subtract and write inside of a transaction.
async fn sell_one<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let read = tx.for_update(DB::sql("SELECT stock FROM product WHERE id = 1"));
    let stock = DB::fetch(tx, read, &[]).await?;
    DB::execute(tx, DB::sql("UPDATE product SET stock = ? WHERE id = 1"), &[stock - 1]).await?;
    Ok(())
}

async fn sell_one_of_a_version<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let read = "SELECT stock * 1000 + version FROM product WHERE id = 1";
    let read = DB::fetch(tx, tx.for_update(DB::sql(read)), &[]).await?;
    let (stock, version) = (read / 1000, read % 1000);
    let write = "UPDATE product SET stock = ?, version = version + 1 WHERE id = 1 AND version = ?";
    let done = DB::execute(tx, DB::sql(write), &[stock - 1, version]).await?;
    tx.expect_one(done)
}

async fn subtract_one<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let done = DB::execute(tx, DB::sql("UPDATE product SET stock = stock - 1 WHERE id = 1"), &[]).await?;
    tx.expect_one(done)
}

pub(crate) fn sales<DB: TestBackend>(pool: &Pool<DB>) -> Explore<'_, DB> {
    explore(pool)
        .set_up(|pool| all(pool, &["DELETE FROM product", "INSERT INTO product VALUES (1, 10, 0)"]))
        .expect("stock", 8_i64, |pool| integer(pool, "SELECT stock FROM product WHERE id = 1"))
}

pub(crate) async fn the_folklore_fix_loses_updates<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    let report = breaks(|| sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one)).await;
    assert!(report.complete);
    assert_eq!(
        (report.schedules, report.counterexamples.len()),
        (50, 40),
        "8 over 4, less those that wait alike"
    );
}

async fn sell_one_in_two<DB: TestBackend>(
    db: Client<'_, PoolTransactor<DB, Pessimistic>>,
) -> Result<(), Error> {
    let stock = db
        .run(async |tx: &mut Tx<DB>| {
            let read = DB::sql("SELECT stock FROM product WHERE id = 1");
            Ok::<_, Error>(DB::fetch(tx, read, &[]).await?)
        })
        .await?;
    db.run(async move |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("UPDATE product SET stock = ? WHERE id = 1"), &[stock - 1]).await?;
        Ok::<_, Error>(())
    })
    .await
}

/// What SQLite cannot save either: a transaction for reading, and another one for writing.
pub(crate) async fn a_gap_between_two_transactions_loses_updates<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = Pessimistic::default().on(&pool);
    breaks(|| sales(&pool).client("alice", &db, sell_one_in_two).client("bob", &db, sell_one_in_two)).await;
}

pub(crate) async fn guarded_sales_are_exact<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = Pessimistic::default().on(&pool);
    passes(sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one)).await;
    let db = Optimistic::default().on(&pool);
    passes(sales(&pool).unit("alice", &db, sell_one_of_a_version).unit("bob", &db, sell_one_of_a_version))
        .await;
    let db = Atomic::default().on(&pool);
    passes(sales(&pool).unit("alice", &db, subtract_one).unit("bob", &db, subtract_one)).await;
    // MariaDB makes it serializable by locks, of which both take a shared one first.
    let db = Serializable::default().on(&pool);
    passes(sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one).allow_deadlocks()).await;
}

/// What a reader sees; kept so that it stays worth looking at.
pub(crate) async fn a_finding_is_shown_as_swim_lanes<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = Pessimistic::default().on(&pool);
    let report = sales(&pool)
        .unit("alice", &db, sell_one)
        .client("bob", &db, sell_one_in_two)
        .max_schedules(40)
        .run()
        .await
        .expect("explored");
    let finding = report.first().expect("bob reads in one transaction and writes in another").to_string();
    let file =
        format!("{}/tests/snapshots/lanes.{}.txt", env!("CARGO_MANIFEST_DIR"), DB::NAME.to_lowercase());
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, &finding).expect("write the snapshot");
    }
    let kept = std::fs::read_to_string(&file).expect("a snapshot");
    assert_eq!(
        finding, kept,
        "not as in {file}; look at it, and keep it with UPDATE_SNAPSHOTS=1:\n{finding}"
    );
}

// --- Write skew. ---

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
        .invariant("somebody is on call", |pool| async move {
            match integer(pool, ON_CALL).await {
                Ok(1) => Ok(()),
                Ok(count) => Err(format!("{count} on call")),
                Err(error) => Err(error.to_string()),
            }
        })
}

pub(crate) async fn write_skew_is_found<DB: TestBackend>() {
    let pool = database::<DB>(DOCTOR, 2).await;
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        let db = PoolTransactor::new(Unguarded(isolation), &pool);
        breaks(|| duty(&pool, &db)).await;
    }
}

pub(crate) async fn serializable_has_no_write_skew<DB: TestBackend>() {
    let pool = database::<DB>(DOCTOR, 2).await;
    let db = Serializable::default().on(&pool);
    passes(duty(&pool, &db).allow_deadlocks()).await;
}

// --- The last seat. ---

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

pub(crate) async fn an_unguarded_seat_is_booked_twice<DB: TestBackend>() {
    let pool = theatre::<DB>().await;
    let db = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    breaks(|| bookings(&pool, &db)).await;
}

pub(crate) async fn a_guarded_seat_is_booked_once<DB: TestBackend>() {
    let pool = theatre::<DB>().await;
    passes(bookings(&pool, &Pessimistic::default().on(&pool))).await;
    let serializable = Serializable::default().on(&pool);
    passes_whoever_is_the_victim(bookings(&pool, &serializable).allow_deadlocks()).await;
}

// --- Transfers. ---

const ACCOUNT: &str =
    "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL)";

/// Both accounts are read for update and written with a check of their versions: right under every strategy.
async fn transfer<DB: TestBackend>(tx: &mut Tx<DB>, from: i64, to: i64) -> Result<(), Error> {
    for (id, amount) in [(from, -1), (to, 1)] {
        let read = "SELECT balance * 1000 + version FROM account WHERE id = ?";
        let read = DB::fetch(tx, tx.for_update(DB::sql(read)), &[id]).await?;
        let (balance, version) = (read / 1000, read % 1000);
        let write = "UPDATE account SET balance = ?, version = version + 1 WHERE id = ? AND version = ?";
        let done = DB::execute(tx, DB::sql(write), &[balance + amount, id, version]).await?;
        tx.expect_one(done)?;
    }
    Ok(())
}

async fn transfer_in_order<DB: TestBackend>(tx: &mut Tx<DB>, from: i64, to: i64) -> Result<(), Error> {
    DB::lock_accounts(tx, &[from, to]).await?;
    transfer(tx, from, to).await
}

fn bank<'a, DB: TestBackend>(pool: &Pool<DB>) -> Explore<'a, DB> {
    let accounts = ["DELETE FROM account", "INSERT INTO account VALUES (1, 10, 0), (2, 10, 0), (3, 10, 0)"];
    explore(pool).set_up(move |pool| async move { all(pool, &accounts).await })
}

pub(crate) async fn transfers_in_opposite_order_deadlock<DB: TestBackend>() {
    let pool = database::<DB>(ACCOUNT, 2).await;
    let db = Pessimistic::default().on(&pool);
    let report = explored(
        bank(&pool)
            .unit("alice", &db, async |tx: &mut Tx<DB>| transfer(tx, 1, 2).await)
            .unit("bob", &db, async |tx: &mut Tx<DB>| transfer(tx, 2, 1).await)
            .max_preemptions(1),
    )
    .await;
    let finding = report.first().expect("a finding");
    assert_eq!(finding.problems(), [Problem::Deadlock], "{report}");
    assert!(finding.to_string().contains("deadlock ("), "{report}");
}

pub(crate) async fn transfers_in_one_order_do_not<DB: TestBackend>() {
    let pool = database::<DB>(ACCOUNT, 2).await;
    let db = Pessimistic::default().on(&pool);
    passes(bank(&pool).unit("alice", &db, async |tx: &mut Tx<DB>| transfer_in_order(tx, 1, 2).await).unit(
        "bob",
        &db,
        async |tx: &mut Tx<DB>| transfer_in_order(tx, 2, 1).await,
    ))
    .await;
}

/// Round in a ring: whatever the order, everybody has in the end what everybody had.
pub(crate) async fn three_transfers_conserve_money<DB: TestBackend>() {
    let pool = database::<DB>(ACCOUNT, 3).await;
    three_transfers(&pool, &Pessimistic::default().on(&pool)).await;
    three_transfers(&pool, &Optimistic::default().on(&pool)).await;
    three_transfers(&pool, &Serializable::default().on(&pool)).await;
    three_transfers(&pool, &Atomic::default().on(&pool)).await;
}

async fn three_transfers<DB: TestBackend, X: Transactor<DB>>(pool: &Pool<DB>, db: &X) {
    let exploration = bank(pool)
        .unit("alice", db, async |tx: &mut Tx<DB>| transfer(tx, 1, 2).await)
        .unit("bob", db, async |tx: &mut Tx<DB>| transfer(tx, 2, 3).await)
        .unit("carol", db, async |tx: &mut Tx<DB>| transfer(tx, 3, 1).await)
        .expect("money", 30_i64, |pool| integer(pool, DB::TOTAL))
        .expect("the least that anybody has", 10_i64, |pool| {
            integer(pool, "SELECT MIN(balance) FROM account")
        })
        .max_preemptions(1)
        .max_schedules(100)
        .allow_deadlocks();
    let report = exploration.run().await.expect("explored");
    report.assert_passes();
    assert!(report.schedules >= 6, "every order of the three at least: {report}");
}

// --- What cannot be explored. ---

async fn nothing<DB: TestBackend>(_: &mut Tx<DB>) -> Result<(), Error> {
    Ok(())
}

pub(crate) async fn what_cannot_be_explored_is_told<DB: TestBackend>() {
    let pool = DB::pool(1).await;
    let db = Pessimistic::default().on(&pool);
    let refused = explore(&pool).run().await.expect_err("no clients");
    assert!(matches!(refused, ExploreError::ClientCount(0)), "{refused}");
    let two = || explore(&pool).unit("alice", &db, nothing).unit("bob", &db, nothing);
    let refused = two().run().await.expect_err("one connection");
    assert!(matches!(refused, ExploreError::TooFewConnections { has: 1, .. }), "{refused}");

    let pool = DB::pool(3).await;
    let db = Pessimistic::default().on(&pool);
    let two = || explore(&pool).unit("alice", &db, nothing).unit("bob", &db, nothing);
    let refused = two().set_up(|_| async { Err::<(), _>("no tables") }).run().await.expect_err("no set-up");
    assert!(matches!(&refused, ExploreError::SetUp(why) if why == "no tables"), "{refused}");
    let refused = two().replay("a1 b").await.expect_err("no schedule");
    assert!(matches!(refused, ExploreError::Schedule(_)), "{refused}");
    let report = two().replay("a9").await.expect("a schedule");
    let problems = report.first().expect("there are two steps").problems();
    assert_eq!(problems, [Problem::Infeasible { step: 3, client: 0 }]);
}

/// Whoever waits for something that no schedule can give is stuck, and leaves nothing behind.
pub(crate) async fn a_unit_that_waits_for_another_one_is_stuck<DB: TestBackend>() {
    let pool = DB::pool(3).await;
    let db = Pessimistic::default().on(&pool);
    let barrier = Arc::new(Barrier::new(2));
    let unit = async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("SELECT 1"), &[]).await?;
        barrier.wait().await;
        Ok::<_, Error>(())
    };
    let limit = Duration::from_millis(300);
    let both =
        explore(&pool).unit("alice", &db, unit).unit("bob", &db, unit).patience(limit).max_schedules(1);
    let report = both.run().await.expect("explored");
    assert_eq!(
        report.first().map(Counterexample::problems),
        Some(&[Problem::Stuck { limit }][..]),
        "{report}"
    );
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

pub(crate) async fn a_unit_without_end_is_endless<DB: TestBackend>() {
    let pool = DB::pool(3).await;
    let db = Optimistic::default().on(&pool).attempts(u32::MAX);
    let stale = async |tx: &mut Tx<DB>| tx.expect_one(0);
    let exploration = explore(&pool).unit("alice", &db, stale).unit("bob", &db, nothing).max_steps(50);
    let report = exploration.run().await.expect("explored");
    assert_eq!(
        report.first().map(Counterexample::problems),
        Some(&[Problem::Endless { steps: 50 }][..]),
        "{report}"
    );

    let db = db.attempts(3);
    let exploration = explore(&pool).unit("alice", &db, stale).unit("bob", &db, nothing);
    let report = exploration.run().await.expect("explored");
    let Some([Problem::Failed { client, error }]) = report.first().map(Counterexample::problems) else {
        panic!("{report}")
    };
    assert_eq!(client, "alice");
    assert!(error.contains("3 attempts"), "{error}");
}

pub(crate) async fn an_exploration_may_be_dropped<DB: TestBackend>() {
    let pool = database::<DB>(PRODUCT, 2).await;
    let db = Pessimistic::default().on(&pool);
    for steps in [1, 20, 100] {
        let mut exploration =
            Box::pin(sales(&pool).unit("alice", &db, sell_one).unit("bob", &db, sell_one).run());
        for _ in 0..steps {
            if tokio::time::timeout(Duration::from_micros(200), &mut exploration).await.is_ok() {
                break;
            }
        }
        drop(exploration);
        eventually(0, async || DB::open_transactions(&pool).await).await;
    }
}
