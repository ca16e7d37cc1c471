use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::{Acquire, Postgres};

async fn helper<'a>(db: impl Acquire<'a, Database = Postgres>) -> Result<(), sqlx::Error> {
    let mut conn = db.acquire().await?;
    sqlx::query("SELECT 1").execute(&mut *conn).await.map(drop)
}

async fn run(pool: sqlx::PgPool) -> Result<(), Error> {
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx| {
        tx.on_connection(async |conn| helper(conn).await).await?;
        Ok::<_, Error>(())
    })
    .await
}

fn main() {}
