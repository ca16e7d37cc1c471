//! Sells a product to many customers at the same time, with the entities of SeaORM.
//!
//! `cargo run -p sea_orm_shop`
//!
//! Each sale reads the stock, lowers it with a version check, and inserts an order, in one unit of work. A
//! sale that meets another one is retried, under any strategy. No piece is sold twice, and no customer has
//! two orders.

mod entity;

use anyhow::ensure;
use atomically::{Error, Optimistic, Transactor, TransactorExt as _, Tx};
use entity::{order, product};
use futures_util::future::join_all;
use sea_orm::{ActiveModelTrait as _, EntityTrait as _, IntoActiveModel as _, Set, TransactionTrait as _};
use sqlx::{Sqlite, SqlitePool};

const BIKE: i64 = 7;

/// Sells one piece, and returns how many are left; `None` if there was none.
async fn sell(db: &impl Transactor<Sqlite>, customer: &str) -> Result<Option<i64>, Error> {
    db.run(async |tx: &mut Tx<Sqlite>| -> Result<_, Error> {
        let db = tx.sea_orm();
        let product = db.for_update(product::Entity::find_by_id(BIKE)).one(&db).await?;
        let Some(product) = product.filter(|product| product.stock > 0) else { return Ok(None) };
        let left = product.stock - 1;
        let mut product = product.into_active_model();
        product.stock = Set(left);
        db.update_versioned(product).await?;
        let order = order::ActiveModel {
            product_id: Set(BIKE),
            customer: Set(customer.to_owned()),
            ..Default::default()
        };
        order.insert(&db).await?;
        Ok(Some(left))
    })
    .await
}

/// Inserts an order for each of these customers without one. Returns how many were inserted.
async fn import(db: &impl Transactor<Sqlite>, customers: &[&str]) -> Result<usize, Error> {
    db.run(async |tx: &mut Tx<Sqlite>| -> Result<_, Error> {
        let db = tx.sea_orm();
        let mut inserted = 0;
        for &customer in customers {
            let order = order::ActiveModel {
                product_id: Set(BIKE),
                customer: Set(customer.to_owned()),
                ..Default::default()
            };
            // A savepoint: on every database, the unit continues after the violation.
            let saved = db.transaction(|db| Box::pin(async move { order.insert(db).await })).await;
            inserted += usize::from(saved.is_ok());
        }
        Ok(inserted)
    })
    .await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("shop.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL, stock INTEGER NOT NULL,
            version INTEGER NOT NULL);
        CREATE TABLE shop_order (id INTEGER PRIMARY KEY, customer TEXT NOT NULL UNIQUE,
            product_id INTEGER NOT NULL REFERENCES product);
        INSERT INTO product VALUES (7, 'bike', 5, 0);";
    sqlx::raw_sql(schema).execute(&pool).await?;

    let db = Optimistic::default().on(&pool);
    let customers: Vec<String> = (1..=8).map(|number| format!("customer {number}")).collect();
    let sales = join_all(customers.iter().map(|customer| sell(&db, customer))).await;
    let sales = sales.into_iter().collect::<Result<Vec<_>, _>>()?;
    let sold = sales.iter().flatten().count();
    ensure!(sold == 5, "{sold} of 5 pieces were sold");
    println!("8 customers want one of 5 bikes: {sold} get one.");

    let inserted = import(&db, &["Ann", "Ann", "Bob"]).await?;
    println!("Of 3 imported orders, {inserted} are stored: Ann has one already.");

    let stored = db
        .run(async |tx: &mut Tx<Sqlite>| -> Result<_, Error> {
            let db = tx.sea_orm();
            Ok(product::Entity::find().find_with_related(order::Entity).all(&db).await?)
        })
        .await?;
    let [(product, orders)] = stored.as_slice() else { anyhow::bail!("there is one product") };
    ensure!((product.stock, orders.len()) == (0, 7), "{product:?} has {} orders", orders.len());
    println!("The {} has {} orders, and {} are left in stock.", product.name, orders.len(), product.stock);
    Ok(())
}
