use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::PgConnection;

async fn helper(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT 1").execute(conn).await.map(drop)
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
