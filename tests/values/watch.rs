//! Collects all output of the crate and searches it for values.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Once};
use std::time::Duration;

use atomically::{Error, Event, Metrics, Observer, Pessimistic, PoolTransactor};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use sqlx::Pool;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::support::TestBackend;

/// All log lines of this process, as target and text.
static LINES: LazyLock<Mutex<Vec<(String, String)>>> = LazyLock::new(Mutex::default);

/// Values that are unique in this process, and the output while they are in use.
#[derive(Clone)]
pub(crate) struct Watch {
    /// A number that is bound, or a key.
    pub(crate) number: i64,
    /// A number that is written into statements.
    pub(crate) literal: i64,
    /// A text that is bound, or a key.
    pub(crate) text: String,
    /// A text that is written into statements.
    pub(crate) literal_text: String,
    events: Arc<Mutex<Vec<String>>>,
    metrics: Arc<Metrics>,
    exporter: PrometheusHandle,
}

impl Watch {
    pub(crate) fn new() -> Self {
        static SUBSCRIBED: Once = Once::new();
        static NEXT: AtomicI64 = AtomicI64::new(471_100);
        SUBSCRIBED.call_once(|| {
            let all = tracing_subscriber::registry().with(LineRecorder);
            tracing::subscriber::set_global_default(all).expect("the only subscriber");
        });
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let recorder = PrometheusBuilder::new().build_recorder();
        let exporter = recorder.handle();
        Self {
            number: 8_000_000_000 + next,
            literal: 9_000_000_000 + next,
            text: format!("bound-{next}@example.org"),
            literal_text: format!("written-{next}@example.org"),
            events: Arc::default(),
            metrics: Arc::new(Metrics::recorded_by(recorder)),
            exporter,
        }
    }

    pub(crate) fn on<DB: TestBackend>(&self, pool: &Pool<DB>) -> PoolTransactor<DB, Pessimistic> {
        Pessimistic::default().on(pool).deadline(Duration::from_secs(120)).observed_by(self.clone())
    }

    fn values(&self) -> [String; 4] {
        [self.number.to_string(), self.literal.to_string(), self.text.clone(), self.literal_text.clone()]
    }

    /// Searches an error and its sources.
    pub(crate) fn check_error(&self, error: &Error) {
        let mut shown = format!("{error}\n{error:?}\n{:?}\n{:?}", error.failure(), error.constraint());
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            write!(shown, "\n{cause}\n{cause:?}").expect("a text");
            source = cause.source();
        }
        self.check("an error", &shown);
    }

    pub(crate) fn check(&self, what: &str, shown: &str) {
        for value in self.values() {
            assert!(!shown.contains(&value), "{what} shows {value}: {shown}");
        }
    }

    /// Searches the events, the metrics and the log lines of the crate, and returns the lines.
    pub(crate) fn check_all(&self) -> Vec<String> {
        let events = self.events.lock().expect("the events").clone();
        assert!(!events.is_empty(), "nothing was observed");
        for event in events {
            self.check("an event", &event);
        }
        self.check("a metric", &self.exporter.render());
        let lines = LINES.lock().expect("the lines").clone();
        let lines: Vec<_> = lines.into_iter().filter(|(target, _)| target == "atomically").collect();
        for (_, line) in &lines {
            self.check("a line", line);
        }
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// Searches the log lines of all targets, sqlx included.
    pub(crate) fn check_lines_of_all_targets(&self) {
        let lines = LINES.lock().expect("the lines").clone();
        assert!(lines.iter().any(|(target, _)| target == "sqlx::query"), "sqlx logged nothing");
        for (target, line) in lines {
            self.check(&format!("a line of {target}"), &line);
        }
    }
}

impl Observer for Watch {
    fn observe(&self, event: &Event<'_>) {
        self.metrics.observe(event);
        self.events.lock().expect("the events").push(format!("{event:?}"));
    }

    fn wants_sessions(&self) -> bool {
        true
    }
}

struct LineRecorder;

impl LineRecorder {
    fn record(metadata: &Metadata<'_>, text: String) {
        LINES.lock().expect("the lines").push((metadata.target().to_owned(), text));
    }
}

struct FieldWriter<'a>(&'a mut String);

impl Visit for FieldWriter<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).expect("a text");
    }
}

impl<S: Subscriber> Layer<S> for LineRecorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, _id: &Id, _context: Context<'_, S>) {
        let mut text = String::new();
        attributes.record(&mut FieldWriter(&mut text));
        Self::record(attributes.metadata(), text);
    }

    fn on_record(&self, _id: &Id, values: &Record<'_>, _context: Context<'_, S>) {
        let mut text = String::new();
        values.record(&mut FieldWriter(&mut text));
        LINES.lock().expect("the lines").push(("atomically".to_owned(), text));
    }

    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        let mut text = String::new();
        event.record(&mut FieldWriter(&mut text));
        Self::record(event.metadata(), text);
    }
}
