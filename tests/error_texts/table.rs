//! Records the texts of failures, and removes what differs between runs.

use std::fmt::{self, Write as _};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{Backend, PoolTransactor, Strategy, TransactorExt as _, With};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// The texts that were recorded so far.
pub(crate) struct Table {
    text: String,
    /// The name of the file that they are compared with, and its content.
    file: String,
    snapshot: String,
    log: Log,
    _subscription: tracing::subscriber::DefaultGuard,
}

/// The crate's log lines of this thread, from level debug upwards.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Message(Option<String>);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let (target, level) = (event.metadata().target(), *event.metadata().level());
        if target != "atomically" || level > tracing::Level::DEBUG {
            return;
        }
        let mut message = Message(None);
        event.record(&mut message);
        // The further lines of a deadlock report contain ids of the server.
        let text = message.0.unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        // Whether another run commits meanwhile depends on timing.
        if line != "another attempt follows" && !line.ends_with(": committed") {
            self.0.lock().expect("the log").push(format!("{:5} {line}", level.to_string().to_lowercase()));
        }
    }
}

/// Names the unit under test; its log lines and errors begin with the name.
pub(crate) fn checkout<DB: Backend, S: Strategy>(
    db: &PoolTransactor<DB, S>,
) -> With<'_, PoolTransactor<DB, S>> {
    db.named("checkout")
}

impl Table {
    pub(crate) fn new<DB: Backend>(name: &str) -> Self {
        let log = Log::default();
        let subscriber = tracing_subscriber::registry().with(log.clone());
        let subscription = tracing::subscriber::set_default(subscriber);
        let text = format!("What a failure on {} says: the error, and the lines of the log.\n", DB::NAME);
        let file = format!("{}/tests/snapshots/errors.{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let snapshot = std::fs::read_to_string(&file).unwrap_or_default();
        Self { text, file, snapshot, log, _subscription: subscription }
    }

    /// Records the error of a run, and its log lines.
    pub(crate) async fn record<T, E: fmt::Display>(
        &mut self,
        what: &str,
        run: impl Future<Output = Result<T, E>>,
    ) {
        self.log.0.lock().expect("the log").clear();
        let error = run.await.err().unwrap_or_else(|| panic!("{what}: it succeeded"));
        self.note(what, &error);
    }

    /// Like [`record`](Self::record), for a run with a short limit, which a busy machine lets pass elsewhere
    /// as well: it is repeated until its text is that of the snapshot.
    pub(crate) async fn record_in_time<T, E: fmt::Display>(
        &mut self,
        what: &str,
        run: impl AsyncFn() -> Result<T, E>,
    ) {
        let before = self.text.len();
        for _ in 0..10 {
            self.text.truncate(before);
            self.record(what, run()).await;
            let entry = &self.text[before..];
            let expected = self.snapshot.split_once(entry);
            if is_updated() || expected.is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('\n')) {
                return;
            }
            // Until what this round has learned about the server is too old for the next one.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Like [`record`](Self::record), for a run whose deadline a busy machine lets pass elsewhere as well: it
    /// is repeated until its error contains this part. Lines of level debug are left out, because their
    /// number depends on the machine.
    pub(crate) async fn record_usual<T, E: fmt::Display>(
        &mut self,
        what: &str,
        part: &str,
        run: impl AsyncFn() -> Result<T, E>,
    ) {
        for _ in 0..20 {
            self.log.0.lock().expect("the log").clear();
            let error = run().await.err().unwrap_or_else(|| panic!("{what}: it succeeded"));
            if error.to_string().contains(part) {
                self.log.0.lock().expect("the log").retain(|line| !line.starts_with("debug"));
                return self.note(what, &error);
            }
        }
        panic!("{what}: no error contains {part:?}");
    }

    /// Like [`record`](Self::record), for mistakes on some databases only.
    pub(crate) async fn record_if_it_fails<T, E: fmt::Display>(
        &mut self,
        what: &str,
        run: impl Future<Output = Result<T, E>>,
    ) {
        self.log.0.lock().expect("the log").clear();
        if let Err(error) = run.await {
            self.note(what, &error);
        }
    }

    fn note(&mut self, what: &str, error: &dyn fmt::Display) {
        let _ = writeln!(self.text, "\n{what}\n    error {}", stable(&error.to_string()));
        let mut lines: Vec<String> = Vec::new();
        for line in self.log.0.lock().expect("the log").drain(..) {
            let line = stable(&line);
            // Repeated by further attempts.
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        for line in lines {
            let _ = writeln!(self.text, "    {line}");
        }
    }

    pub(crate) fn compare(self) {
        let Self { text, file, mut snapshot, .. } = self;
        if is_updated() {
            std::fs::write(&file, &text).expect("write the snapshot");
            snapshot.clone_from(&text);
        }
        if let Some((is, was)) = text.lines().zip(snapshot.lines()).find(|(is, was)| is != was) {
            panic!(
                "differs from {file}; review the change, and accept it with UPDATE_SNAPSHOTS=1:\n\
                 - {was}\n\
                 + {is}"
            );
        }
        assert_eq!(text.lines().count(), snapshot.lines().count(), "{file} has other entries");
    }
}

fn is_updated() -> bool {
    std::env::var_os("UPDATE_SNAPSHOTS").is_some()
}

/// Replaces ports, durations, line numbers, names of databases and files, and error numbers of the
/// operating system.
fn stable(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        words.push(stable_word(word));
    }
    let text = words.join(" ");
    let text = without(&text, " (os error ", ")");
    // The pool counts a connection that is being opened.
    let text = (0..=3).fold(text, |text, open| text.replace(&format!("(pool: {open} of"), "(pool: N of"));
    // The number of attempts within a deadline depends on the machine.
    match text.split_once("deadline passed after ") {
        Some((front, rest)) => match rest.split_once(" in ") {
            Some((_, rest)) => format!("{front}deadline passed after N attempts in {rest}"),
            None => text,
        },
        None => text,
    }
}

fn stable_word(word: &str) -> String {
    let trimmed = word.trim_end_matches([',', ';', ':', ')', '.', '\'', '"']);
    let end = &word[trimmed.len()..];
    let start_of_core = trimmed.len() - trimmed.trim_start_matches(['(', '\'', '"', '`']).len();
    let (start, core) = trimmed.split_at(start_of_core);
    let core = if is_duration(core) {
        String::from("TIME")
    } else if let Some(rest) = core.strip_prefix("127.0.0.1:").filter(|port| is_number(port)) {
        format!("127.0.0.1:{}", "P".repeat(usize::from(!rest.is_empty())))
    } else if let Some((file, _)) =
        core.rsplit_once(':').filter(|(file, line)| is_number(line) && file.ends_with(".rs"))
    {
        format!("{file}:LINE")
    } else if core.starts_with('/') && core.ends_with(".db") {
        String::from("FILE")
    } else {
        core.split('.').map(stable_name).collect::<Vec<_>>().join(".")
    };
    format!("{start}{core}{end}")
}

/// Replaces names of test databases, which look like `t12_3`.
fn stable_name(name: &str) -> String {
    let bare = name.trim_matches(['`', '\'', '"', '(', ')', ',']);
    let is_database = bare
        .strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(process, number)| is_number(process) && is_number(number));
    if is_database { name.replace(bare, "DATABASE") } else { name.to_owned() }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

fn is_duration(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    unit.len() < text.len()
        && ["ns", "µs", "ms", "s"].contains(&unit)
        && text.starts_with(|c: char| c.is_ascii_digit())
}

fn without(text: &str, from: &str, to: &str) -> String {
    let mut rest = text;
    let mut left = String::new();
    while let Some((front, after)) = rest.split_once(from) {
        left.push_str(front);
        rest = after.split_once(to).map_or("", |(_, after)| after);
    }
    left + rest
}
