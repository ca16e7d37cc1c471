//! The explorer sees the statements of SeaORM.

use atomically::testing::explore;
use atomically::{Pessimistic, Transactor, TransactorExt as _, Tx};
use sea_orm::{ActiveModelTrait as _, DbErr, EntityTrait as _, IntoActiveModel as _, Set};
use sqlx::Pool;

use crate::entities::event;
use crate::{Database, database};

async fn increment<DB: Database>(db: impl Transactor<DB>) -> Result<(), DbErr> {
    db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        let event = orm.for_update(event::Entity::find_by_id(1)).one(&orm).await?.expect("the event");
        let seats = event.seats + 1;
        let mut event = event.into_active_model();
        event.seats = Set(seats);
        event.update(&orm).await?;
        Ok(())
    })
    .await
}

pub(crate) async fn every_schedule_of_two_increments_is_exact<DB: Database>() {
    let pool = database::<DB>(4).await;
    let db = Pessimistic::default().on(&pool);
    let report = explore(&pool)
        .set_up(|pool: Pool<DB>| async move {
            DB::pool_execute(&pool, DB::sql("UPDATE event SET seats = 0"), &[]).await
        })
        .client("first", &db, increment)
        .client("second", &db, increment)
        .expect("seats", 2_i64, |pool: Pool<DB>| async move {
            DB::pool_fetch(&pool, DB::sql("SELECT seats FROM event WHERE id = 1"), &[]).await
        })
        .run()
        .await
        .expect("explored");
    assert!(report.passes() && report.complete, "{report}");
    assert!(report.schedules > 2, "{report}");
}
