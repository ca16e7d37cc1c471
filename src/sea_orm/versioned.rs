//! Optimistic locking of entities.

use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait as _, DbErr, EntityTrait, IntoActiveModel, QueryFilter as _,
    Value,
};

use super::{SeaOrm, SeaOrmBackend};

/// An entity with a version column, which [`SeaOrm::update_versioned`] checks and increments.
///
/// ```
/// # mod event {
/// #   use sea_orm::entity::prelude::*;
/// #   #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
/// #   #[sea_orm(table_name = "event")]
/// #   pub struct Model { #[sea_orm(primary_key)] pub id: i64, pub seats: i64, pub version: i64 }
/// #   #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
/// #   pub enum Relation {}
/// #   impl ActiveModelBehavior for ActiveModel {}
/// impl atomically::sea_orm::VersionedEntity for Entity {
///     const VERSION: Column = Column::Version;
/// }
/// # }
/// ```
pub trait VersionedEntity: EntityTrait {
    /// The column of the version: an integer that is not null.
    const VERSION: Self::Column;
}

impl<DB: SeaOrmBackend> SeaOrm<'_, DB> {
    /// Updates a row if it still has the version that the model was read with, and increments the version.
    ///
    /// If another transaction has changed the row, the unit is rolled back and runs again, as after
    /// [`Tx::expect_one`](crate::Tx::expect_one): it reads the new state and decides anew. This is correct
    /// under every strategy.
    ///
    /// # Errors
    ///
    /// Returns a stale version, which the strategy retries even if the closure discards it; or another error
    /// of the database or of SeaORM. A model without a version is an error of type `DbErr::AttrNotSet`.
    pub async fn update_versioned<A>(&self, model: A) -> Result<<A::Entity as EntityTrait>::Model, DbErr>
    where
        A: ActiveModelTrait<Entity: VersionedEntity> + sea_orm::ActiveModelBehavior + Send,
        <A::Entity as EntityTrait>::Model: IntoActiveModel<A>,
    {
        let column = <A::Entity as VersionedEntity>::VERSION;
        let mut model = model;
        let current = match model.get(column) {
            ActiveValue::Set(version) | ActiveValue::Unchanged(version) => version,
            ActiveValue::NotSet => return Err(DbErr::AttrNotSet(String::from("version"))),
        };
        model.set(column, next(&current)?);
        let update = sea_orm::Update::one(model).validate()?.filter(column.eq(current));
        match update.exec(self).await {
            Err(DbErr::RecordNotUpdated) => {
                self.lend().await?.tx.expect_one(0)?;
                Err(DbErr::RecordNotUpdated)
            }
            updated => updated,
        }
    }
}

/// Returns the version after this one.
fn next(version: &Value) -> Result<Value, DbErr> {
    let next = match version {
        Value::Int(Some(version)) => version.checked_add(1).map(Value::from),
        Value::BigInt(Some(version)) => version.checked_add(1).map(Value::from),
        Value::Unsigned(Some(version)) => version.checked_add(1).map(Value::from),
        Value::BigUnsigned(Some(version)) => version.checked_add(1).map(Value::from),
        Value::SmallInt(Some(version)) => version.checked_add(1).map(Value::from),
        _ => None,
    };
    next.ok_or_else(|| {
        DbErr::Type(String::from("a version is an integer that is not null and can be incremented"))
    })
}
