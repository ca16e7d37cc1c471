use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::PgConnection;

trait Repository {
    async fn touch(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error>;
}

async fn run<R: Repository + Sync>(pool: sqlx::PgPool, repository: R) -> Result<(), Error> {
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx| {
        tx.on_connection(async |conn| repository.touch(conn).await).await?;
        Ok::<_, Error>(())
    })
    .await
}

fn main() {}
