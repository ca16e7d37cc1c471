use atomically::{Optimistic, TransactorExt as _, Tx};

#[derive(Debug)]
enum BookingError {
    SoldOut,
    Database(sqlx::Error),
}

impl From<sqlx::Error> for BookingError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

async fn run(pool: sqlx::SqlitePool) -> Result<(), BookingError> {
    let db = Optimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<_>| -> Result<_, BookingError> {
        sqlx::query("SELECT 1").execute(&mut *tx).await?;
        Err(BookingError::SoldOut)
    })
    .await
}

fn main() {}
