//! Calls another service in the middle of a piece of work without holding a lock meanwhile: look, call, lock,
//! check again, write.
//!
//! `cargo run --example external_call`
//!
//! A call inside the unit would keep its rows locked for as long as the service takes, and would be repeated
//! by a retry.

use anyhow::ensure;
use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::{Sqlite, SqlitePool};
use tokio::sync::Notify;

type Db = PoolTransactor<Sqlite, Pessimistic>;

/// Buys a shipping label for a paid order. Returns the label, or `None` if the order is not to be shipped.
async fn ship(db: &Db, carrier: &Carrier, order: i64) -> Result<Option<String>, Error> {
    // Look. This transaction ends before the call begins.
    let looked = db.run(async |tx: &mut Tx<Sqlite>| -> Result<(String, String), Error> {
        let select = sqlx::query_as("SELECT state, address FROM orders WHERE id = $1").bind(order);
        Ok(select.fetch_one(&mut *tx).await?)
    });
    let (state, address) = looked.await?;
    if state != "paid" {
        return Ok(None);
    }

    // Call. The order's id is the idempotency key: a repeated call gets the same label.
    let label = carrier.buy_label(order, &address).await;

    // Lock, check again, write. The order may have changed during the call.
    let stored = db.run(async |tx: &mut Tx<Sqlite>| -> Result<bool, Error> {
        let select = tx.for_update("SELECT state, address FROM orders WHERE id = $1");
        let now: (String, String) = sqlx::query_as(select).bind(order).fetch_one(&mut *tx).await?;
        if now != ("paid".to_owned(), address.clone()) {
            return Ok(false);
        }
        let update = sqlx::query("UPDATE orders SET state = 'shipped', label = $1 WHERE id = $2");
        update.bind(&label).bind(order).execute(&mut *tx).await?;
        Ok(true)
    });
    if stored.await? {
        return Ok(Some(label));
    }
    // Undo the call.
    carrier.void_label(&label).await;
    Ok(None)
}

/// A slow service: `called` is notified when a call has begun, and notifying `finish` lets the call return.
#[derive(Default)]
struct Carrier {
    called: Notify,
    finish: Notify,
}

impl Carrier {
    async fn buy_label(&self, order: i64, address: &str) -> String {
        self.called.notify_one();
        self.finish.notified().await;
        format!("label {order} to {address}")
    }

    async fn void_label(&self, label: &str) {
        println!("The carrier takes back {label}.");
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("shop.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT NOT NULL, address TEXT NOT NULL, label TEXT);
        INSERT INTO orders (id, state, address) VALUES (1, 'paid', 'Oslo'), (2, 'paid', 'Rome');";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let (db, carrier) = (Pessimistic::default().on(&pool), Carrier::default());

    carrier.finish.notify_one();
    let shipped = ship(&db, &carrier, 1).await?;
    ensure!(shipped.is_some(), "order 1 was not shipped");
    println!("Order 1 is shipped with {}.", shipped.unwrap_or_default());
    // Consumes the notification of the first call.
    carrier.called.notified().await;

    let customer = async {
        carrier.called.notified().await;
        sqlx::query("UPDATE orders SET state = 'cancelled' WHERE id = 2").execute(&pool).await?;
        println!("Order 2 is cancelled while the carrier prints its label: no row is locked.");
        carrier.finish.notify_one();
        Ok(())
    };
    let (shipped, ()) = tokio::try_join!(ship(&db, &carrier, 2), customer)?;
    ensure!(shipped.is_none(), "order 2 was shipped although it was cancelled");

    let orders = "SELECT id, state FROM orders ORDER BY id";
    let orders: Vec<(i64, String)> = sqlx::query_as(orders).fetch_all(&pool).await?;
    ensure!(orders == [(1, "shipped".to_owned()), (2, "cancelled".to_owned())], "{orders:?}");
    println!("Order 1 is shipped, and order 2 stays cancelled.");
    Ok(())
}
