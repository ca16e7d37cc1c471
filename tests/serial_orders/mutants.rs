//! Without their guard, units that are right become wrong.

use atomically::testing::{Explore, explore};
use atomically::{Isolation, Optimistic, Pessimistic, PoolTransactor, Serializable, Transactor, Tx};
use sqlx::Pool;

use crate::program::Line::{self, Count, EnterIfNone, ReadForUpdate, Write, WriteChecked};
use crate::program::{ACCOUNT, ENTRY, reset, run};
use crate::support::TestBackend;
use crate::{Unguarded, assert_not_serializable, assert_serializable, database};

/// Two clients that both run these lines.
fn twice<'a, DB: TestBackend, X: Transactor<DB>>(
    pool: &Pool<DB>,
    db: &'a X,
    lines: &'static [Line],
) -> Explore<'a, DB> {
    let unit = async move |tx: &mut Tx<DB>| run(tx, lines).await;
    explore(pool).set_up(reset).unit("alice", db, unit).unit("bob", db, unit).allow_deadlocks()
}

const UNCHECKED: &[Line] = &[ReadForUpdate(1), Write(1, -5)];
const CHECKED: &[Line] = &[ReadForUpdate(1), WriteChecked(1, -5)];
const COUNTED: &[Line] = &[Count(1), EnterIfNone(1)];

pub(crate) async fn dropping_the_row_lock_is_noticed<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    assert_serializable(twice(&pool, &Pessimistic::default().on(&pool), UNCHECKED)).await;
    let mutant = PoolTransactor::new(Unguarded(Isolation::ReadCommitted), &pool);
    assert_not_serializable(|| twice(&pool, &mutant, UNCHECKED)).await;
}

pub(crate) async fn dropping_the_version_check_is_noticed<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let db = Optimistic::default().on(&pool);
    assert_serializable(twice(&pool, &db, CHECKED)).await;
    assert_not_serializable(|| twice(&pool, &db, UNCHECKED)).await;
}

pub(crate) async fn lowering_the_isolation_is_noticed<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    assert_serializable(twice(&pool, &Serializable::default().on(&pool), COUNTED)).await;
    let mutant = PoolTransactor::new(Unguarded(Isolation::RepeatableRead), &pool);
    assert_not_serializable(|| twice(&pool, &mutant, COUNTED)).await;
}
