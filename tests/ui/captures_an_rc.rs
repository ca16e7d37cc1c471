use std::rc::Rc;

use atomically::{Error, Optimistic, TransactorExt as _};

async fn run(pool: sqlx::SqlitePool) -> Result<(), Error> {
    let db = Optimistic::default().on(&pool);
    let name = Rc::new(String::from("shared"));
    db.run(async move |tx| {
        sqlx::query("SELECT $1").bind(name.as_str()).execute(&mut *tx).await?;
        Ok::<_, Error>(())
    })
    .await
}

fn main() {}
