//! SeaORM.

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use sea_orm::sea_query::{Expr, ExprTrait as _, LockType};
use sea_orm::{
    ColumnTrait as _, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, EntityTrait as _,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, TransactionTrait as _,
};

use super::sqlx::all_idle;
use super::{Contender, Work, check_funds};
use account::{Column, Entity};

mod account {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "account")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub balance: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) struct SeaOrm(DatabaseConnection);

impl SeaOrm {
    /// `tests` is whether connections are tested when they are acquired, which is the default.
    pub(crate) async fn new(url: &str, connections: u32, tests: bool) -> Result<Self> {
        let mut options = ConnectOptions::new(url);
        options.max_connections(connections).test_before_acquire(tests).sqlx_logging(false);
        Ok(Self(Database::connect(options).await?))
    }
}

async fn set(connection: &impl ConnectionTrait, id: i64, balance: Expr) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::Balance, balance)
        .filter(Column::Id.eq(id))
        .exec(connection)
        .await?;
    Ok(())
}

fn one_less() -> Expr {
    Expr::col(Column::Balance).sub(1)
}

fn one_more() -> Expr {
    Expr::col(Column::Balance).add(1)
}

#[async_trait]
impl Contender for SeaOrm {
    async fn perform(&self, work: Work) -> Result<()> {
        match work {
            Work::Statement { id } => set(&self.0, id, one_less()).await?,
            Work::Unit { id } => {
                let tx = self.0.begin().await?;
                set(&tx, id, one_less()).await?;
                tx.commit().await?;
            }
            Work::ReadThenWrite { id } => {
                let tx = self.0.begin().await?;
                let read = Entity::find_by_id(id).select_only().column(Column::Balance);
                let read = read.lock(LockType::NoKeyUpdate).into_tuple::<i64>();
                let balance = read.one(&tx).await?.context("no such account")?;
                set(&tx, id, Expr::value(balance - 1)).await?;
                tx.commit().await?;
            }
            Work::Transfer { from, to } => {
                let tx = self.0.begin().await?;
                let both = Entity::find().select_only().column(Column::Id).column(Column::Balance);
                let both = both.filter(Column::Id.is_in([from, to])).order_by_asc(Column::Id);
                let rows = both.lock(LockType::NoKeyUpdate).into_tuple::<(i64, i64)>().all(&tx).await?;
                check_funds(&rows, from)?;
                set(&tx, from, one_less()).await?;
                set(&tx, to, one_more()).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    async fn settled(&self) {
        all_idle(self.0.get_postgres_connection_pool()).await;
    }
}
