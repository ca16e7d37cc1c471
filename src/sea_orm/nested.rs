//! Nested transactions of SeaORM: savepoints.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use sea_orm::{
    AccessMode, DbErr, IsolationLevel, TransactionError, TransactionOptions, TransactionSession,
    TransactionTrait,
};

use super::{Lent, SeaOrm, SeaOrmBackend};
use crate::backend::Backend;

/// How many savepoints are open while a nested transaction is the innermost; zero for the unit itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level(usize);

impl Level {
    pub(super) const UNIT: Self = Self(0);
}

/// The outermost of the nested transactions that were dropped before their end.
pub(super) struct Abandoned {
    level: AtomicUsize,
    /// Ends the unit, if no statement rolls back to the savepoint before the unit commits.
    unit: Arc<AtomicBool>,
}

const NONE: usize = usize::MAX;

impl Abandoned {
    pub(super) fn new(unit: Arc<AtomicBool>) -> Self {
        Self { level: AtomicUsize::new(NONE), unit }
    }

    fn add(&self, level: Level) {
        self.level.fetch_min(level.0, Ordering::AcqRel);
        self.unit.store(true, Ordering::Release);
    }

    /// Returns the outermost nested transaction that has to be rolled back.
    pub(super) fn take(&self) -> Option<Level> {
        let level = self.level.swap(NONE, Ordering::AcqRel);
        (level != NONE).then(|| {
            self.unit.store(false, Ordering::Release);
            Level(level)
        })
    }
}

impl<DB: Backend> Lent<'_, DB> {
    /// Rolls back a nested transaction, and those inside of it.
    pub(super) async fn roll_back_to(&mut self, level: Level) {
        while self.savepoints.len() >= level.0
            && let Some(savepoint) = self.savepoints.pop()
        {
            self.tx.undo_savepoint(savepoint).await;
        }
    }
}

impl<'t, DB: SeaOrmBackend> SeaOrm<'t, DB> {
    /// Fails unless this is the innermost transaction that is open.
    fn ends(&self, lent: &Lent<'_, DB>) -> Result<(), DbErr> {
        match self.level {
            Level::UNIT => {
                Err(custom("the unit of work commits when its closure returns Ok, and rolls back otherwise"))
            }
            Level(level) if level == lent.savepoints.len() => Ok(()),
            Level(level) if level > lent.savepoints.len() => {
                Err(custom("an outer transaction has ended before this one"))
            }
            Level(_) => Err(custom("a transaction inside of this one has not ended")),
        }
    }

    async fn nest(&self) -> Result<Self, DbErr> {
        let mut lent = self.lend().await?;
        let savepoint = lent.tx.set_savepoint().await?;
        lent.savepoints.push(savepoint);
        let level = Level(lent.savepoints.len());
        Ok(Self { shared: self.shared.clone(), level })
    }

    /// Marks this transaction as ended, so that dropping it rolls nothing back.
    fn ended(mut self) {
        self.level = Level::UNIT;
    }

    async fn within<F, T, E>(&self, callback: F) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(&'c Self) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>> + Send,
        T: Send,
        E: std::fmt::Display + std::fmt::Debug + Send,
    {
        let nested = self.nest().await.map_err(TransactionError::Connection)?;
        match callback(&nested).await {
            Ok(value) => {
                nested.commit().await.map_err(TransactionError::Connection)?;
                Ok(value)
            }
            Err(error) => {
                nested.rollback().await.map_err(TransactionError::Connection)?;
                Err(TransactionError::Transaction(error))
            }
        }
    }
}

fn custom(text: &str) -> DbErr {
    DbErr::Custom(text.to_owned())
}

/// Savepoints have the isolation level and the access mode of their transaction.
fn refuse_options(options: TransactionOptions) -> Result<(), DbErr> {
    let TransactionOptions { isolation_level, access_mode, sqlite_transaction_mode } = options;
    if isolation_level.is_some() || access_mode.is_some() || sqlite_transaction_mode.is_some() {
        return Err(custom(
            "a nested transaction is a savepoint, which has the isolation level and the access mode of its \
             unit of work: set them in the options of the unit",
        ));
    }
    Ok(())
}

#[async_trait]
impl<'t, DB: SeaOrmBackend> TransactionTrait for SeaOrm<'t, DB> {
    type Transaction = Self;

    async fn begin(&self) -> Result<Self, DbErr> {
        self.nest().await
    }

    async fn begin_with_config(
        &self,
        isolation_level: Option<IsolationLevel>,
        access_mode: Option<AccessMode>,
    ) -> Result<Self, DbErr> {
        let options = TransactionOptions { isolation_level, access_mode, sqlite_transaction_mode: None };
        self.begin_with_options(options).await
    }

    async fn begin_with_options(&self, options: TransactionOptions) -> Result<Self, DbErr> {
        refuse_options(options)?;
        self.nest().await
    }

    async fn transaction<F, T, E>(&self, callback: F) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(&'c Self) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>> + Send,
        T: Send,
        E: std::fmt::Display + std::fmt::Debug + Send,
    {
        self.within(callback).await
    }

    async fn transaction_with_config<F, T, E>(
        &self,
        callback: F,
        isolation_level: Option<IsolationLevel>,
        access_mode: Option<AccessMode>,
    ) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(&'c Self) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>> + Send,
        T: Send,
        E: std::fmt::Display + std::fmt::Debug + Send,
    {
        let options = TransactionOptions { isolation_level, access_mode, sqlite_transaction_mode: None };
        refuse_options(options).map_err(TransactionError::Connection)?;
        self.within(callback).await
    }
}

#[async_trait]
impl<DB: SeaOrmBackend> TransactionSession for SeaOrm<'_, DB> {
    async fn commit(self) -> Result<(), DbErr> {
        let mut lent = self.lend().await?;
        self.ends(&lent)?;
        if let Some(savepoint) = lent.savepoints.pop() {
            lent.tx.release_savepoint(savepoint).await?;
        }
        drop(lent);
        self.ended();
        Ok(())
    }

    async fn rollback(self) -> Result<(), DbErr> {
        let mut lent = self.lend().await?;
        self.ends(&lent)?;
        lent.roll_back_to(self.level).await;
        drop(lent);
        self.ended();
        Ok(())
    }
}

impl<DB: Backend> Drop for SeaOrm<'_, DB> {
    fn drop(&mut self) {
        if self.level != Level::UNIT {
            self.shared.abandoned.add(self.level);
        }
    }
}
