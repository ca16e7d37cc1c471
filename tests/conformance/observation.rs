//! What observers are told.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::testing::{Fault, Faults, Moment};
use atomically::{
    Backoff, Error, Event, Failure, Gate, Observer, Optimistic, Options, Pessimistic, RetryBudget,
    RunOutcome, Serializable, Summary, TransactorExt as _, Tx, UnitEvent,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::gate::until;
use super::increments::{counter, increment, patient, value};
use crate::support::TestBackend;

/// Writes down what it is told, one line for each event.
#[derive(Debug, Clone, Default)]
struct Notes(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    ends: Vec<Summary>,
}

impl Observer for Notes {
    fn observe(&self, event: &Event<'_>) {
        let Event::Unit { run, event } = event else { return };
        let mut written = self.0.lock().expect("the notes");
        let mut line = format!("{}: ", run.name);
        let _ = match event {
            UnitEvent::Started => write!(line, "started"),
            UnitEvent::AttemptStarted { attempt } => write!(line, "attempt {attempt}"),
            UnitEvent::WaitedAtGate { .. } => write!(line, "at the gate"),
            UnitEvent::Opened { .. } => write!(line, "open"),
            UnitEvent::StatementDone { sql, failure, .. } => {
                write!(line, "{}{}", first_word(sql), said(*failure))
            }
            UnitEvent::Idle { after, .. } => write!(line, "idle after {}", first_word(after)),
            UnitEvent::AttemptFailed { attempt, failure } => {
                write!(line, "attempt {attempt} failed{}", said(Some(failure)))
            }
            UnitEvent::BackingOff { .. } => write!(line, "backing off"),
            UnitEvent::Ended { summary, error } => {
                written.ends.push(**summary);
                assert!(error.is_none_or(|error| RunOutcome::from(error) == summary.outcome), "{error:?}");
                write!(line, "{} after {}", summary.outcome.as_str(), summary.attempts)
            }
            event => panic!("unheard of: {event:?}"),
        };
        written.lines.push(line);
    }
}

fn first_word(sql: &str) -> &str {
    sql.split_whitespace().next().unwrap_or_default()
}

fn said(failure: Option<&Failure>) -> String {
    failure.map(|failure| format!(": {}", failure.kind().as_str())).unwrap_or_default()
}

impl Notes {
    fn lines(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("the notes").lines)
    }

    /// How the only run ended since this was asked for.
    fn end(&self) -> Summary {
        let mut written = self.0.lock().expect("the notes");
        assert_eq!(written.ends.len(), 1, "{:?}", written.lines);
        written.lines.clear();
        written.ends.remove(0)
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().expect("the notes").lines.iter().filter(|line| line.contains(what)).count()
    }
}

/// Each step in its order, with the name, the strategy, the database and the place of the run, and without
/// any value.
pub(crate) async fn observers_are_notified_of_every_step<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let notes = Notes::default();
    let runs = Arc::new(Mutex::new(Vec::new()));
    let noted = runs.clone();
    let db =
        Optimistic::default().on(&pool).observed_by(notes.clone()).observed_by(move |event: &Event<'_>| {
            if let Event::Unit { run, .. } = event {
                noted.lock().expect("the runs").push((*run).clone());
            }
            assert!(!format!("{event:?}").contains("73573"), "a value that was bound: {event:?}");
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
    let told = [
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
        "RELEASE",
        "committed after 2",
    ];
    assert_eq!(notes.lines(), told.map(|line| format!("checkout: {line}")));
    let runs = std::mem::take(&mut *runs.lock().expect("the runs"));
    assert_eq!(runs.len(), told.len());
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    let (run, place) = (&runs[0], runs[0].location.expect("a place"));
    assert_eq!((run.strategy, run.database), ("optimistic", DB::SYSTEM));
    assert_eq!((place.file(), place.line()), (file!(), line));
    assert_eq!(run.to_string(), format!("checkout ({}:{line})", file!()));
}

/// Failures are told with the statement that met them; and every way in which a run can end has its name.
pub(crate) async fn every_end_has_its_name<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let notes = Notes::default();
    let db = patient(Serializable::default(), &pool).observed_by(notes.clone());
    let conflict = async |tx: &mut Tx<DB>| tx.expect_one(0);

    db.run(increment::<DB>).await.expect("a commit");
    assert_eq!(notes.end().outcome, RunOutcome::Committed);

    #[derive(Debug)]
    struct Own;
    impl From<Error> for Own {
        fn from(_: Error) -> Self {
            Self
        }
    }
    db.run(async |_: &mut Tx<DB>| Err::<(), _>(Own)).await.expect_err("its own");
    assert_eq!(notes.end().outcome, RunOutcome::RolledBack);

    let few = Options::new().attempts(3).backoff(Backoff::none());
    db.with(few).run(conflict).await.expect_err("always a conflict");
    let end = notes.end();
    assert_eq!((end.outcome, end.attempts), (RunOutcome::Exhausted, 3));

    let broke = RetryBudget::new().reserve(0);
    db.with(Options::new().retry_budget(&broke)).run(conflict).await.expect_err("no budget");
    assert_eq!(notes.end().outcome, RunOutcome::BudgetSpent);

    let short = Options::new().deadline(Duration::from_millis(50));
    let waits = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        std::future::pending::<Result<(), Error>>().await
    };
    db.with(short).run(waits).await.expect_err("no time");
    assert_eq!(notes.end().outcome, RunOutcome::DeadlineExceeded);

    // Whatever the unit makes of it.
    db.run(async |tx: &mut Tx<DB>| tx.expect_one(2).map_err(|_| Own)).await.expect_err("more rows than one");
    assert_eq!(notes.end().outcome, RunOutcome::Failed);
    let hides = async |tx: &mut Tx<DB>| {
        let _ = tx.expect_one(2);
        Ok::<_, Error>(())
    };
    db.run(hides).await.expect_err("more rows than one");
    assert_eq!(notes.end().outcome, RunOutcome::Failed);
    let twice = "INSERT INTO counter (id, value, version) VALUES (1, 0, 0)";
    db.run(async |tx: &mut Tx<DB>| DB::execute(tx, DB::sql(twice), &[]).await.map_err(|_| Own))
        .await
        .expect_err("a duplicate");
    assert_eq!(notes.end().outcome, RunOutcome::RolledBack);

    let unheard = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    unheard.on(&db).run(increment::<DB>).await.expect_err("no answer");
    assert_eq!(notes.end().outcome, RunOutcome::CommitUnknown);

    // Three have their places at the gate; nobody may stand in line behind them.
    let gate = Gate::new().queue(0);
    let crowded = db.clone().gate(&gate);
    let mut inside = JoinSet::new();
    for places in 1..=3 {
        let crowded = crowded.clone();
        inside.spawn(async move {
            let stays = async |_: &mut Tx<DB>| std::future::pending::<Result<(), Error>>().await;
            crowded.on_key("hot").run(stays).await
        });
        until(|| gate.at("hot") == places).await;
    }
    crowded.on_key("hot").run(increment::<DB>).await.expect_err("no place");
    let end = notes.end();
    assert_eq!((end.outcome, end.attempts), (RunOutcome::Overloaded, 0));
    inside.shutdown().await;
    let ends: Vec<_> = notes.0.lock().expect("the notes").ends.iter().map(|end| end.outcome).collect();
    assert_eq!(ends, [RunOutcome::Dropped; 3]);
}

/// The error of a statement is told with it.
pub(crate) async fn observers_get_the_failure_of_a_statement<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let notes = Notes::default();
    let db = patient(Pessimistic::default(), &pool).observed_by(notes.clone());
    let twice = async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("INSERT INTO counter (id, value, version) VALUES (1, 0, 0)"), &[]).await?;
        Ok::<_, Error>(())
    };
    db.run(twice).await.expect_err("a duplicate");
    assert_eq!(notes.count("INSERT: constraint"), 1, "{:?}", notes.lines());
}

/// A unit that waits for something else than its database with a transaction open is told of while it waits;
/// it is the observer who lets it go on. Told once for each pause.
pub(crate) async fn a_unit_that_idles_is_reported_while_it_does<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let (notes, release) = (Notes::default(), Arc::new(Notify::new()));
    let go_on = release.clone();
    let db = patient(Pessimistic::default(), &pool)
        .options(Options::new().idle_warning(Duration::from_millis(30)))
        .observed_by(notes.clone())
        .observed_by(move |event: &Event<'_>| {
            if let Event::Unit { event: UnitEvent::Idle { .. }, .. } = event {
                go_on.notify_one();
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
    assert_eq!(notes.count("thinks: idle after UPDATE"), 2);
    let end = notes.end();
    assert!(end.times.idle >= Duration::from_millis(60), "{end:?}");
    assert_eq!(value(&pool).await, 2);

    // Before its first statement it holds nothing that others could wait for; nor between its attempts.
    db.run(async |tx: &mut Tx<DB>| {
        tokio::time::sleep(Duration::from_millis(60)).await;
        increment(tx).await
    })
    .await
    .expect("a commit");
    assert_eq!(notes.count("idle"), 0, "{:?}", notes.lines());
}

/// One that never gives way cannot be told of before it is done.
pub(crate) async fn a_unit_that_blocks_is_reported_afterwards<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let notes = Notes::default();
    let db = patient(Pessimistic::default(), &pool)
        .options(Options::new().idle_warning(Duration::from_millis(20)))
        .observed_by(notes.clone());
    let blocks = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        std::thread::sleep(Duration::from_millis(40));
        Ok::<_, Error>(())
    };
    db.named("blocks").run(blocks).await.expect("a commit");
    assert_eq!(notes.count("blocks: idle after UPDATE"), 1, "{:?}", notes.lines());
}

/// One that waits for a lock is busy with its database, however long that takes.
pub(crate) async fn a_unit_that_waits_for_a_lock_is_not_idle<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let notes = Notes::default();
    let limit = Duration::from_millis(30);
    let db = patient(Pessimistic::default(), &pool)
        .options(Options::new().idle_warning(limit))
        .observed_by(notes.clone());
    let (held, waits) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let holder = {
        let (pool, held, waits) = (pool.pool.clone(), held.clone(), waits.clone());
        tokio::spawn(async move {
            patient(Pessimistic::default(), &pool)
                .run(async |tx: &mut Tx<DB>| {
                    increment(tx).await?;
                    held.notify_one();
                    while !waits.load(SeqCst) {
                        tokio::task::yield_now().await;
                    }
                    // Three times as long as may be waited for something else.
                    tokio::time::sleep(limit * 3).await;
                    Ok::<_, Error>(())
                })
                .await
        })
    };
    held.notified().await;
    waits.store(true, SeqCst);
    db.named("waiting").run(increment::<DB>).await.expect("a commit");
    holder.await.expect("no panic").expect("a commit");
    assert_eq!(notes.count("idle"), 0, "{:?}", notes.lines());
    let times = notes.end().times;
    assert!(times.statements + times.control + times.backoff >= limit, "it did not wait: {times:?}");
    assert!(times.idle < limit, "{times:?}");
    assert_eq!(value(&pool).await, 2);
}

/// The gate is told of with the time that was spent there.
pub(crate) async fn observers_are_notified_of_a_wait_at_the_gate<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let notes = Notes::default();
    let gate = Gate::new();
    let db = patient(Optimistic::default(), &pool).gate(&gate).observed_by(notes.clone());
    // The second one waits until the first one has gone, and no more than that counts as idle.
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
    let limit = Duration::from_millis(40);
    let hot = db.on_key("hot");
    let second = hot.run(increment::<DB>);
    let release = async {
        until(|| gate.at("hot") == 2).await;
        tokio::time::sleep(limit).await;
        go_on.notify_one();
    };
    let (second, ()) = tokio::join!(second, release);
    second.expect("a commit");
    first.await.expect("no panic").expect("a commit");
    assert!(notes.count("at the gate") > 0, "{:?}", notes.lines());
    let times = notes.end().times;
    assert!(times.gate >= limit / 2 && times.idle < limit / 2, "{times:?}");
    db.run(increment::<DB>).await.expect("a commit");
    assert_eq!(notes.count("at the gate"), 0, "no key, no gate");
}

/// Also of one who waited in vain.
pub(crate) async fn a_wait_for_the_pool_is_counted<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let notes = Notes::default();
    let limit = Duration::from_millis(60);
    let db = Pessimistic::default().on(&pool).deadline(limit).observed_by(notes.clone());
    let taken = pool.acquire().await.expect("the only connection");
    db.run(increment::<DB>).await.expect_err("no connection");
    let end = notes.end();
    assert_eq!(end.outcome, RunOutcome::DeadlineExceeded);
    assert!(end.times.pool >= limit / 2, "{end:?}");
    drop(taken);
    patient(Pessimistic::default(), &pool)
        .observed_by(notes.clone())
        .run(increment::<DB>)
        .await
        .expect("a commit");
    let times = notes.end().times;
    assert!(times.control > Duration::ZERO && times.statements > Duration::ZERO, "{times:?}");
}
