//! What SeaORM does on a connection, it does in a unit.

use atomically::{ConstraintKind, Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};
use futures_util::TryStreamExt as _;
use sea_orm::sea_query::{Expr, ExprTrait as _, Query};
use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, ConnectionTrait as _, DbErr, EntityTrait as _, ModelTrait as _,
    NotSet, QueryFilter as _, QueryOrder as _, Set,
};
use serde_json::json;

use crate::entities::{customer, event, order};
use crate::{Database, database, seats};

fn ann() -> customer::ActiveModel {
    customer::ActiveModel { id: NotSet, name: Set("Ann".to_owned()) }
}

fn order_of(customer: i64, number: i64) -> order::ActiveModel {
    order::ActiveModel {
        id: NotSet,
        customer_id: Set(customer),
        state: Set(order::State::Placed),
        details: Set(json!({ "number": number, "items": ["tea", "ü"] })),
    }
}

pub(crate) async fn entities_are_stored_with_json_and_enums<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let stored = db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        let customer = ann().insert(&orm).await?;
        let placed = order_of(customer.id, 7).insert(&orm).await?;
        let mut shipped: order::ActiveModel = placed.into();
        shipped.state = Set(order::State::Shipped);
        shipped.update(&orm).await
    });
    let stored = stored.await.expect("a commit");
    let found = db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        order::Entity::find().filter(order::Column::State.eq(order::State::Shipped)).one(&orm).await
    });
    let found = found.await.expect("a commit").expect("the order");
    assert_eq!(found, stored);
    assert_eq!(found.details, json!({ "number": 7, "items": ["tea", "ü"] }));
}

pub(crate) async fn related_entities_are_found<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let found = db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        let customer = ann().insert(&orm).await?;
        order::Entity::insert_many((1..=3).map(|number| order_of(customer.id, number))).exec(&orm).await?;
        let orders = customer.find_related(order::Entity).all(&orm).await?;
        let with = customer::Entity::find().find_with_related(order::Entity).all(&orm).await?;
        Ok((orders.len(), with.len(), with[0].1.len()))
    });
    assert_eq!(found.await.expect("a commit"), (3, 1, 3));
}

/// `ActiveModelEx` begins nested transactions by itself.
pub(crate) async fn nested_active_models_are_saved<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let saved = db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        customer::ActiveModel::builder()
            .set_name("Ann")
            .add_order(order::ActiveModel::builder().set_state(order::State::Placed).set_details(json!({})))
            .save(&orm)
            .await?;
        order::Entity::find().all(&orm).await
    });
    assert_eq!(saved.await.expect("a commit").len(), 1);
}

pub(crate) async fn rows_are_streamed<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let streamed = db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        let customer = ann().insert(&orm).await?;
        order::Entity::insert_many((1..=100).map(|number| order_of(customer.id, number))).exec(&orm).await?;
        let mut orders = orm.stream_models(order::Entity::find().order_by_asc(order::Column::Id)).await?;
        let first = orders.try_next().await?.expect("a row");
        // It would wait for the stream for ever.
        let meanwhile = order::Entity::find().one(&orm).await.expect_err("the stream is open");
        assert!(meanwhile.to_string().contains("a stream is open"), "{meanwhile}");
        let others: Vec<_> = orders.try_collect().await?;
        assert!(first.id < others[0].id);
        Ok((1 + others.len(), order::Entity::find().all(&orm).await?.len()))
    });
    assert_eq!(streamed.await.expect("a commit"), (100, 100));
}

pub(crate) async fn statements_of_sea_query_run_with_and_without_sea_orm<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let update = Query::update()
        .table(event::Entity)
        .value(event::Column::Seats, Expr::col(event::Column::Seats).add(7))
        .and_where(event::Column::Id.eq(1))
        .to_owned();
    let changed = db.run(async |tx: &mut Tx<DB>| -> Result<_, DbErr> {
        let orm = tx.sea_orm();
        Ok(orm.execute(&update).await?.rows_affected())
    });
    assert_eq!(changed.await.expect("a commit"), 1);
    // As text, with its values as literals.
    let text = DB::BACKEND.build(&update).to_string();
    db.run(async |tx: &mut Tx<DB>| -> Result<_, Error> { Ok(DB::plain(tx, DB::sql(&text)).await?) })
        .await
        .expect("a commit");
    assert_eq!(seats(&pool).await, 14);
}

pub(crate) async fn errors_keep_their_kind<DB: Database>() {
    let pool = database::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let twice = db.run(async |tx: &mut Tx<DB>| -> Result<(), DbErr> {
        let orm = tx.sea_orm();
        ann().insert(&orm).await?;
        ann().insert(&orm).await?;
        Ok(())
    });
    let error = twice.await.expect_err("the name is unique");
    assert!(matches!(error.sql_err(), Some(sea_orm::SqlErr::UniqueConstraintViolation(_))), "{error:?}");
    let error = Error::from(error);
    assert_eq!(error.kind(), ErrorKind::Constraint);
    assert_eq!(error.constraint().map(|constraint| constraint.kind), Some(ConstraintKind::Unique));

    let missing = db.run(async |tx: &mut Tx<DB>| -> Result<(), Error> {
        let orm = tx.sea_orm();
        event::ActiveModel { id: Set(99), seats: Set(1), version: Set(1) }.update(&orm).await?;
        Ok(())
    });
    assert_eq!(missing.await.expect_err("there is no such row").kind(), ErrorKind::Database);
    let none = Error::from(DbErr::RecordNotFound(String::from("no such row")));
    assert_eq!(none.kind(), ErrorKind::RowNotFound);
}
