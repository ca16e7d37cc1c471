//! Deadlocks between units of this process.

use atomically::{Pessimistic, Serializable};

use crate::scene::{Deadlocks, MONEY, NEW, OPEN, PAY, PAY_BACK, ROWS, Step, accounts, collide};
use crate::support::TestBackend;

pub(crate) async fn both_sides_are_named_with_their_statements<DB: TestBackend>() {
    let pool = accounts::<DB>(2).await;
    let deadlocks = Deadlocks::new();
    let sides = [
        ("checkout", Step::Sql(PAY, &[MONEY, ROWS[0]]), Step::Sql(PAY, &[MONEY, ROWS[1]])),
        ("refund", Step::Sql(PAY_BACK, &[MONEY, ROWS[1]]), Step::Sql(PAY_BACK, &[MONEY, ROWS[0]])),
    ];
    collide(Pessimistic::default(), &pool, &deadlocks, sides).await;

    let report = deadlocks.only_circle();
    let mut names = Vec::new();
    for party in &report.parties {
        let name = party.unit.expect("a unit").name;
        let sql = DB::sql(if name == "checkout" { PAY } else { PAY_BACK });
        assert_eq!(party.statements, [sql.as_str(), sql.as_str()], "{report}");
        names.push(name);
    }
    names.sort_unstable();
    assert_eq!(names, ["checkout", "refund"]);
    let locks: Vec<_> = report.parties.iter().filter_map(|party| party.waits_for.as_ref()).collect();
    if DB::NAME == "PostgreSQL" {
        assert!(locks.iter().all(|lock| lock.mode == "ShareLock" && lock.on.starts_with("transaction ")));
        assert_eq!(locks[0].relation.as_deref(), Some("account"));
        assert!(locks[0].row.is_some(), "{report}");
    } else {
        for lock in &locks {
            assert_eq!((lock.mode.as_str(), lock.on.as_str()), ("X locks rec but not gap", "RECORD LOCKS"));
            assert_eq!((lock.relation.as_deref(), lock.index.as_deref()), (Some("account"), Some("PRIMARY")));
        }
        assert!(locks[0].row.is_some() && locks[0].row != locks[1].row, "{report}");
    }
}

pub(crate) async fn reports_a_cycle_of_three_in_order<DB: TestBackend>() {
    let pool = accounts::<DB>(3).await;
    let deadlocks = Deadlocks::new();
    let [one, two, three]: [&'static [i64]; 3] = [&[MONEY, ROWS[0]], &[MONEY, ROWS[1]], &[MONEY, ROWS[2]]];
    let sides = [("checkout", one, two), ("refund", two, three), ("audit", three, one)];
    let sides = sides.map(|(name, first, second)| (name, Step::Sql(PAY, first), Step::Sql(PAY, second)));
    collide(Pessimistic::default(), &pool, &deadlocks, sides).await;

    let report = deadlocks.only_circle();
    let names: Vec<_> = report.parties.iter().map(|party| party.unit.expect("a unit").name).collect();
    // Each unit waits for the next one's row.
    let mut wanted = ["checkout", "refund", "audit"];
    let victim = wanted.iter().position(|name| *name == names[0]).expect("one of them");
    wanted.rotate_left(victim);
    assert_eq!(names, wanted, "{report}");
}

/// Each unit inserts a key, and then the key that the other unit has inserted.
pub(crate) async fn reports_keys_that_both_insert<DB: TestBackend>() {
    let pool = accounts::<DB>(2).await;
    let deadlocks = Deadlocks::new();
    let [one, two]: [&'static [i64]; 2] = [&[NEW[0], MONEY], &[NEW[1], MONEY]];
    let sides = [
        ("checkout", Step::Sql(OPEN, one), Step::Sql(OPEN, two)),
        ("refund", Step::Sql(OPEN, two), Step::Sql(OPEN, one)),
    ];
    collide(Pessimistic::default(), &pool, &deadlocks, sides).await;

    let report = deadlocks.only_circle();
    let lock = report.parties[0].waits_for.as_ref().expect("a lock");
    if DB::NAME == "PostgreSQL" {
        assert_eq!((lock.relation.as_deref(), lock.row.as_deref()), (Some("account_pkey"), None), "{report}");
    } else {
        assert_eq!((lock.relation.as_deref(), lock.index.as_deref()), (Some("account"), Some("PRIMARY")));
        assert!(lock.mode.starts_with('S'), "{report}");
    }
}

/// Both units check that the row does not exist, and both insert it.
pub(crate) async fn reports_a_gap_that_both_lock<DB: TestBackend>() {
    const LOOK: &str = "SELECT balance FROM account WHERE id = ? FOR UPDATE";
    let pool = accounts::<DB>(2).await;
    let deadlocks = Deadlocks::new();
    let sides = ["checkout", "refund"]
        .map(|name| (name, Step::Sql(LOOK, &[NEW[0]]), Step::Sql(OPEN, &[NEW[0], MONEY])));
    collide(Serializable::default(), &pool, &deadlocks, sides).await;

    let report = deadlocks.only_circle();
    for party in &report.parties {
        assert_eq!(party.statements, [LOOK, OPEN], "{report}");
        assert_eq!(party.waits_for.as_ref().expect("a lock").mode, "X insert intention", "{report}");
    }
}

pub(crate) async fn reports_advisory_locks<DB: TestBackend>() {
    let pool = accounts::<DB>(2).await;
    let deadlocks = Deadlocks::new();
    let sides = [
        ("checkout", Step::Advisory("one"), Step::Advisory("other")),
        ("refund", Step::Advisory("other"), Step::Advisory("one")),
    ];
    collide(Pessimistic::default(), &pool, &deadlocks, sides).await;

    for party in deadlocks.only_circle().parties {
        let lock = party.waits_for.expect("a lock");
        assert_eq!((lock.mode.as_str(), lock.relation), ("ExclusiveLock", None));
        assert!(lock.on.starts_with("advisory lock ["), "{}", lock.on);
    }
}
