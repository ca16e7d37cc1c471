//! Histories of real databases: each strategy keeps its promises, and weaker guards show anomalies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use atomically::testing::history::{
    AnomalyKind, Appends, CheckReport, History, ListAppend, Order, RecordedAttempt, Recorder,
    TransactionOutcome,
};
use atomically::{
    Adaptive, Atomic, Backend, Ended, Error, Failure, Isolation, Optimistic, Options, Pessimistic, Plan,
    Resolve, Serializable, Strategy, Transactor, TransactorExt as _, Tx, Unit, Verdict,
};
use tokio::sync::Barrier;

use super::increments::patient;
use crate::support::{TestBackend, TestPool};

const SESSIONS: u32 = 8;
const TRANSACTIONS: u32 = 20;

/// The history of a concurrent workload under a strategy.
async fn load<DB: TestBackend, S: Strategy>(strategy: S, appends: Appends) -> History {
    let pool = DB::pool(SESSIONS).await;
    run_load(&pool, &patient(strategy, &pool), appends).await
}

/// The history of a workload under `Adaptive` with one key for all units, which turns hot, so that some
/// attempts lock their rows and some do not.
async fn load_on_one_key<DB: TestBackend>(appends: Appends) -> History {
    let pool = DB::pool(SESSIONS).await;
    let (locked, unlocked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let strategy = RecordingAdaptive {
        strategy: Adaptive::default(),
        locked: locked.clone(),
        unlocked: unlocked.clone(),
    };
    let db = patient(strategy, &pool).options(Options::new().on_key("all lists"));
    let history = run_load(&pool, &db, appends).await;
    assert!(locked.load(Relaxed) && unlocked.load(Relaxed), "the key was hot or cold throughout");
    history
}

/// `Adaptive`, recording whether it has planned attempts with and without row locks.
#[derive(Debug)]
struct RecordingAdaptive {
    strategy: Adaptive,
    locked: Arc<AtomicBool>,
    unlocked: Arc<AtomicBool>,
}

impl Strategy for RecordingAdaptive {
    fn plan(&self, attempt: &atomically::Attempt) -> Plan {
        let plan = self.strategy.plan(attempt);
        let planned = if plan.row_lock.is_some() { &self.locked } else { &self.unlocked };
        planned.store(true, Relaxed);
        plan
    }

    fn verdict(&self, failure: &Failure) -> Verdict {
        self.strategy.verdict(failure)
    }

    fn record(&self, attempt: &atomically::Attempt, failure: Option<&Failure>) {
        self.strategy.record(attempt, failure);
    }
}

async fn run_load<DB: TestBackend>(
    pool: &TestPool<DB>,
    db: &dyn Transactor<DB>,
    appends: Appends,
) -> History {
    let load = ListAppend::new().sessions(SESSIONS).transactions(TRANSACTIONS).appends(appends).seed(7);
    let history = load.run(pool, db).await.expect("a history");
    assert_eq!(
        history.count(TransactionOutcome::Committed),
        (SESSIONS * TRANSACTIONS) as usize,
        "every unit commits"
    );
    assert_eq!(history.count(TransactionOutcome::Unknown), 0);
    history
}

fn report(history: &History, order: Order) -> CheckReport {
    history.check_in_order(order).expect("values are unique")
}

pub(crate) async fn pessimistic_histories_are_strictly_serializable<DB: TestBackend>() {
    for appends in [Appends::InDatabase, Appends::Guarded] {
        let history = load::<DB, _>(Pessimistic::default(), appends).await;
        report(&history, Order::RealTime).assert(Isolation::Serializable);
    }
}

pub(crate) async fn serializable_histories_are_serializable<DB: TestBackend>() {
    for appends in [Appends::InDatabase, Appends::Guarded, Appends::Unguarded] {
        let history = load::<DB, _>(Serializable::default(), appends).await;
        report(&history, Order::Data).assert(Isolation::Serializable);
    }
}

/// SQLite refuses writes after a stale read, with or without a guard.
pub(crate) async fn every_history_is_strictly_serializable<DB: TestBackend>() {
    for appends in [Appends::InDatabase, Appends::Guarded, Appends::Unguarded] {
        for history in [
            load::<DB, _>(Pessimistic::default(), appends).await,
            load::<DB, _>(Optimistic::default(), appends).await,
            load::<DB, _>(Atomic::default(), appends).await,
            load::<DB, _>(Adaptive::default(), appends).await,
            load_on_one_key::<DB>(appends).await,
        ] {
            report(&history, Order::RealTime).assert(Isolation::Serializable);
        }
    }
}

pub(crate) async fn optimistic_histories_lose_no_update<DB: TestBackend>() {
    let history = load::<DB, _>(Optimistic::default(), Appends::Guarded).await;
    let report = report(&history, Order::RealTime);
    report.assert(Isolation::ReadCommitted);
    report.assert_none_of(&[AnomalyKind::LostUpdate]);
    assert!(history.count(TransactionOutcome::Aborted) > 0, "no version was stale, so nothing was tested");
}

/// Without keys, and with one key that turns hot.
pub(crate) async fn adaptive_histories_lose_no_update<DB: TestBackend>() {
    for history in [
        load::<DB, _>(Adaptive::default(), Appends::Guarded).await,
        load_on_one_key::<DB>(Appends::Guarded).await,
    ] {
        let report = report(&history, Order::RealTime);
        report.assert(Isolation::ReadCommitted);
        report.assert_none_of(&[AnomalyKind::LostUpdate]);
        assert!(
            history.count(TransactionOutcome::Aborted) > 0,
            "no version was stale, so nothing was tested"
        );
    }
}

pub(crate) async fn atomic_histories_lose_no_append<DB: TestBackend>() {
    let history = load::<DB, _>(Atomic::default(), Appends::InDatabase).await;
    report(&history, Order::RealTime).assert(Isolation::ReadCommitted);

    let history = load::<DB, _>(Atomic::default(), Appends::Guarded).await;
    let report = report(&history, Order::RealTime);
    report.assert(Isolation::ReadCommitted);
    report.assert_none_of(&[AnomalyKind::LostUpdate]);
}

/// Commits a unit and runs it again, like a client that retries after an unknown commit.
struct Twice<X>(X);

#[async_trait]
impl<DB: Backend, X: Transactor<DB>> Transactor<DB> for Twice<X> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        let _ = self.0.transact(options, unit).await?;
        self.0.transact(options, unit).await
    }
}

pub(crate) async fn detects_a_unit_that_commits_twice<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let db = Twice(patient(Pessimistic::default(), &pool));
    let load = ListAppend::new().sessions(2).transactions(5);
    let report = report(&load.run(&pool, &db).await.expect("a history"), Order::Data);
    assert!(report.has(AnomalyKind::AbortedRead), "{report}");
}

pub(crate) async fn concurrent_workloads_share_a_table<DB: TestBackend>() {
    let pool = DB::pool(6).await;
    let db = patient(Pessimistic::default(), &pool);
    let load = ListAppend::new().table("shared").sessions(2).transactions(5);
    let load = || load.run(&pool, &db);
    for history in <[_; 3]>::from(tokio::join!(load(), load(), load())) {
        let history = history.expect("a history");
        assert_eq!(history.count(TransactionOutcome::Committed), 10);
        report(&history, Order::Data).assert(Isolation::Serializable);
    }
}

/// Two empty lists. A list is stored as a number, with its values as digits in base 1000.
async fn lists<DB: TestBackend>() -> TestPool<DB> {
    let pool = DB::pool(3).await;
    let create = "CREATE TABLE list (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO list VALUES (1, 0), (2, 0)"), &[]).await.expect("two lists");
    pool
}

async fn read<DB: TestBackend>(tx: &mut Tx<DB>, attempt: &RecordedAttempt, key: i64) -> Result<i64, Error> {
    let value = DB::fetch(tx, DB::sql("SELECT value FROM list WHERE id = ?"), &[key]).await?;
    attempt.read(key, digits(value));
    Ok(value)
}

/// Lets the database append a value.
async fn append<DB: TestBackend>(tx: &mut Tx<DB>, attempt: &RecordedAttempt, key: i64) -> Result<(), Error> {
    let update = DB::sql("UPDATE list SET value = value * 1000 + ? WHERE id = ?");
    let done = DB::execute(tx, update, &[attempt.append(key), key]).await?;
    tx.expect_one(done)
}

fn digits(value: i64) -> Vec<i64> {
    [value / 1_000_000, value / 1000 % 1000, value % 1000].into_iter().filter(|digit| *digit > 0).collect()
}

/// The history, with the final state of the lists.
async fn with_final_state<DB: TestBackend>(recorder: &Recorder, pool: &TestPool<DB>) -> History {
    let mut history = recorder.history();
    for key in [1, 2] {
        let value = DB::pool_fetch(pool, DB::sql("SELECT value FROM list WHERE id = ?"), &[key]).await;
        history = history.ending_with(key, digits(value.expect("a list")));
    }
    history
}

fn at(level: Isolation) -> Options {
    Options::new().isolation(level).deadline(Duration::from_secs(60))
}

/// Both units read the list before either writes it back with its own value appended.
pub(crate) async fn detects_a_lost_update_without_a_guard<DB: TestBackend>() {
    let pool = lists::<DB>().await;
    let db = patient(Pessimistic::default(), &pool).options(at(Isolation::ReadCommitted));
    let (recorder, both_have_read) = (Recorder::new(), Barrier::new(2));
    let unit = || {
        let run = recorder.session().begin();
        let (db, both_have_read) = (&db, &both_have_read);
        async move {
            let recorded = &run;
            let result = db
                .run(async move |tx: &mut Tx<DB>| {
                    let attempt = recorded.attempt();
                    let value = read(tx, &attempt, 1).await?;
                    both_have_read.wait().await;
                    let value = value * 1000 + attempt.append(1);
                    DB::execute(tx, DB::sql("UPDATE list SET value = ? WHERE id = 1"), &[value]).await?;
                    Ok::<_, Error>(())
                })
                .await;
            run.end(TransactionOutcome::of(&result));
        }
    };
    tokio::join!(unit(), unit());

    let history = with_final_state(&recorder, &pool).await;
    assert_eq!(history.count(TransactionOutcome::Committed), 2);
    let report = report(&history, Order::Data);
    assert!(report.has(AnomalyKind::LostUpdate), "{report}");
    assert!(report.has(AnomalyKind::LostAppend), "{report}");
}

/// Both units read both lists before each appends to one of them.
async fn write_skew<DB: TestBackend>(level: Isolation) -> History {
    let pool = lists::<DB>().await;
    let db = patient(Serializable::default(), &pool).options(at(level));
    let (recorder, both_have_read) = (Recorder::new(), Barrier::new(2));
    let unit = |key: i64| {
        let run = recorder.session().begin();
        let (db, both_have_read) = (&db, &both_have_read);
        async move {
            let recorded = &run;
            let result = db
                .run(async move |tx: &mut Tx<DB>| {
                    let attempt = recorded.attempt();
                    read(tx, &attempt, 1).await?;
                    read(tx, &attempt, 2).await?;
                    if tx.attempt() == 1 {
                        both_have_read.wait().await;
                    }
                    append(tx, &attempt, key).await
                })
                .await;
            run.end(TransactionOutcome::of(&result));
        }
    };
    tokio::join!(unit(1), unit(2));
    with_final_state(&recorder, &pool).await
}

pub(crate) async fn detects_write_skew_below_serializable<DB: TestBackend>() {
    let history = write_skew::<DB>(Isolation::RepeatableRead).await;
    let found = report(&history, Order::Data);
    let kinds: Vec<_> = found.anomalies().iter().map(|anomaly| anomaly.kind()).collect();
    assert_eq!(kinds, [AnomalyKind::G2Item], "{found}");
    assert_eq!(found.anomalies()[0].cycle().len(), 2);
}

pub(crate) async fn serializable_histories_have_no_write_skew<DB: TestBackend>() {
    let history = write_skew::<DB>(Isolation::Serializable).await;
    assert_eq!(history.count(TransactionOutcome::Committed), 2);
    assert!(history.count(TransactionOutcome::Aborted) > 0, "one unit was retried");
    report(&history, Order::Data).assert(Isolation::Serializable);
}

/// A reader reads one list before and the other one after a writer has appended to both.
async fn read_skew<DB: TestBackend>(level: Isolation) -> History {
    let pool = lists::<DB>().await;
    let db = patient(Serializable::default(), &pool).options(at(level));
    let recorder = Recorder::new();
    let (has_read_one, has_written) = (&Barrier::new(2), &Barrier::new(2));
    let reader = async {
        let run = recorder.session().begin();
        let recorded = &run;
        let result = db
            .run(async move |tx: &mut Tx<DB>| {
                let attempt = recorded.attempt();
                read(tx, &attempt, 1).await?;
                has_read_one.wait().await;
                has_written.wait().await;
                read(tx, &attempt, 2).await?;
                Ok::<_, Error>(())
            })
            .await;
        run.end(TransactionOutcome::of(&result));
    };
    let writer = async {
        has_read_one.wait().await;
        let run = recorder.session().begin();
        let recorded = &run;
        let result = patient(Pessimistic::default(), &pool)
            .run(async move |tx: &mut Tx<DB>| {
                let attempt = recorded.attempt();
                for key in [1, 2] {
                    append(tx, &attempt, key).await?;
                }
                Ok::<_, Error>(())
            })
            .await;
        run.end(TransactionOutcome::of(&result));
        has_written.wait().await;
    };
    tokio::join!(reader, writer);
    let history = with_final_state(&recorder, &pool).await;
    assert_eq!(history.count(TransactionOutcome::Committed), 2, "{:?}", history.transactions());
    history
}

/// With operation rows the snapshot is taken before the closure begins, and the recorder accounts for that.
pub(crate) async fn histories_with_operation_rows_are_strictly_serializable<DB: TestBackend>() {
    let pool = DB::pool(SESSIONS).await;
    let db = patient(Serializable::default(), &pool);
    db.create_operation_table().await.expect("a table");
    let db = db.options(Options::new().resolve_commits(Resolve::Operation));
    for seed in 0..10 {
        let load = ListAppend::new().sessions(SESSIONS).transactions(TRANSACTIONS).seed(seed);
        let history = load.run(&pool, &db).await.expect("a history");
        report(&history, Order::RealTime).assert(Isolation::Serializable);
    }
}

pub(crate) async fn a_rolled_back_append_is_not_an_anomaly<DB: TestBackend>() {
    let pool = lists::<DB>().await;
    let db = patient(Pessimistic::default(), &pool);
    let recorder = Recorder::new();
    let run = recorder.session().begin();
    let recorded = &run;
    let result = db
        .run(async move |tx: &mut Tx<DB>| {
            let attempt = recorded.attempt();
            append(tx, &attempt, 1).await?;
            let undone = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    append(tx, &attempt, 1).await?;
                    read(tx, &attempt, 1).await?;
                    let inner = tx.savepoint(async |tx: &mut Tx<DB>| append(tx, &attempt, 2).await).await;
                    inner?;
                    Err::<(), Error>(sqlx::Error::RowNotFound.into())
                })
                .await;
            assert!(undone.is_err());
            tx.savepoint(async |tx: &mut Tx<DB>| append(tx, &attempt, 2).await).await?;
            read(tx, &attempt, 1).await?;
            Ok::<_, Error>(())
        })
        .await;
    run.end(TransactionOutcome::of(&result));
    let history = with_final_state(&recorder, &pool).await;
    assert_eq!(history.count(TransactionOutcome::Committed), 1);
    assert_eq!(report(&history, Order::Data).anomalies(), [], "{history:?}");
}

pub(crate) async fn detects_read_skew_at_read_committed<DB: TestBackend>() {
    let found = report(&read_skew::<DB>(Isolation::ReadCommitted).await, Order::Data);
    let kinds: Vec<_> = found.anomalies().iter().map(|anomaly| anomaly.kind()).collect();
    assert_eq!(kinds, [AnomalyKind::GSingle], "{found}");
}

pub(crate) async fn snapshot_histories_have_no_read_skew<DB: TestBackend>() {
    let found = report(&read_skew::<DB>(Isolation::RepeatableRead).await, Order::Data);
    assert_eq!(found.anomalies(), [], "{found}");
}
