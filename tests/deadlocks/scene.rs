//! Units that deadlock, and an observer that records the deadlock reports.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{
    DeadlockReport, Error, Event, FailureKind, Observer, Pessimistic, PoolTransactor, Strategy,
    TransactorExt as _, Tx, UnitEvent,
};
use sqlx::Pool;
use tokio::sync::{Barrier, Semaphore};

use crate::support::{TestBackend, TestPool, in_one_of};

/// The prefix of all values, bound ones and literals in the other sessions' statements.
pub(crate) const MARK: &str = "4711471";
pub(crate) const MONEY: i64 = 471_147_110;
pub(crate) const ROWS: [i64; 3] = [471_147_111, 471_147_112, 471_147_113];
pub(crate) const NEW: [i64; 2] = [471_147_114, 471_147_115];

pub(crate) async fn accounts<DB: TestBackend>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    let create = "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    for id in ROWS {
        let insert = DB::sql("INSERT INTO account VALUES (?, 0)");
        DB::pool_execute(&pool, insert, &[id]).await.expect("an account");
    }
    pool
}

pub(crate) const PAY: &str = "UPDATE account SET balance = balance - ? WHERE id = ?";
pub(crate) const PAY_BACK: &str = "UPDATE account SET balance = balance + ? WHERE id = ?";
pub(crate) const OPEN: &str = "INSERT INTO account VALUES (?, ?)";

/// Records deadlock reports. The session that blocks the victim keeps its locks until then.
#[derive(Debug, Clone)]
pub(crate) struct Deadlocks {
    reports: Arc<Mutex<Vec<ReportedDeadlock>>>,
    waiting: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
pub(crate) struct ReportedDeadlock {
    pub(crate) victim: &'static str,
    pub(crate) report: DeadlockReport,
}

impl Deadlocks {
    pub(crate) fn new() -> Self {
        Self { reports: Arc::default(), waiting: Arc::new(Semaphore::new(0)) }
    }

    pub(crate) async fn are_reported(&self) {
        drop(self.waiting.acquire().await.expect("never closed"));
    }

    /// Returns whether the report names this many parties, and otherwise forgets it, so that the scene can be
    /// repeated: a server that is slow to report is not waited for.
    fn are_complete(&self, parties: usize) -> Result<(), String> {
        let mut reports = self.reports.lock().expect("the reports");
        if reports.iter().all(|one| one.report.parties.len() >= parties) {
            return Ok(());
        }
        self.waiting.forget_permits(Semaphore::MAX_PERMITS);
        Err(format!("{:?}", std::mem::take(&mut *reports)))
    }

    /// Returns the only report since the last call, and checks that it contains no value.
    pub(crate) fn only(&self) -> ReportedDeadlock {
        let reported = std::mem::take(&mut *self.reports.lock().expect("the reports"));
        let [deadlock] = reported.as_slice() else { panic!("one deadlock: {reported:#?}") };
        self.waiting.forget_permits(Semaphore::MAX_PERMITS);
        assert_eq!(deadlock.report.parties[0].unit.expect("a unit").name, deadlock.victim);
        for shown in [deadlock.report.to_string(), format!("{:?}", deadlock.report)] {
            assert!(!shown.contains(MARK), "a value is seen: {shown}");
        }
        deadlock.clone()
    }

    /// The same for units of this process: a circle of waits in which each party waits for the next one.
    pub(crate) fn only_circle(&self) -> DeadlockReport {
        let report = self.only().report;
        for (party, next) in report.parties.iter().zip(report.parties.iter().cycle().skip(1)) {
            assert!(next.session.is_some() && party.waits_for.is_some(), "{report}");
            assert_eq!(party.blocked_by, next.session.into_iter().collect::<Vec<_>>(), "{report}");
            let unit = party.unit.expect("a unit");
            assert_eq!(unit.attempt, 1, "{report}");
            assert!(unit.location.expect("a place").file().ends_with("scene.rs"), "{report}");
        }
        report
    }
}

impl Observer for Deadlocks {
    fn observe(&self, event: &Event<'_>) {
        let Event::Unit { run, event: UnitEvent::AttemptFailed { failure, .. } } = event else { return };
        if failure.kind() == FailureKind::Deadlock {
            let report = failure.deadlock().expect("the side of this unit at least").clone();
            self.reports.lock().expect("the reports").push(ReportedDeadlock { victim: run.name, report });
            self.waiting.add_permits(100);
        }
    }

    fn wants_sessions(&self) -> bool {
        true
    }
}

/// A step that takes a lock.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// A statement and its bound values.
    Sql(&'static str, &'static [i64]),
    Advisory(&'static str),
}

impl Step {
    pub(crate) async fn take<DB: TestBackend>(self, tx: &mut Tx<DB>) -> Result<(), Error> {
        match self {
            Self::Sql(sql, values) => DB::execute(tx, DB::sql(sql), values).await.map(|_| ())?,
            Self::Advisory(key) => tx.advisory_lock(key).await?,
        }
        Ok(())
    }
}

/// Allows for the delays of a loaded machine.
pub(crate) fn patient<DB: TestBackend, S: Strategy>(strategy: S, pool: &Pool<DB>) -> PoolTransactor<DB, S> {
    PoolTransactor::new(strategy, pool).deadline(Duration::from_secs(120))
}

/// Each of these units takes its first lock, waits until all units have theirs, and requests its second one.
pub(crate) async fn collide<DB: TestBackend, const N: usize>(
    strategy: impl Strategy,
    pool: &Pool<DB>,
    deadlocks: &Deadlocks,
    sides: [(&'static str, Step, Step); N],
) {
    let db = &patient(strategy, pool).observed_by(deadlocks.clone());
    let all_hold_one = &Barrier::new(N);
    in_one_of(3, async || {
        let runs = sides.into_iter().map(|(name, first, second)| async move {
            db.named(name)
                .run(async move |tx: &mut Tx<DB>| {
                    if tx.attempt() == 1 {
                        first.take(tx).await?;
                        all_hold_one.wait().await;
                        second.take(tx).await?;
                        deadlocks.are_reported().await;
                    }
                    Ok::<_, Error>(())
                })
                .await
                .expect("a commit");
        });
        futures_util::future::join_all(runs).await;
        deadlocks.are_complete(N)
    })
    .await;
}

/// Runs a unit on `pool` against an unobserved transaction on `others`, which wins, until the report names
/// this many parties. Returns the session of the winner.
pub(crate) async fn lose_to_another_session<DB: TestBackend>(
    pool: &Pool<DB>,
    others: &Pool<DB>,
    deadlocks: &Deadlocks,
    parties: usize,
) -> i64 {
    in_one_of(3, async || {
        let session = lose_once(pool, others, deadlocks).await;
        deadlocks.are_complete(parties).map(|()| session)
    })
    .await
}

async fn lose_once<DB: TestBackend>(pool: &Pool<DB>, others: &Pool<DB>, deadlocks: &Deadlocks) -> i64 {
    let db = patient(Pessimistic::default(), pool).observed_by(deadlocks.clone());
    let both_hold_one = &Barrier::new(2);
    let postgres = DB::NAME == "PostgreSQL";
    let checkout = db.named("checkout");
    let checkout = checkout.run(async move |tx: &mut Tx<DB>| {
        if tx.attempt() == 1 {
            Step::Sql(PAY, &[MONEY, ROWS[0]]).take(tx).await?;
            both_hold_one.wait().await;
            Step::Sql(PAY, &[MONEY, ROWS[1]]).take(tx).await?;
        }
        Ok::<_, Error>(())
    });
    let winner = patient(Pessimistic::default(), others).attempts(1);
    let winner = winner.run(async move |tx: &mut Tx<DB>| {
        // PostgreSQL aborts the session that detects the deadlock, InnoDB the one that has changed less.
        if postgres {
            DB::execute(tx, DB::sql("SET LOCAL deadlock_timeout = '1h'"), &[]).await?;
        }
        for row in &ROWS[1..] {
            let update = DB::sql(&format!("UPDATE account SET balance = balance + {MONEY} WHERE id = {row}"));
            DB::execute(tx, update, &[]).await?;
        }
        let session = if postgres {
            "SELECT pg_backend_pid()::bigint"
        } else {
            "SELECT CAST(CONNECTION_ID() AS SIGNED)"
        };
        let session = DB::fetch(tx, DB::sql(session), &[]).await?;
        both_hold_one.wait().await;
        let update =
            DB::sql(&format!("UPDATE account SET balance = balance + {MONEY} WHERE id = {}", ROWS[0]));
        DB::execute(tx, update, &[]).await?;
        Ok::<_, Error>(session)
    });
    let (lost, won) = tokio::join!(checkout, winner);
    lost.expect("a commit");
    won.expect("a commit")
}
