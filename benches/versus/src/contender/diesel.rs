//! diesel-async, with bb8.

use anyhow::Result;
use async_trait::async_trait;
use diesel::prelude::*;
use diesel_async::pooled_connection::bb8::Pool;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};

use super::{Contender, Work, check_funds};

diesel::table! {
    account (id) {
        id -> BigInt,
        balance -> BigInt,
    }
}

pub(crate) struct Diesel(Pool<AsyncPgConnection>);

impl Diesel {
    /// `tests` is whether connections are tested when they are acquired, which is the default.
    pub(crate) async fn new(url: &str, connections: u32, tests: bool) -> Result<Self> {
        let mut config = ManagerConfig::default();
        if !tests {
            config.recycling_method = RecyclingMethod::Fast;
        }
        let manager = AsyncDieselConnectionManager::new_with_config(url, config);
        Ok(Self(Pool::builder().max_size(connections).build(manager).await?))
    }
}

async fn take(connection: &mut AsyncPgConnection, id: i64) -> Result<()> {
    let taken = account::balance.eq(account::balance - 1);
    diesel::update(account::table.find(id)).set(taken).execute(connection).await?;
    Ok(())
}

async fn give(connection: &mut AsyncPgConnection, id: i64) -> Result<()> {
    let given = account::balance.eq(account::balance + 1);
    diesel::update(account::table.find(id)).set(given).execute(connection).await?;
    Ok(())
}

#[async_trait]
impl Contender for Diesel {
    async fn perform(&self, work: Work) -> Result<()> {
        let mut connection = self.0.get().await?;
        match work {
            Work::Statement { id } => take(&mut connection, id).await,
            Work::Unit { id } => connection.transaction(async |connection| take(connection, id).await).await,
            Work::ReadThenWrite { id } => {
                connection
                    .transaction(async |connection| {
                        let read = account::table.find(id).select(account::balance).for_no_key_update();
                        let balance: i64 = read.first(connection).await?;
                        let written = account::balance.eq(balance - 1);
                        diesel::update(account::table.find(id)).set(written).execute(connection).await?;
                        Ok(())
                    })
                    .await
            }
            Work::Transfer { from, to } => {
                connection
                    .transaction(async |connection| {
                        let both = account::table.filter(account::id.eq_any([from, to])).order(account::id);
                        check_funds(&both.for_no_key_update().load(connection).await?, from)?;
                        take(connection, from).await?;
                        give(connection, to).await
                    })
                    .await
            }
        }
    }

    async fn settled(&self) {
        while self.0.state().idle_connections < self.0.state().connections {
            tokio::task::yield_now().await;
        }
    }
}
