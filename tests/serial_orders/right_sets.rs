//! Units that are right by construction match a serial order in every schedule.

use std::time::Instant;

use atomically::testing::explore;
use atomically::{Adaptive, Atomic, Optimistic, Pessimistic, Serializable, Transactor, Tx};
use sqlx::Pool;

use crate::program::Line::{
    self, Add, Count, Enter, EnterIfNone, LockBoth, Read, ReadForUpdate, Sum, Write, WriteChecked,
};
use crate::program::{ACCOUNT, ENTRY, reset, run};
use crate::support::TestBackend;
use crate::{assert_serializable, database};

type Units = [&'static [Line]; 2];

/// Right under every strategy: additions commute, rows are disjoint, or one statement does it all.
const ALWAYS: [Units; 8] = [
    [&[Add(1, 1)], &[Add(1, 2)]],
    [&[Add(1, 1), Add(2, 1)], &[Add(1, 2), Add(2, 2)]],
    [&[Read(1), Write(1, 5)], &[Read(2), Write(2, 5)]],
    [&[Enter(1)], &[Enter(1)]],
    [&[Enter(1), Add(1, 1)], &[Enter(2), Add(1, 1)]],
    [&[Sum], &[Add(1, 1)]],
    [&[Count(1), Enter(1)], &[Count(2), Enter(2)]],
    [&[Read(1)], &[Add(1, 1), Add(1, 1)]],
];

/// Right with row locks that the strategy decides on.
const LOCKED: [Units; 2] = [
    [&[ReadForUpdate(1), Write(1, -5)], &[ReadForUpdate(1), Write(1, -7)]],
    [&[ReadForUpdate(1), Write(1, -5)], &[Add(1, 1)]],
];

/// Right with row locks that the units request by key, which every strategy acquires.
const LOCKED_BY_KEY: [Units; 2] = [
    [&[LockBoth, Read(1), Write(1, -5), Read(2), Write(2, 5)], &[LockBoth, Read(2), Write(2, -3)]],
    [&[LockBoth, Read(1), Read(2)], &[LockBoth, Add(1, 5), Add(2, -5)]],
];

/// Right with version checks.
const CHECKED: [Units; 3] = [
    [&[Read(1), WriteChecked(1, -5)], &[Read(1), WriteChecked(1, -7)]],
    [&[Read(1), WriteChecked(1, -5)], &[Add(1, 1)]],
    [&[Read(1), WriteChecked(1, -5)], &[ReadForUpdate(1), WriteChecked(1, 3)]],
];

/// Right where all transactions are serializable.
const SERIALIZABLE: [Units; 5] = [
    [&[Count(1), EnterIfNone(1)], &[Count(1), EnterIfNone(1)]],
    [&[Read(1), Read(2)], &[Add(1, 5), Add(2, -5)]],
    [&[Read(1), Write(1, 1)], &[Read(1), Write(1, 2)]],
    [&[Count(1), Count(1)], &[Enter(1)]],
    [&[Sum, Enter(1)], &[Count(1), Add(1, 1)]],
];

async fn assert_all_right<DB: TestBackend, X: Transactor<DB>>(pool: &Pool<DB>, db: &X, sets: &[Units]) {
    for &[alice, bob] in sets {
        println!("{alice:?} and {bob:?}");
        let exploration = explore(pool)
            .set_up(reset)
            .unit("alice", db, async move |tx: &mut Tx<DB>| run(tx, alice).await)
            .unit("bob", db, async move |tx: &mut Tx<DB>| run(tx, bob).await)
            .max_preemptions(2)
            .max_schedules(100)
            .allow_deadlocks();
        assert_serializable(exploration).await;
    }
}

/// Each set, under every strategy that is right for it.
pub(crate) async fn correct_units_match_a_serial_order<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let everywhere = [&ALWAYS[..], &LOCKED_BY_KEY, &CHECKED].concat();
    assert_all_right(&pool, &Atomic::default().on(&pool), &everywhere).await;
    assert_all_right(&pool, &Optimistic::default().on(&pool), &everywhere).await;
    assert_all_right(&pool, &Adaptive::default().on(&pool), &everywhere).await;
    let with_locks = [&everywhere[..], &LOCKED].concat();
    assert_all_right(&pool, &Pessimistic::default().on(&pool), &with_locks).await;
    let all = [&with_locks[..], &SERIALIZABLE].concat();
    assert_all_right(&pool, &Serializable::default().on(&pool), &all).await;
}

/// Every order is covered. Prints the time, which a busy machine stretches.
pub(crate) async fn three_units_of_three_statements_are_explored<DB: TestBackend>() {
    let pool = database::<DB>(&[ACCOUNT, ENTRY]).await;
    let db = Pessimistic::default().on(&pool);
    let unit = |lines: &'static [Line]| async move |tx: &mut Tx<DB>| run(tx, lines).await;
    let started = Instant::now();
    let exploration = explore(&pool)
        .set_up(reset)
        .unit("alice", &db, unit(&[ReadForUpdate(1), Write(1, -5), Enter(1)]))
        .unit("bob", &db, unit(&[ReadForUpdate(1), Write(1, -7), Enter(1)]))
        .unit("carol", &db, unit(&[ReadForUpdate(2), Write(2, 3), Enter(2)]))
        .skip_equivalent();
    let report = exploration.serializable().run().await.expect("explored");
    report.assert_passes();
    assert!(report.complete && report.schedules > 50, "{report}");
    let elapsed = started.elapsed();
    println!("{}: {} schedules in {elapsed:.1?}", DB::NAME, report.schedules);
}
