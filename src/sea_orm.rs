//! SeaORM's entities and queries inside a unit of work.
//!
//! [`Tx::sea_orm`] lends the transaction to SeaORM: the returned [`SeaOrm`] is a `ConnectionTrait`, a
//! `StreamTrait` and a `TransactionTrait`, so that entities, `ActiveModel` saves and relations work as on a
//! SeaORM connection. Each statement passes through the transaction like any other, so a conflict is retried
//! even if the code in between discards its error.
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # mod example {
//! use atomically::{Pessimistic, TransactorExt as _, Tx};
//! use sea_orm::entity::prelude::*;
//! use sea_orm::{DbErr, IntoActiveModel as _, Set};
//!
//! mod event {
//!     use sea_orm::entity::prelude::*;
//!
//!     #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
//!     #[sea_orm(table_name = "event")]
//!     pub struct Model {
//!         #[sea_orm(primary_key)]
//!         pub id: i64,
//!         pub seats: i64,
//!     }
//!
//!     #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
//!     pub enum Relation {}
//!
//!     impl ActiveModelBehavior for ActiveModel {}
//! }
//!
//! /// Returns whether there was a seat.
//! async fn book(pool: &sqlx::SqlitePool, id: i64) -> Result<bool, DbErr> {
//!     let db = Pessimistic::default().on(pool);
//!     db.run(async |tx: &mut Tx<_>| -> Result<_, DbErr> {
//!         let orm = tx.sea_orm();
//!         let event = orm.for_update(event::Entity::find_by_id(id)).one(&orm).await?;
//!         let Some(event) = event.filter(|event| event.seats > 0) else { return Ok(false) };
//!         let seats = event.seats - 1;
//!         let mut event = event.into_active_model();
//!         event.seats = Set(seats);
//!         event.update(&orm).await?;
//!         Ok(true)
//!     })
//!     .await
//! }
//! # }
//! ```
//!
//! The [guide](crate::guide::sea_orm) has more: versions, nested transactions, and statements of sea-query.

mod backend;
mod connection;
mod error;
mod lock;
mod nested;
mod stream;
mod versioned;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Mutex, MutexGuard};

use crate::backend::Backend;
use crate::tx::{OpenSavepoint, Tx};

pub use backend::SeaOrmBackend;
use nested::{Abandoned, Level};
pub use stream::ModelStream;
pub use versioned::VersionedEntity;

/// A transaction of this crate as a connection of SeaORM: [`Tx::sea_orm`] returns it.
///
/// # Concurrency
///
/// There is one connection, so statements that run at the same time wait for each other. While a stream is
/// open, other statements fail at once, because they would wait for it for ever.
///
/// # Nested transactions
///
/// `begin` sets a savepoint, and returns another value of this type. `commit` releases the savepoint, and
/// `rollback` rolls back to it. If it is dropped, it is rolled back before the next statement. They end in
/// the reverse order of their beginnings. Isolation levels and access modes are those of the unit, so options
/// that ask for others are refused.
///
/// The unit itself commits when its closure returns `Ok`; `commit` and `rollback` of the outermost value are
/// errors.
pub struct SeaOrm<'t, DB: Backend> {
    shared: Arc<SharedTransaction<'t, DB>>,
    level: Level,
}

/// What a value and its nested transactions share.
struct SharedTransaction<'t, DB: Backend> {
    lent: Mutex<Lent<'t, DB>>,
    /// Whether a stream holds the transaction.
    is_streaming: AtomicBool,
    abandoned: Abandoned,
    lock: Option<crate::row_lock::RowLock>,
}

/// The transaction, and the savepoints that are open on it.
struct Lent<'t, DB: Backend> {
    tx: &'t mut Tx<DB>,
    savepoints: Vec<OpenSavepoint>,
}

impl<DB: Backend> Tx<DB> {
    /// Lends this transaction to SeaORM: see [`SeaOrm`].
    pub fn sea_orm(&mut self) -> SeaOrm<'_, DB> {
        let abandoned = Abandoned::new(self.watch_for_drops());
        let lock = self.planned_lock();
        let lent = Mutex::new(Lent { tx: self, savepoints: Vec::new() });
        let shared = SharedTransaction { lent, is_streaming: AtomicBool::new(false), abandoned, lock };
        SeaOrm { shared: Arc::new(shared), level: Level::UNIT }
    }
}

impl<'t, DB: Backend> SeaOrm<'t, DB> {
    /// Waits for the transaction, and rolls back nested transactions that were dropped.
    async fn lend(&self) -> Result<MutexGuard<'_, Lent<'t, DB>>, sea_orm::DbErr> {
        self.refuse_while_streaming()?;
        let mut lent = self.shared.lent.lock().await;
        if let Some(level) = self.shared.abandoned.take() {
            lent.roll_back_to(level).await;
        }
        Ok(lent)
    }
}

impl<DB: Backend> fmt::Debug for SeaOrm<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeaOrm")
            .field("database", &DB::NAME)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}
