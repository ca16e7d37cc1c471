//! Nested transactions.

use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};
use sea_orm::{
    ActiveModelTrait as _, DbErr, EntityTrait as _, IsolationLevel, NotSet, PaginatorTrait as _, Set,
    TransactionSession as _, TransactionTrait as _,
};

use crate::entities::customer;
use crate::{Database, database};

fn named(name: &str) -> customer::ActiveModel {
    customer::ActiveModel { id: NotSet, name: Set(name.to_owned()) }
}

async fn customers<DB: Database>(pool: &sqlx::Pool<DB>) -> i64 {
    DB::pool_fetch(pool, DB::sql("SELECT COUNT(*) FROM customer"), &[]).await.expect("a count")
}

pub(crate) async fn a_nested_transaction_that_is_rolled_back_leaves_nothing<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        named("outer").insert(&orm).await?;
        let nested = orm.begin().await?;
        named("nested").insert(&nested).await?;
        nested.rollback().await?;
        let nested = orm.begin().await?;
        named("kept").insert(&nested).await?;
        nested.commit().await?;
        // A violated constraint inside is over with the savepoint.
        let failed = orm
            .transaction(|nested| {
                Box::pin(async move {
                    named("inner").insert(nested).await?;
                    named("outer").insert(nested).await
                })
            })
            .await;
        assert!(failed.is_err(), "the name is unique");
        named("last").insert(&orm).await?;
        Ok(())
    })
    .await
    .expect("a commit");
    assert_eq!(customers(&pool).await, 3);
}

pub(crate) async fn a_nested_transaction_that_is_dropped_is_rolled_back<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        let nested = orm.begin().await?;
        let inner = nested.begin().await?;
        named("dropped").insert(&inner).await?;
        drop(nested);
        drop(inner);
        assert_eq!(customer::Entity::find().count(&orm).await?, 0);
        named("kept").insert(&orm).await?;
        Ok(())
    })
    .await
    .expect("a commit");
    assert_eq!(customers(&pool).await, 1);
}

/// No statement follows that would roll back to the savepoint.
pub(crate) async fn a_unit_that_ends_with_a_dropped_nested_transaction_is_rolled_back<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let ended = db.run(async |tx: &mut Tx<DB>| -> Result<_, Error> {
        let orm = tx.sea_orm();
        named("outer").insert(&orm).await?;
        let nested = orm.begin().await?;
        named("dropped").insert(&nested).await?;
        drop(nested);
        Ok(())
    });
    assert_eq!(ended.await.expect_err("its part is incomplete").kind(), ErrorKind::Aborted);
    assert_eq!(customers(&pool).await, 0);
}

pub(crate) async fn nested_transactions_end_in_order<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        let nested = orm.begin().await?;
        let inner = nested.begin().await?;
        named("inner").insert(&inner).await?;
        let error = nested.commit().await.expect_err("the inner one has not ended");
        assert!(error.to_string().contains("inside of this one"), "{error}");
        let error = inner.commit().await.expect_err("the outer one was dropped");
        assert!(error.to_string().contains("has ended before"), "{error}");
        named("outer").insert(&orm).await?;
        let error = orm.commit().await.expect_err("the unit commits");
        assert!(error.to_string().contains("closure returns Ok"), "{error}");
        Ok(())
    })
    .await
    .expect("a commit");
    assert_eq!(customers(&pool).await, 1);
}

pub(crate) async fn options_of_nested_transactions_are_refused<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        let refused = orm.begin_with_config(Some(IsolationLevel::Serializable), None).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("savepoint")));
        orm.begin_with_config(None, None).await?.commit().await
    })
    .await
    .expect("a commit");
}
