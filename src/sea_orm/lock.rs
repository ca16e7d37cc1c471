//! Row locks for SeaORM's queries.

use sea_orm::sea_query::{LockBehavior, LockType};
use sea_orm::{DbBackend, EntityTrait, QuerySelect as _, Select};

use super::{SeaOrm, SeaOrmBackend};
use crate::row_lock::{RowLock, Strength, WaitPolicy};

impl<DB: SeaOrmBackend> SeaOrm<'_, DB> {
    /// Adds the row lock that the strategy wants, like [`Tx::for_update`](crate::Tx::for_update): under
    /// [`Pessimistic`](crate::Pessimistic) the rows are locked, under [`Optimistic`](crate::Optimistic) they
    /// are not, and SQLite has no row locks.
    ///
    /// MySQL and MariaDB have one exclusive lock, which stands for all.
    #[must_use]
    pub fn for_update<E: EntityTrait>(&self, select: Select<E>) -> Select<E> {
        match self.shared.lock {
            Some(lock) if DB::HAS_ROW_LOCKS => locked::<DB, E>(select, lock),
            _ => select,
        }
    }
}

fn locked<DB: SeaOrmBackend, E: EntityTrait>(select: Select<E>, lock: RowLock) -> Select<E> {
    let strength = match (DB::BACKEND, lock.strength) {
        (DbBackend::MySql, _) | (_, Strength::Update) => LockType::Update,
        (_, Strength::NoKeyUpdate) => LockType::NoKeyUpdate,
        (_, Strength::Share) => LockType::Share,
        (_, Strength::KeyShare) => LockType::KeyShare,
    };
    match lock.wait {
        WaitPolicy::Block => select.lock(strength),
        WaitPolicy::Refuse => select.lock_with_behavior(strength, LockBehavior::Nowait),
        WaitPolicy::Skip => select.lock_with_behavior(strength, LockBehavior::SkipLocked),
    }
}
