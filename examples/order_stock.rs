//! An order and its stock change together, and the mail goes out once that is stored: never for an order that was
//! rolled back, never twice for one that was run again.
//!
//! `cargo run --example order_stock`
//!
//! Elsewhere this is done by a signal handler that decrements the stock "after save", and mails. It does not see that
//! its order is rolled back later. Here, what belongs together is one unit on one `tx`, and what has to wait for the
//! commit is told so.

mod support;

use std::process::ExitCode;

use anyhow::{bail, ensure};
use atomically::{Optimistic, TransactorExt as _, Tx};
use sqlx::Pool;
use support::say;
use tokio::sync::Barrier;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

// `Db` is the database, and `sql` puts its own parameters in place of each `?`.
support::on_each_database! {
    /// The unit of work. It answers the attempt that it succeeded at.
    async fn place(
        tx: &mut Tx<Db>,
        order: &Order<'_>,
        outbox: &UnboundedSender<i64>,
    ) -> Result<u32, OrderError> {
        // First, to show that the place does not matter: a mail of an attempt that does not commit is never sent.
        tx.on_commit(send_mail(outbox.clone(), order.id));
        take_from_stock(tx, order).await?;
        let store = sql("INSERT INTO atomically_order_order (id, quantity) VALUES (?, ?)");
        sqlx::query(store).bind(order.id).bind(order.quantity).execute(&mut *tx).await?;
        Ok(tx.attempt())
    }

    /// What would have been the signal handler: a function on the same transaction, which can say no.
    async fn take_from_stock(tx: &mut Tx<Db>, order: &Order<'_>) -> Result<(), OrderError> {
        let product = tx.for_update("SELECT stock, version FROM atomically_order_product WHERE id = 1");
        let (stock, version): (i64, i64) = sqlx::query_as(product).fetch_one(&mut *tx).await?;
        if stock < order.quantity {
            return Err(OrderError::OutOfStock { wanted: order.quantity, stock });
        }
        // Not part of an order: it makes sure that this story has a race in it.
        if tx.attempt() == 1 {
            order.everybody_has_looked.wait().await;
        }
        let take = "UPDATE atomically_order_product SET stock = ?, version = version + 1 WHERE id = 1 AND version = ?";
        let taken =
            sqlx::query(sql(take)).bind(stock - order.quantity).bind(version).execute(&mut *tx).await?;
        tx.expect_one(taken.rows_affected())?;
        Ok(())
    }

    pub(crate) async fn story(pool: &Pool<Db>) -> anyhow::Result<()> {
        let product = "INSERT INTO atomically_order_product (id, stock, version) VALUES (1, 10, 0)";
        sqlx::query(product).execute(pool).await?;
        let db = Optimistic::default().on(pool);
        let (outbox, mut mails) = unbounded_channel();
        let alone = Barrier::new(1);

        let order = Order { id: 1, quantity: 3, everybody_has_looked: &alone };
        db.run(async |tx: &mut Tx<Db>| place(tx, &order, &outbox).await).await?;
        let sent = arrived(&mut mails);
        ensure!(sent == [1], "order 1 was to send one mail, and these went out: {sent:?}");
        say!("Order 1 is stored, and its mail is sent.");

        let order = Order { id: 2, quantity: 100, everybody_has_looked: &alone };
        let refused = db.run(async |tx: &mut Tx<Db>| place(tx, &order, &outbox).await).await;
        let Err(OrderError::OutOfStock { wanted, stock }) = refused else {
            bail!("order 2 was to be out of stock, and ended with {refused:?}");
        };
        let sent = arrived(&mut mails);
        ensure!(sent.is_empty(), "order 2 was rolled back, and these mails went out: {sent:?}");
        say!("Order 2 wants {wanted} of {stock}: it is rolled back, and no mail is sent.");

        let together = Barrier::new(2);
        let [three, four] = [3, 4].map(|id| Order { id, quantity: 2, everybody_has_looked: &together });
        let (three, four) = tokio::try_join!(
            db.run(async |tx: &mut Tx<Db>| place(tx, &three, &outbox).await),
            db.run(async |tx: &mut Tx<Db>| place(tx, &four, &outbox).await),
        )?;
        let mut sent = arrived(&mut mails);
        sent.sort_unstable();
        ensure!(three + four > 2, "neither order was run again");
        ensure!(sent == [3, 4], "orders 3 and 4 were to send one mail each, and these went out: {sent:?}");
        say!("Orders 3 and 4 get in each other's way: {three} and {four} attempts, and one mail each.");

        let stock = "SELECT stock FROM atomically_order_product";
        let stock: i64 = sqlx::query_scalar(stock).fetch_one(pool).await?;
        let orders = "SELECT id FROM atomically_order_order ORDER BY id";
        let orders: Vec<i64> = sqlx::query_scalar(orders).fetch_all(pool).await?;
        ensure!(stock == 3 && orders == [1, 3, 4], "{stock} are in stock after the orders {orders:?}");
        say!("The database says the same: orders 1, 3 and 4, and {stock} of 10 left in stock.");
        Ok(())
    }
}

const TABLES: [(&str, &str); 2] = [
    ("atomically_order_product", "id BIGINT PRIMARY KEY, stock BIGINT NOT NULL, version BIGINT NOT NULL"),
    ("atomically_order_order", "id BIGINT PRIMARY KEY, quantity BIGINT NOT NULL"),
];

#[derive(Debug, Clone, Copy)]
struct Order<'a> {
    id: i64,
    quantity: i64,
    everybody_has_looked: &'a Barrier,
}

/// Why there is no order.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("{wanted} were wanted, {stock} are in stock")]
    OutOfStock { wanted: i64, stock: i64 },
    #[error(transparent)]
    Transaction(#[from] atomically::Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Nobody is told when it fails: the order is stored, come what may.
async fn send_mail(outbox: UnboundedSender<i64>, order: i64) {
    let _ = outbox.send(order);
}

fn arrived(mails: &mut UnboundedReceiver<i64>) -> Vec<i64> {
    std::iter::from_fn(|| mails.try_recv().ok()).collect()
}

#[tokio::main]
async fn main() -> ExitCode {
    support::main(on_any).await
}
