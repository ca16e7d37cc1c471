//! The use cases of the examples, on every database.

use atomically::{ConstraintKind, Error, Optimistic, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Pool;
use tokio::sync::Barrier;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::increments::patient;
use crate::support::{TestBackend, TestPool};

#[derive(Debug, thiserror::Error)]
enum UnitError {
    #[error("account {0} does not exist")]
    NoAccount(i64),
    #[error("overdraft")]
    Overdraft,
    #[error("sold out in attempt {attempts}")]
    SoldOut { attempts: u32 },
    #[error(transparent)]
    Transaction(#[from] Error),
}

impl From<sqlx::Error> for UnitError {
    fn from(error: sqlx::Error) -> Self {
        Self::Transaction(error.into())
    }
}

async fn tables<DB: TestBackend>(connections: u32, statements: &[&str]) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    for statement in statements {
        DB::pool_execute(&pool, DB::sql(statement), &[]).await.expect(statement);
    }
    pool
}

async fn number<DB: TestBackend>(pool: &Pool<DB>, query: &str) -> i64 {
    DB::pool_fetch(pool, DB::sql(query), &[]).await.expect(query)
}

const ACCOUNTS: i64 = 10;
const DEPOSIT: i64 = 100;
const CUSTOMERS: u64 = 8;
const TRANSFERS: u32 = 50;

async fn transfer<DB: TestBackend>(
    tx: &mut Tx<DB>,
    from: i64,
    to: i64,
    amount: i64,
) -> Result<(), UnitError> {
    let missing = DB::lock_accounts(tx, &[from, to]).await?;
    if let Some(account) = missing.first() {
        return Err(UnitError::NoAccount(*account));
    }
    let balance = DB::fetch(tx, DB::sql("SELECT balance FROM account WHERE id = ?"), &[from]).await?;
    if balance < amount {
        return Err(UnitError::Overdraft);
    }
    move_money(tx, from, to, amount).await
}

/// Does not check the balance.
async fn move_money<DB: TestBackend>(
    tx: &mut Tx<DB>,
    from: i64,
    to: i64,
    amount: i64,
) -> Result<(), UnitError> {
    for (account, change) in [(from, -amount), (to, amount)] {
        let update = DB::sql("UPDATE account SET balance = balance + ? WHERE id = ?");
        DB::execute(tx, update, &[change, account]).await?;
    }
    Ok(())
}

/// Reproducible random numbers.
struct RandomNumbers(u64);

impl RandomNumbers {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as i64 % limit
    }
}

/// Makes one transfer after the other. Returns how many were made and how many were refused.
async fn customer<DB: TestBackend>(db: PoolTransactor<DB, Pessimistic>, seed: u64) -> (u32, u32) {
    let (mut random, mut made, mut refused) = (RandomNumbers(seed), 0, 0);
    for _ in 0..TRANSFERS {
        let from = random.below(ACCOUNTS);
        let to = (from + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
        let amount = 1 + random.below(DEPOSIT);
        match db.run(async |tx: &mut Tx<DB>| transfer(tx, from + 1, to + 1, amount).await).await {
            Ok(()) => made += 1,
            Err(UnitError::Overdraft) => refused += 1,
            Err(error) => panic!("a transfer ended with {error:?}"),
        }
    }
    (made, refused)
}

pub(crate) async fn transfers_keep_the_total_and_refuse_overdrafts<DB: TestBackend>() {
    let pool = tables::<DB>(
        8,
        &["CREATE TABLE account (
            id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, CONSTRAINT solvent CHECK (balance >= 0))"],
    )
    .await;
    for account in 1..=ACCOUNTS {
        let insert = DB::sql("INSERT INTO account (id, balance) VALUES (?, ?)");
        DB::pool_execute(&pool, insert, &[account, DEPOSIT]).await.expect("an account");
    }
    let db = Pessimistic::default().on(&pool);

    let refused = db.run(async |tx: &mut Tx<DB>| transfer(tx, 1, 2, 1000).await).await;
    assert!(matches!(refused, Err(UnitError::Overdraft)), "{refused:?}");
    let refused = db.run(async |tx: &mut Tx<DB>| transfer(tx, 1, 99, 1).await).await;
    assert!(matches!(refused, Err(UnitError::NoAccount(99))), "{refused:?}");
    let refused = db.run(async |tx: &mut Tx<DB>| move_money(tx, 1, 2, 1000).await).await;
    let Err(UnitError::Transaction(error)) = refused else { panic!("an overdraft ended with {refused:?}") };
    let constraint = error.constraint().expect("a constraint");
    assert_eq!((constraint.kind, constraint.name.as_deref()), (ConstraintKind::Check, Some("solvent")));

    let db = patient(Pessimistic::default(), &pool);
    let mut customers: JoinSet<_> = (0..CUSTOMERS).map(|seed| customer(db.clone(), seed)).collect();
    let (mut made, mut refused) = (0, 0);
    while let Some(customer) = customers.join_next().await {
        let (more_made, more_refused) = customer.expect("no panic");
        made += more_made;
        refused += more_refused;
    }
    assert_eq!(u64::from(made + refused), CUSTOMERS * u64::from(TRANSFERS));
    assert!(made > 0 && refused > 0, "{made} were made, {refused} were refused");
    assert_eq!(number(&pool, DB::TOTAL).await, ACCOUNTS * DEPOSIT);
}

/// An event with one seat, and no key that prevents the seat from being sold twice.
const EVENT: [&str; 3] = [
    "CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL, version BIGINT NOT NULL)",
    "CREATE TABLE ticket (buyer BIGINT NOT NULL)",
    "INSERT INTO event (id, seats, version) VALUES (1, 1, 0)",
];

/// Makes two units wait for each other in their first attempt, so that their transactions overlap.
async fn meet(attempt: u32, barrier: Option<&Barrier>) {
    if let Some(barrier) = barrier.filter(|_| attempt == 1) {
        barrier.wait().await;
    }
}

/// Books a seat, and meets the other buyer before or after reading. Returns the number of attempts.
async fn book<DB: TestBackend>(
    tx: &mut Tx<DB>,
    buyer: i64,
    before_reading: Option<&Barrier>,
    after_reading: Option<&Barrier>,
) -> Result<u32, UnitError> {
    meet(tx.attempt(), before_reading).await;
    // The columns are read one by one, because the helper reads one integer at a time.
    let version = tx.for_update(DB::sql("SELECT version FROM event WHERE id = 1"));
    let version = DB::fetch(tx, version, &[]).await?;
    let seats = DB::fetch(tx, DB::sql("SELECT seats FROM event WHERE id = 1"), &[]).await?;
    if seats == 0 {
        return Err(UnitError::SoldOut { attempts: tx.attempt() });
    }
    meet(tx.attempt(), after_reading).await;
    let update = DB::sql("UPDATE event SET seats = ?, version = version + 1 WHERE id = 1 AND version = ?");
    let updated = DB::execute(tx, update, &[seats - 1, version]).await?;
    tx.expect_one(updated)?;
    DB::execute(tx, DB::sql("INSERT INTO ticket (buyer) VALUES (?)"), &[buyer]).await?;
    Ok(tx.attempt())
}

/// Asserts that exactly one of two buyers has the seat. Returns the attempts of the other one.
async fn assert_one_has_the_seat<DB: TestBackend>(
    pool: &Pool<DB>,
    one: Result<u32, UnitError>,
    other: Result<u32, UnitError>,
) -> u32 {
    let (winner, attempts) = match (one, other) {
        (Ok(_), Err(UnitError::SoldOut { attempts })) => (1, attempts),
        (Err(UnitError::SoldOut { attempts }), Ok(_)) => (2, attempts),
        (one, other) => panic!("exactly one should have the seat: {one:?} and {other:?}"),
    };
    assert_eq!(number(pool, "SELECT seats FROM event").await, 0);
    assert_eq!(number(pool, "SELECT COUNT(*) FROM ticket").await, 1);
    assert_eq!(number(pool, "SELECT buyer FROM ticket").await, winner);
    attempts
}

pub(crate) async fn the_last_seat_is_sold_once_with_a_version_check<DB: TestBackend>() {
    let pool = tables::<DB>(4, &EVENT).await;
    let db = Optimistic::default().on(&pool);
    let both_have_read = Barrier::new(2);
    let (one, other) = tokio::join!(
        db.run(async |tx: &mut Tx<DB>| book(tx, 1, None, Some(&both_have_read)).await),
        db.run(async |tx: &mut Tx<DB>| book(tx, 2, None, Some(&both_have_read)).await),
    );
    let attempts = assert_one_has_the_seat(&pool, one, other).await;
    assert!(attempts > 1, "the loser was refused in its first attempt, so it never saw the seat");
}

pub(crate) async fn the_last_seat_is_sold_once_with_a_row_lock<DB: TestBackend>() {
    let pool = tables::<DB>(4, &EVENT).await;
    let db = Pessimistic::default().on(&pool);
    let both_have_begun = Barrier::new(2);
    // SQLite locks the database when a transaction begins, so the second one cannot begin before it ends.
    let both_have_begun = (DB::NAME != "SQLite").then_some(&both_have_begun);
    let (one, other) = tokio::join!(
        db.run(async |tx: &mut Tx<DB>| book(tx, 1, both_have_begun, None).await),
        db.run(async |tx: &mut Tx<DB>| book(tx, 2, both_have_begun, None).await),
    );
    let attempts = assert_one_has_the_seat(&pool, one, other).await;
    assert_eq!(attempts, 1, "the loser was retried instead of waiting for the row");
}

/// Stores a payment and a note about its receipt. Returns whether the note could be stored.
async fn pay<DB: TestBackend>(tx: &mut Tx<DB>, payment: i64, receipt: i64) -> Result<bool, Error> {
    DB::execute(tx, DB::sql("INSERT INTO payment (id, noted) VALUES (?, 1)"), &[payment]).await?;
    match tx.savepoint(async |tx: &mut Tx<DB>| note(tx, payment, receipt).await).await {
        Ok(()) => Ok(true),
        Err(error) if is_duplicate(&error) => {
            DB::execute(tx, DB::sql("UPDATE payment SET noted = 0 WHERE id = ?"), &[payment]).await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn pay_without_savepoint<DB: TestBackend>(
    tx: &mut Tx<DB>,
    payment: i64,
    receipt: i64,
) -> Result<(), Error> {
    DB::execute(tx, DB::sql("INSERT INTO payment (id, noted) VALUES (?, 1)"), &[payment]).await?;
    note(tx, payment, receipt).await
}

async fn note<DB: TestBackend>(tx: &mut Tx<DB>, payment: i64, receipt: i64) -> Result<(), Error> {
    let insert = DB::sql("INSERT INTO note (payment, receipt) VALUES (?, ?)");
    DB::execute(tx, insert, &[payment, receipt]).await?;
    Ok(())
}

fn is_duplicate(error: &Error) -> bool {
    error.constraint().is_some_and(|constraint| constraint.kind == ConstraintKind::Unique)
}

pub(crate) async fn a_note_that_fails_in_a_savepoint_does_not_lose_its_payment<DB: TestBackend>() {
    let pool = tables::<DB>(
        2,
        &[
            "CREATE TABLE payment (id BIGINT PRIMARY KEY, noted BIGINT NOT NULL)",
            "CREATE TABLE note (payment BIGINT NOT NULL, receipt BIGINT NOT NULL UNIQUE)",
        ],
    )
    .await;
    let db = Pessimistic::default().on(&pool);
    let noted = db.run(async |tx: &mut Tx<DB>| pay(tx, 1, 7).await).await;
    assert!(noted.expect("a payment"), "the first note failed");
    let noted = db.run(async |tx: &mut Tx<DB>| pay(tx, 2, 7).await).await;
    assert!(!noted.expect("a payment"), "the receipt has a note already");
    let lost = db.run(async |tx: &mut Tx<DB>| pay_without_savepoint(tx, 3, 7).await).await;
    let error = lost.expect_err("the receipt has a note already");
    assert!(is_duplicate(&error), "{error:?}");

    assert_eq!(number(&pool, "SELECT COUNT(*) FROM payment").await, 2);
    assert_eq!(number(&pool, "SELECT id FROM payment WHERE noted = 1").await, 1);
    assert_eq!(number(&pool, "SELECT id FROM payment WHERE noted = 0").await, 2);
    assert_eq!(number(&pool, "SELECT COUNT(*) FROM note").await, 1);
    assert_eq!(number(&pool, "SELECT payment FROM note").await, 1);
}

/// Subtracts the quantity from the stock, in the first attempt after all have read it. Returns the number of
/// attempts.
async fn order<DB: TestBackend>(
    tx: &mut Tx<DB>,
    id: i64,
    quantity: i64,
    mailbox: &UnboundedSender<i64>,
    all_have_read: &Barrier,
) -> Result<u32, UnitError> {
    // The hook is registered first, because the order does not matter.
    let mailbox = mailbox.clone();
    tx.on_commit(async move { mailbox.send(id) });
    let version = tx.for_update(DB::sql("SELECT version FROM product WHERE id = 1"));
    let version = DB::fetch(tx, version, &[]).await?;
    let stock = DB::fetch(tx, DB::sql("SELECT stock FROM product WHERE id = 1"), &[]).await?;
    if stock < quantity {
        return Err(UnitError::SoldOut { attempts: tx.attempt() });
    }
    if tx.attempt() == 1 {
        all_have_read.wait().await;
    }
    let update = DB::sql("UPDATE product SET stock = ?, version = version + 1 WHERE id = 1 AND version = ?");
    let updated = DB::execute(tx, update, &[stock - quantity, version]).await?;
    tx.expect_one(updated)?;
    DB::execute(tx, DB::sql("INSERT INTO orders (id) VALUES (?)"), &[id]).await?;
    Ok(tx.attempt())
}

fn received(mails: &mut UnboundedReceiver<i64>) -> Vec<i64> {
    let mut received: Vec<_> = std::iter::from_fn(|| mails.try_recv().ok()).collect();
    received.sort_unstable();
    received
}

pub(crate) async fn a_mail_is_sent_once_for_each_committed_order<DB: TestBackend>() {
    let pool = tables::<DB>(
        4,
        &[
            "CREATE TABLE product (id BIGINT PRIMARY KEY, stock BIGINT NOT NULL, version BIGINT NOT NULL)",
            "CREATE TABLE orders (id BIGINT PRIMARY KEY)",
            "INSERT INTO product (id, stock, version) VALUES (1, 10, 0)",
        ],
    )
    .await;
    let db = Optimistic::default().on(&pool);
    let (mailbox, mut mails) = unbounded_channel();
    let (alone, both) = (Barrier::new(1), Barrier::new(2));

    let stored = db.run(async |tx: &mut Tx<DB>| order(tx, 1, 3, &mailbox, &alone).await).await;
    stored.expect("order 1");
    assert_eq!(received(&mut mails), [1]);
    let refused = db.run(async |tx: &mut Tx<DB>| order(tx, 2, 100, &mailbox, &alone).await).await;
    assert!(matches!(refused, Err(UnitError::SoldOut { .. })), "{refused:?}");
    assert_eq!(received(&mut mails), [0; 0], "order 2 was rolled back");

    let (three, four) = tokio::join!(
        db.run(async |tx: &mut Tx<DB>| order(tx, 3, 2, &mailbox, &both).await),
        db.run(async |tx: &mut Tx<DB>| order(tx, 4, 2, &mailbox, &both).await),
    );
    assert!(three.expect("order 3") + four.expect("order 4") > 2, "neither order was retried");
    assert_eq!(received(&mut mails), [3, 4]);
    assert_eq!(number(&pool, "SELECT COUNT(*) FROM orders WHERE id IN (1, 3, 4)").await, 3);
    assert_eq!(number(&pool, "SELECT COUNT(*) FROM orders").await, 3);
    assert_eq!(number(&pool, "SELECT stock FROM product").await, 3);
}
