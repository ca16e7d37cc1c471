//! Eight concurrent increments through entities are exact under every strategy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::{
    Adaptive, Atomic, Optimistic, Pessimistic, PoolTransactor, Serializable, Strategy, TransactorExt as _, Tx,
};
use futures_util::future::join_all;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, DbBackend, DbErr, EntityTrait as _, ExprTrait as _,
    IntoActiveModel as _, QueryFilter as _, Set,
};
use tokio::sync::Barrier;

use crate::entities::event;
use crate::{Database, database, seats};

const TASKS: usize = 8;
const ROUNDS: i64 = 5;

/// Runs the unit of `$increment` in several tasks at once, and checks the sum. If they have to meet
/// conflicts, all of them have read before the first one writes.
macro_rules! exact {
    ($test:ident, $strategy:expr, $increment:ident, $meets_conflicts:expr) => {
        pub(crate) async fn $test<DB: Database>() {
            let pool = database::<DB>(TASKS as u32).await;
            let db = patient(PoolTransactor::new($strategy, &pool));
            let (barrier, attempts) = (Arc::new(Barrier::new(TASKS)), Arc::new(AtomicU32::new(0)));
            let tasks = (0..TASKS).map(|_| {
                let (db, barrier, attempts) = (db.clone(), barrier.clone(), attempts.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    for round in 0..ROUNDS {
                        let unit = async |tx: &mut Tx<DB>| {
                            attempts.fetch_add(1, SeqCst);
                            let meets = $meets_conflicts && round == 0 && tx.attempt() == 1;
                            $increment(tx, meets.then_some(&*barrier)).await
                        };
                        db.run(unit).await.expect("an increment");
                    }
                })
            });
            for task in join_all(tasks).await {
                task.expect("no panic");
            }
            let runs = TASKS as i64 * ROUNDS;
            assert_eq!(seats(&pool).await, runs);
            let attempts = i64::from(attempts.load(SeqCst));
            assert!(!$meets_conflicts || attempts > runs, "there was no conflict: {attempts} attempts");
        }
    };
}

fn patient<DB: Database, S: Strategy>(db: PoolTransactor<DB, S>) -> PoolTransactor<DB, S> {
    db.attempts(10_000).deadline(Duration::from_secs(60))
}

exact!(pessimistic_is_exact, Pessimistic::default(), read_and_write, false);
exact!(
    optimistic_with_versions_is_exact,
    Optimistic::default(),
    read_and_write_versioned,
    !is_sqlite::<DB>()
);
exact!(atomic_is_exact, Atomic::default(), one_statement, false);
exact!(serializable_is_exact, Serializable::default(), read_and_write, !is_sqlite::<DB>());
exact!(adaptive_with_versions_is_exact, Adaptive::default(), read_and_write_versioned, false);

/// SQLite has one writer at a time, which may prevent all conflicts.
fn is_sqlite<DB: Database>() -> bool {
    DB::BACKEND == DbBackend::Sqlite
}

async fn meet(barrier: Option<&Barrier>) {
    if let Some(barrier) = barrier {
        barrier.wait().await;
    }
}

/// The row is read with the lock of the strategy, and written back.
async fn read_and_write<DB: Database>(tx: &mut Tx<DB>, all_have_read: Option<&Barrier>) -> Result<(), DbErr> {
    let orm = tx.sea_orm();
    let event = orm.for_update(event::Entity::find_by_id(1)).one(&orm).await?.expect("the event");
    meet(all_have_read).await;
    let seats = event.seats + 1;
    let mut event = event.into_active_model();
    event.seats = Set(seats);
    event.update(&orm).await?;
    Ok(())
}

/// The same with a check of the version.
async fn read_and_write_versioned<DB: Database>(
    tx: &mut Tx<DB>,
    all_have_read: Option<&Barrier>,
) -> Result<(), DbErr> {
    let orm = tx.sea_orm();
    let event = orm.for_update(event::Entity::find_by_id(1)).one(&orm).await?.expect("the event");
    meet(all_have_read).await;
    let seats = event.seats + 1;
    let mut event = event.into_active_model();
    event.seats = Set(seats);
    orm.update_versioned(event).await?;
    Ok(())
}

/// One statement computes the new value.
async fn one_statement<DB: Database>(tx: &mut Tx<DB>, _: Option<&Barrier>) -> Result<(), DbErr> {
    let orm = tx.sea_orm();
    event::Entity::update_many()
        .col_expr(event::Column::Seats, Expr::col(event::Column::Seats).add(1))
        .filter(event::Column::Id.eq(1))
        .exec(&orm)
        .await?;
    Ok(())
}
