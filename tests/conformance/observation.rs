//! The events that observers receive.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::testing::{Fault, Faults, Moment};
use atomically::{
    Backoff, Error, Event, Failure, Gate, Observer, Optimistic, Options, Pessimistic, RetryBudget,
    RunOutcome, Serializable, Summary, TransactorExt as _, Tx, UnitEvent,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::gate::wait_until;
use super::increments::{counter, increment, patient, value};
use crate::support::TestBackend;

/// An observer that logs one line for each event.
#[derive(Debug, Clone, Default)]
struct EventLog(Arc<Mutex<LoggedEvents>>);

#[derive(Debug, Default)]
struct LoggedEvents {
    lines: Vec<String>,
    ends: Vec<Summary>,
}

impl Observer for EventLog {
    fn observe(&self, event: &Event<'_>) {
        let Event::Unit { run, event } = event else { return };
        let mut logged = self.0.lock().expect("the log");
        let mut line = format!("{}: ", run.name);
        let _ = match event {
            UnitEvent::Started => write!(line, "started"),
            UnitEvent::AttemptStarted { attempt } => write!(line, "attempt {attempt}"),
            UnitEvent::WaitedAtGate { .. } => write!(line, "at the gate"),
            UnitEvent::Opened { .. } => write!(line, "open"),
            UnitEvent::StatementDone { sql, failure, .. } => {
                write!(line, "{}{}", first_word(sql), failure_suffix(*failure))
            }
            UnitEvent::Idle { after, .. } => write!(line, "idle after {}", first_word(after)),
            UnitEvent::AttemptFailed { attempt, failure } => {
                write!(line, "attempt {attempt} failed{}", failure_suffix(Some(failure)))
            }
            UnitEvent::BackingOff { .. } => write!(line, "backing off"),
            UnitEvent::Ended { summary, error } => {
                logged.ends.push(**summary);
                assert!(error.is_none_or(|error| RunOutcome::from(error) == summary.outcome), "{error:?}");
                write!(line, "{} after {}", summary.outcome.as_str(), summary.attempts)
            }
            event => panic!("an unexpected event: {event:?}"),
        };
        logged.lines.push(line);
    }
}

fn first_word(sql: &str) -> &str {
    sql.split_whitespace().next().unwrap_or_default()
}

fn failure_suffix(failure: Option<&Failure>) -> String {
    failure.map(|failure| format!(": {}", failure.kind().as_str())).unwrap_or_default()
}

impl EventLog {
    fn lines(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("the log").lines)
    }

    /// Removes and returns the summary of the only run that has ended since the last call.
    fn end(&self) -> Summary {
        let mut logged = self.0.lock().expect("the log");
        assert_eq!(logged.ends.len(), 1, "{:?}", logged.lines);
        logged.lines.clear();
        logged.ends.remove(0)
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().expect("the log").lines.iter().filter(|line| line.contains(what)).count()
    }
}

/// Each step is reported in order, with the name, strategy, database and location of the run, and without any
/// value.
pub(crate) async fn observers_are_notified_of_every_step<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let log = EventLog::default();
    let runs = Arc::new(Mutex::new(Vec::new()));
    let recorded = runs.clone();
    let db =
        Optimistic::default().on(&pool).observed_by(log.clone()).observed_by(move |event: &Event<'_>| {
            if let Event::Unit { run, .. } = event {
                recorded.lock().expect("the runs").push((*run).clone());
            }
            assert!(!format!("{event:?}").contains("73573"), "the event contains a bound value: {event:?}");
        });
    let line = line!() + 3;
    let checkout = db.named("checkout");
    checkout
        .run(async |tx: &mut Tx<DB>| {
            if tx.attempt() == 1 {
                tx.expect_one(0)?;
            }
            let update = DB::sql("UPDATE counter SET value = ? WHERE id = 1");
            DB::execute(tx, update, &[73_573]).await?;
            DB::fetch(tx, DB::sql("SELECT value FROM counter WHERE id = 1"), &[]).await?;
            tx.savepoint(async |tx: &mut Tx<DB>| increment(tx).await).await
        })
        .await
        .expect("a commit");
    // The savepoint needs no release of its own, because COMMIT follows it.
    let expected = [
        "started",
        "attempt 1",
        "open",
        "attempt 1 failed: stale_version",
        "backing off",
        "attempt 2",
        "open",
        "UPDATE",
        "SELECT",
        "SAVEPOINT",
        "SELECT",
        "UPDATE",
        "committed after 2",
    ];
    assert_eq!(log.lines(), expected.map(|line| format!("checkout: {line}")));
    let runs = std::mem::take(&mut *runs.lock().expect("the runs"));
    assert_eq!(runs.len(), expected.len());
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    let (run, location) = (&runs[0], runs[0].location.expect("a location"));
    assert_eq!((run.strategy, run.database), ("optimistic", DB::SYSTEM));
    assert_eq!((location.file(), location.line()), (file!(), line));
    assert_eq!(run.to_string(), format!("checkout ({}:{line})", file!()));
}

/// Makes runs end in every possible way.
pub(crate) async fn reports_every_run_outcome<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let log = EventLog::default();
    let db = patient(Serializable::default(), &pool).observed_by(log.clone());
    let conflict = async |tx: &mut Tx<DB>| tx.expect_one(0);

    db.run(increment::<DB>).await.expect("a commit");
    assert_eq!(log.end().outcome, RunOutcome::Committed);

    #[derive(Debug)]
    struct Own;
    impl From<Error> for Own {
        fn from(_: Error) -> Self {
            Self
        }
    }
    db.run(async |_: &mut Tx<DB>| Err::<(), _>(Own)).await.expect_err("its own");
    assert_eq!(log.end().outcome, RunOutcome::RolledBack);

    let few = Options::new().attempts(3).backoff(Backoff::none());
    db.with(few).run(conflict).await.expect_err("always a conflict");
    let end = log.end();
    assert_eq!((end.outcome, end.attempts), (RunOutcome::Exhausted, 3));

    let empty = RetryBudget::new().reserve(0);
    db.with(Options::new().retry_budget(&empty)).run(conflict).await.expect_err("no budget");
    assert_eq!(log.end().outcome, RunOutcome::BudgetSpent);

    let short = Options::new().deadline(Duration::from_millis(50));
    let waits = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        std::future::pending::<Result<(), Error>>().await
    };
    db.with(short).run(waits).await.expect_err("no time");
    assert_eq!(log.end().outcome, RunOutcome::DeadlineExceeded);

    // Even if the unit converts or ignores the error.
    db.run(async |tx: &mut Tx<DB>| tx.expect_one(2).map_err(|_| Own)).await.expect_err("more rows than one");
    assert_eq!(log.end().outcome, RunOutcome::Failed);
    let hides = async |tx: &mut Tx<DB>| {
        let _ = tx.expect_one(2);
        Ok::<_, Error>(())
    };
    db.run(hides).await.expect_err("more rows than one");
    assert_eq!(log.end().outcome, RunOutcome::Failed);
    let twice = "INSERT INTO counter (id, value, version) VALUES (1, 0, 0)";
    db.run(async |tx: &mut Tx<DB>| DB::execute(tx, DB::sql(twice), &[]).await.map_err(|_| Own))
        .await
        .expect_err("a duplicate");
    assert_eq!(log.end().outcome, RunOutcome::RolledBack);

    let lost_response = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    lost_response.on(&db).run(increment::<DB>).await.expect_err("no response");
    assert_eq!(log.end().outcome, RunOutcome::CommitUnknown);

    // Three runs hold permits of the gate, whose queue is full.
    let gate = Gate::new().queue(0);
    let gated = db.clone().gate(&gate);
    let mut inside = JoinSet::new();
    for permits in 1..=3 {
        let gated = gated.clone();
        inside.spawn(async move {
            let never_returns = async |_: &mut Tx<DB>| std::future::pending::<Result<(), Error>>().await;
            gated.on_key("hot").run(never_returns).await
        });
        wait_until(|| gate.at("hot") == permits).await;
    }
    gated.on_key("hot").run(increment::<DB>).await.expect_err("a full queue");
    let end = log.end();
    assert_eq!((end.outcome, end.attempts), (RunOutcome::Overloaded, 0));
    inside.shutdown().await;
    let ends: Vec<_> = log.0.lock().expect("the log").ends.iter().map(|end| end.outcome).collect();
    assert_eq!(ends, [RunOutcome::Dropped; 3]);
}

/// The event of a statement contains its failure.
pub(crate) async fn observers_receive_the_failure_of_a_statement<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let log = EventLog::default();
    let db = patient(Pessimistic::default(), &pool).observed_by(log.clone());
    let twice = async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("INSERT INTO counter (id, value, version) VALUES (1, 0, 0)"), &[]).await?;
        Ok::<_, Error>(())
    };
    db.run(twice).await.expect_err("a duplicate");
    assert_eq!(log.count("INSERT: constraint"), 1, "{:?}", log.lines());
}

/// A unit that waits for anything but its database, with a transaction open, is reported while it waits: the
/// observer makes it continue. Each pause is reported once.
pub(crate) async fn reports_an_idle_unit_while_it_is_idle<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    // Longer than a busy machine pauses a unit between two statements.
    let limit = Duration::from_millis(300);
    let (log, release) = (EventLog::default(), Arc::new(Notify::new()));
    let resume = release.clone();
    let db = patient(Pessimistic::default(), &pool)
        .options(Options::new().idle_warning(limit))
        .observed_by(log.clone())
        .observed_by(move |event: &Event<'_>| {
            if let Event::Unit { event: UnitEvent::Idle { .. }, .. } = event {
                resume.notify_one();
            }
        });
    let thinks = db.named("thinks");
    thinks
        .run(async |tx: &mut Tx<DB>| {
            increment(tx).await?;
            release.notified().await;
            increment(tx).await?;
            release.notified().await;
            Ok::<_, Error>(())
        })
        .await
        .expect("a commit");
    assert_eq!(log.count("thinks: idle after UPDATE"), 2);
    let end = log.end();
    assert!(end.times.idle >= 2 * limit, "{end:?}");
    assert_eq!(value(&pool).await, 2);

    // A unit is not idle before its first statement, because it holds no locks, nor between its attempts.
    db.run(async |tx: &mut Tx<DB>| {
        tokio::time::sleep(2 * limit).await;
        increment(tx).await
    })
    .await
    .expect("a commit");
    assert_eq!(log.count("idle"), 0, "{:?}", log.lines());
}

/// A unit that blocks its thread can only be reported when it returns.
pub(crate) async fn reports_a_blocking_unit_afterwards<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let log = EventLog::default();
    let db = patient(Pessimistic::default(), &pool)
        .options(Options::new().idle_warning(Duration::from_millis(20)))
        .observed_by(log.clone());
    let blocks = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        std::thread::sleep(Duration::from_millis(40));
        Ok::<_, Error>(())
    };
    db.named("blocks").run(blocks).await.expect("a commit");
    assert_eq!(log.count("blocks: idle after UPDATE"), 1, "{:?}", log.lines());
}

/// A wait for a lock is a wait for the database, and does not count as idle.
pub(crate) async fn a_unit_that_waits_for_a_lock_is_not_idle<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let log = EventLog::default();
    let limit = Duration::from_millis(400);
    let db = patient(Pessimistic::default(), &pool)
        .options(Options::new().idle_warning(limit))
        .observed_by(log.clone());
    let held = Arc::new(Notify::new());
    let holder = {
        let (pool, held, log) = (pool.pool.clone(), held.clone(), log.clone());
        tokio::spawn(async move {
            patient(Pessimistic::default(), &pool)
                .run(async |tx: &mut Tx<DB>| {
                    increment(tx).await?;
                    held.notify_one();
                    // Next the other unit waits. On SQLite it waits for its transaction to begin.
                    let last = if DB::NAME == "SQLite" { "waiting: attempt 1" } else { "waiting: open" };
                    wait_until(|| log.count(last) > 0).await;
                    tokio::time::sleep(limit * 3).await;
                    Ok::<_, Error>(())
                })
                .await
        })
    };
    held.notified().await;
    db.named("waiting").run(increment::<DB>).await.expect("a commit");
    holder.await.expect("no panic").expect("a commit");
    assert_eq!(log.count("idle"), 0, "{:?}", log.lines());
    let times = log.end().times;
    assert!(times.statements + times.control + times.backoff >= limit, "the unit did not wait: {times:?}");
    assert!(times.idle < limit, "{times:?}");
    assert_eq!(value(&pool).await, 2);
}

/// The summary contains the time that was spent at the gate.
pub(crate) async fn observers_are_notified_of_a_wait_at_the_gate<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let log = EventLog::default();
    let gate = Gate::new();
    let db = patient(Optimistic::default(), &pool).gate(&gate).observed_by(log.clone());
    // The second unit waits at the gate until the first one ends, and this wait does not count as idle.
    let (inside, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let first = {
        let (db, inside, go_on) =
            (patient(Optimistic::default(), &pool).gate(&gate), inside.clone(), go_on.clone());
        tokio::spawn(async move {
            db.on_key("hot")
                .run(async |_: &mut Tx<DB>| {
                    inside.notify_one();
                    go_on.notified().await;
                    Ok::<_, Error>(())
                })
                .await
        })
    };
    inside.notified().await;
    let limit = Duration::from_millis(400);
    let hot = db.on_key("hot");
    let second = hot.run(increment::<DB>);
    let release = async {
        // Its transaction is open, so it waits for nothing but the gate.
        wait_until(|| gate.at("hot") == 2 && log.count("open") > 0).await;
        tokio::time::sleep(limit).await;
        go_on.notify_one();
    };
    let (second, ()) = tokio::join!(second, release);
    second.expect("a commit");
    first.await.expect("no panic").expect("a commit");
    assert!(log.count("at the gate") > 0, "{:?}", log.lines());
    let times = log.end().times;
    assert!(times.gate >= limit / 2 && times.idle < limit / 2, "{times:?}");
    db.run(increment::<DB>).await.expect("a commit");
    assert_eq!(log.count("at the gate"), 0, "a run without a key waited at the gate");
}

/// Includes a wait that ended without a connection.
pub(crate) async fn measures_the_wait_for_a_connection<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let log = EventLog::default();
    let limit = Duration::from_secs(1);
    let db = Pessimistic::default().on(&pool).deadline(limit).observed_by(log.clone());
    let taken = pool.acquire().await.expect("the only connection");
    db.run(increment::<DB>).await.expect_err("no connection");
    let end = log.end();
    assert_eq!(end.outcome, RunOutcome::DeadlineExceeded);
    assert!(end.times.pool >= limit / 2, "{end:?}");
    drop(taken);
    patient(Pessimistic::default(), &pool)
        .observed_by(log.clone())
        .run(increment::<DB>)
        .await
        .expect("a commit");
    let times = log.end().times;
    assert!(times.control > Duration::ZERO && times.statements > Duration::ZERO, "{times:?}");
}
