use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::{Postgres, Transaction};

async fn helper(tx: &mut Transaction<'_, Postgres>) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT 1").execute(&mut **tx).await.map(drop)
}

async fn run(pool: sqlx::PgPool) -> Result<(), Error> {
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx| {
        helper(tx).await?;
        Ok::<_, Error>(())
    })
    .await
}

fn main() {}
