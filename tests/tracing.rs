//! Spans and log lines.

mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::queue::{NewJob, Queue, Retry, Worker};
use atomically::testing::{Fault, Faults, Moment};
use atomically::{Backoff, Error, JobEvent, Options, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Sqlite;
use support::{TestBackend as _, TestPool};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

type Fields = BTreeMap<&'static str, String>;

/// A span as it was when it closed, or a log line.
#[derive(Debug, Clone)]
struct Seen {
    name: &'static str,
    level: Level,
    fields: Fields,
    /// The names of the enclosing spans, outermost first.
    inside: Vec<&'static str>,
    /// What the default format of tracing-subscriber prints around the message: the time, the level, the
    /// spans with their fields so far, the target, and the fields of the line.
    around: String,
}

/// Fields as tracing-subscriber prints them.
fn printed(fields: &Fields) -> String {
    let fields = fields.iter().filter(|(name, _)| **name != "message");
    fields.map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(" ")
}

/// Records all spans and log lines of `atomically`.
#[derive(Debug, Clone, Default)]
struct Recording(Arc<Mutex<Vec<Seen>>>);

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recording {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Reader(&mut fields));
        context.span(id).expect("a span").extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("a span");
        let mut extensions = span.extensions_mut();
        values.record(&mut Reader(extensions.get_mut::<Fields>().expect("its fields")));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Reader(&mut fields));
        let spans: Vec<_> =
            context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()).collect();
        let inside = spans.iter().map(|span| span.name()).collect();
        let mut around = "2026-11-28T11:28:59.123456Z ERROR ".to_owned();
        for span in &spans {
            let extensions = span.extensions();
            around += &format!("{}{{{}}}:", span.name(), printed(extensions.get().expect("its fields")));
        }
        around += &format!(" atomically:  {}", printed(&fields));
        self.note(event.metadata(), fields, inside, around);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).expect("a span");
        let fields = span.extensions().get::<Fields>().expect("its fields").clone();
        let mut inside: Vec<_> = span.scope().skip(1).map(|span| span.name()).collect();
        inside.reverse();
        self.note(span.metadata(), fields, inside, String::new());
    }
}

impl Recording {
    fn note(
        &self,
        metadata: &tracing::Metadata<'static>,
        fields: Fields,
        inside: Vec<&'static str>,
        around: String,
    ) {
        if metadata.target() == "atomically" {
            let (name, level) = (metadata.name(), *metadata.level());
            let name = if metadata.is_span() { name } else { "line" };
            self.0.lock().expect("the notes").push(Seen { name, level, fields, inside, around });
        }
    }

    fn take(&self, name: &str) -> Vec<Seen> {
        let mut all = self.0.lock().expect("the notes");
        let (taken, left) = all.drain(..).partition(|seen| seen.name == name);
        *all = left;
        taken
    }

    /// The spans with this name, once there are as many. A thread of the driver may hold the span of a
    /// command until after it has responded.
    async fn ended<const N: usize>(&self, name: &str) -> [Seen; N] {
        let mut spans = Vec::new();
        support::eventually(N, async || {
            spans.extend(self.take(name));
            spans.len()
        })
        .await;
        spans.try_into().expect("as many")
    }

    /// The lines of this level and more severe ones.
    fn lines(&self, level: Level) -> Vec<String> {
        let lines = self.take("line");
        self.0.lock().expect("the notes").clear();
        let loud = lines.into_iter().filter(|line| line.level <= level);
        loud.map(|line| line.fields["message"].clone()).collect()
    }
}

async fn scene() -> (TestPool<Sqlite>, PoolTransactor<Sqlite, Pessimistic>) {
    let pool = Sqlite::pool(2).await;
    for sql in
        ["CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER)", "INSERT INTO counter VALUES (1, 0)"]
    {
        sqlx::query(sql).execute(&*pool).await.expect("set up");
    }
    let db = Pessimistic::default().on(&pool).backoff(Backoff::none());
    (pool, db)
}

async fn set(tx: &mut Tx<Sqlite>) -> Result<(), Error> {
    sqlx::query("UPDATE counter SET value = $1").bind(73_573).execute(&mut *tx).await?;
    Ok(())
}

/// Records all spans and log lines of this thread.
fn listen() -> (Recording, tracing::subscriber::DefaultGuard) {
    let recording = Recording::default();
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(recording.clone()));
    (recording, guard)
}

/// A span for the unit, and inside of it one for each attempt, with OpenTelemetry's names.
#[tokio::test]
async fn a_unit_is_a_span_with_its_attempts_inside() {
    let (_pool, db) = scene().await;
    let (recording, _guard) = listen();
    let checkout = db.named("checkout");
    let line = line!() + 1;
    let run = checkout.run(async |tx: &mut Tx<Sqlite>| {
        set(tx).await?;
        if tx.attempt() == 1 { tx.expect_one(0) } else { Ok(()) }
    });
    run.await.expect("a commit");

    let [unit] = recording.ended("unit").await;
    assert!(unit.inside.is_empty());
    for (field, value) in [
        ("otel.name", "checkout"),
        ("otel.kind", "client"),
        ("db.system.name", "sqlite"),
        ("db.operation.name", "transaction"),
        ("code.file.path", file!()),
        ("code.line.number", &line.to_string()),
        ("atomically.unit", "checkout"),
        ("atomically.strategy", "pessimistic"),
        ("atomically.attempts", "2"),
        ("atomically.outcome", "committed"),
    ] {
        assert_eq!(unit.fields.get(field).map(String::as_str), Some(value), "{field}: {unit:?}");
    }
    assert!(!unit.fields.contains_key("error.type"), "{unit:?}");

    let [first, second] = recording.ended("attempt").await;
    assert_eq!((&*first.inside, &*second.inside), (&["unit"][..], &["unit"][..]));
    assert_eq!((&*first.fields["atomically.attempt"], &*second.fields["atomically.attempt"]), ("1", "2"));
    assert_eq!(
        (&*first.fields["error.type"], &*first.fields["otel.status_code"]),
        ("stale_version", "ERROR")
    );
    assert!(!second.fields.contains_key("error.type"), "{second:?}");

    let lines = recording.take("line");
    let statements: Vec<_> = lines.iter().filter(|line| line.fields.contains_key("db.query.text")).collect();
    assert_eq!(statements.len(), 2, "{lines:?}");
    for line in &statements {
        assert_eq!(line.fields["db.query.text"], "UPDATE counter SET value = $1");
        assert_eq!((line.level, &*line.inside), (Level::TRACE, &["unit", "attempt"][..]));
    }
    assert!(!format!("{lines:?}").contains("73573"), "a value that was bound: {lines:?}");
    let retry = lines.iter().find(|line| line.fields["message"].contains("stale version")).expect("a line");
    assert_eq!((retry.level, &*retry.inside), (Level::DEBUG, &["unit"][..]));
}

/// What surrounds a message repeats none of it, except for the name of the unit, which is part of the span so
/// that lines of the program have it as well.
#[tokio::test]
async fn a_log_line_adds_little_to_its_message() {
    let (_pool, db) = scene().await;
    let (recording, _guard) = listen();
    let conflict = async |tx: &mut Tx<Sqlite>| tx.expect_one(0);
    let own = async |_: &mut Tx<Sqlite>| Err::<(), Error>(sqlx::Error::RowNotFound.into());
    let thinks = async |tx: &mut Tx<Sqlite>| {
        set(tx).await?;
        tokio::time::sleep(Duration::from_millis(60)).await;
        Ok::<_, Error>(())
    };
    let unheard = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    let checkout =
        db.with(Options::new().attempts(2).idle_warning(Duration::from_millis(20)).named("checkout"));
    checkout.run(conflict).await.expect_err("always a conflict");
    checkout.run(own).await.expect_err("its own error");
    checkout.run(thinks).await.expect("a commit");
    unheard.on(&checkout).run(set).await.expect_err("no answer");
    let lines = recording.take("line");
    let lines: Vec<_> = lines.iter().filter(|line| line.level < Level::TRACE).collect();
    assert!(lines.len() > 5, "{lines:?}");
    for Seen { fields, around, .. } in lines {
        let message = &fields["message"];
        assert!(around.len() <= 170, "{} columns: {around}", around.len());
        for (word, times) in [("checkout", 1), ("outcome", 1), (file!(), 0)] {
            assert!(around.matches(word).count() <= times, "{word} in {around}: {message}");
        }
        assert!(message.len() <= 260, "{} columns: {message}", message.len());
    }
}

/// Conditions that need attention are logged as warnings, and nothing else is.
#[tokio::test]
async fn only_problems_are_logged_as_warnings() {
    let (_pool, db) = scene().await;
    let (recording, _guard) = listen();
    let quiet = Level::INFO;

    db.run(set).await.expect("a commit");
    assert_eq!(recording.lines(quiet), [""; 0]);

    let conflict = async |tx: &mut Tx<Sqlite>| tx.expect_one(0);
    db.with(Options::new().attempts(2).named("storm")).run(conflict).await.expect_err("always a conflict");
    let lines = recording.lines(quiet);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("storm (") && lines[0].contains("gave up after 2 attempts"), "{lines:?}");

    let unheard = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    unheard.on(&db).run(set).await.expect_err("no answer");
    let errors = recording.lines(Level::ERROR);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("it may be stored or not"), "{errors:?}");

    let thinks = async |tx: &mut Tx<Sqlite>| {
        set(tx).await?;
        tokio::time::sleep(Duration::from_millis(60)).await;
        Ok::<_, Error>(())
    };
    let line = line!() + 2;
    db.with(Options::new().idle_warning(Duration::from_millis(20)).named("thinks"))
        .run(thinks)
        .await
        .expect("a commit");
    let lines = recording.lines(quiet);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let place = format!("thinks ({}:{line}): the transaction has been idle", file!());
    assert!(lines[0].starts_with(&place), "{lines:?}");
    assert!(
        !lines[0].contains("all connections of its pool are in use"),
        "the pool has another one: {lines:?}"
    );
}

/// With the statements of the attempt that was aborted.
#[tokio::test]
async fn a_deadlock_is_logged_with_its_statements() {
    let pool = sqlx::Postgres::pool(2).await;
    let db = Pessimistic::default().on(&pool).backoff(Backoff::none());
    let (recording, _guard) = listen();
    let unit = async |tx: &mut Tx<sqlx::Postgres>| {
        sqlx::query("SELECT $1::int").bind(73_573).execute(&mut *tx).await?;
        Ok::<_, Error>(())
    };
    let deadlock = Faults::new().at(Moment::Statement(1), Fault::Deadlock);
    deadlock.on(&db).named("victim").run(unit).await.expect("the second attempt");
    let lines = recording.lines(Level::INFO);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["victim (", "deadlock (40P01)", "victim, attempt 1", "SELECT $1::int"] {
        assert!(lines[0].contains(part), "{part}: {lines:?}");
    }
    assert!(!lines[0].contains("73573"), "a value that was bound: {lines:?}");
}

/// Once for each observer.
#[tokio::test]
async fn a_panic_of_an_observer_is_logged_once() {
    let (_pool, db) = scene().await;
    let (recording, _guard) = listen();
    let db = db.observed_by(|_: &atomically::Event<'_>| panic!("an observer's panic"));
    db.run(set).await.expect("a commit");
    db.clone().run(set).await.expect("a commit");
    let lines = recording.lines(Level::INFO);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("an observer panicked"), "{lines:?}");
}

/// The log alone must be enough to notice a dead job.
#[tokio::test]
async fn a_dead_job_is_logged_as_an_error() {
    let pool = Sqlite::pool(2).await;
    let queue = Queue::new("mail", &pool).expect("a name").max_attempts(2).backoff(Backoff::none());
    queue.create_tables().await.expect("the tables");
    let add = async || {
        let added = queue.enqueue_alone(NewJob::new("hello").expect("a payload")).await.expect("a job");
        added.id().expect("no duplicate")
    };
    let (recording, _guard) = listen();
    let id = add().await;
    for attempt in 1..=2 {
        let claim = queue.claim(1).await.expect("a claim").remove(0);
        assert_eq!(recording.lines(Level::INFO), [""; 0], "before attempt {attempt} fails");
        claim.fail("sending the receipt: connection refused", Retry::Backoff).await.expect("failed");
    }
    let lines = recording.take("line");
    let dead: Vec<_> = lines.iter().filter(|line| line.level == Level::ERROR).collect();
    assert_eq!(dead.len(), 1, "{lines:?}");
    let wanted = [
        ("queue", "mail".to_owned()),
        ("job", id.to_string()),
        ("kind", "exhausted".to_owned()),
        ("attempts", "2".to_owned()),
        ("error", "sending the receipt: connection refused".to_owned()),
    ];
    for (field, value) in &wanted {
        assert_eq!(&dead[0].fields[field], value, "{field}: {dead:?}");
    }

    // A job whose worker died in its last attempt.
    let lapsed = add().await;
    let spent = format!("UPDATE atomically_job SET attempts = 2, due_at = 1 WHERE id = {lapsed}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(spent)).execute(&*pool).await.expect("spent");
    assert!(queue.claim(1).await.expect("a claim").is_empty());
    let lines = recording.lines(Level::ERROR);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let begin = format!("job {lapsed} of the queue \"mail\" is dead after 2 attempts (lapsed): the lease");
    assert!(lines[0].starts_with(&begin), "{lines:?}");
}

/// The worker fails repeatedly, and logs that once.
#[tokio::test]
async fn missing_tables_are_logged_once() {
    let pool = Sqlite::pool(2).await;
    let queue = Queue::new("mail", &pool).expect("a name");
    let (recording, _guard) = listen();
    let troubles = Arc::new(tokio::sync::Semaphore::new(0));
    let counted = troubles.clone();
    let worker = Worker::new(&queue).handlers(1).poll_every(Duration::from_millis(10));
    let worker = worker.observed_by(move |event: &atomically::Event<'_>| {
        if let atomically::Event::Job { event: JobEvent::Trouble { .. }, .. } = event {
            counted.add_permits(1);
        }
    });
    let three_troubles = async { drop(troubles.acquire_many(3).await.expect("never closed")) };
    worker.run(three_troubles, |_| async { Ok(()) }).await;
    let lines = recording.lines(Level::INFO);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["\"mail\"", "atomically_job", "Queue::create_tables", "Schema::sql"] {
        assert!(lines[0].contains(part), "{part}: {lines:?}");
    }
}
