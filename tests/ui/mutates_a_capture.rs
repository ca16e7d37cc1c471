use atomically::{Error, Optimistic, TransactorExt as _};

async fn run(pool: sqlx::SqlitePool) -> Result<(), Error> {
    let db = Optimistic::default().on(&pool);
    let mut attempts = 0;
    db.run(async |tx| {
        attempts += 1;
        sqlx::query("SELECT 1").execute(&mut *tx).await?;
        Ok::<_, Error>(())
    })
    .await
}

fn main() {}
