//! Errors that the code between SeaORM and the unit discards.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use atomically::testing::{Fault, Faults, Moment};
use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};
use sea_orm::{ActiveModelTrait as _, DbBackend, DbErr, EntityTrait as _, IntoActiveModel as _, NotSet, Set};

use crate::entities::{customer, event};
use crate::{Database, database, seats};

pub(crate) async fn a_swallowed_conflict_is_retried<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let attempts = AtomicU32::new(0);
    // The server reports a conflict to the second statement of the first attempt.
    let faults = Faults::new().at(Moment::Statement(2), Fault::SerializationFailure);
    let db = db.options(faults.options());
    db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        attempts.fetch_add(1, SeqCst);
        let orm = tx.sea_orm();
        let event = event::Entity::find_by_id(1).one(&orm).await?.expect("the event");
        let seats = event.seats + 1;
        let mut event = event.into_active_model();
        event.seats = Set(seats);
        let _ = event.update(&orm).await;
        Ok(())
    })
    .await
    .expect("the second attempt commits");
    assert_eq!(attempts.load(SeqCst), 2);
    assert_eq!(seats(&pool).await, 1);
}

/// PostgreSQL has aborted the transaction, so that a commit would store nothing. The others continue.
pub(crate) async fn a_swallowed_constraint_fails_the_unit_on_postgres_or_is_an_ordinary_error<
    DB: Database,
>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let twice = db.run(async |tx: &mut Tx<DB>| -> Result<_, Error> {
        let orm = tx.sea_orm();
        for _ in 0..2 {
            let ann = customer::ActiveModel { id: NotSet, name: Set("Ann".to_owned()) };
            let _ = ann.insert(&orm).await;
        }
        Ok(())
    });
    let ended = twice.await;
    let stored = DB::pool_fetch(&pool, DB::sql("SELECT COUNT(*) FROM customer"), &[]).await.expect("a count");
    if DB::BACKEND == DbBackend::Postgres {
        assert_eq!(ended.expect_err("it is aborted").kind(), ErrorKind::Constraint);
        assert_eq!(stored, 0);
    } else {
        ended.expect("a commit");
        assert_eq!(stored, 1);
    }
}
