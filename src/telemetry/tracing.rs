//! Spans and log lines, where the feature `tracing` is on.
//!
//! Names of fields are OpenTelemetry's, where it has one
//! ([database spans](https://opentelemetry.io/docs/specs/semconv/database/database-spans/),
//! [code attributes](https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/)).

#[cfg(feature = "tracing")]
pub(crate) use with::{Span, within};
#[cfg(feature = "tracing")]
pub(super) use with::{log, observer_panicked};
#[cfg(not(feature = "tracing"))]
pub(crate) use without::{Span, within};
#[cfg(not(feature = "tracing"))]
pub(super) use without::{log, observer_panicked};

#[cfg(feature = "tracing")]
mod with {
    use std::future::Future;
    use std::sync::{Arc, LazyLock};

    use tracing::level_filters::LevelFilter;
    use tracing::{Instrument as _, debug, error, field, info_span, trace, warn};

    use crate::error::Error;
    use crate::events::{Event, Observer, Run, RunOutcome, Summary, UnitEvent};
    use crate::failure::{Failure, FailureKind};

    const WAITS_FOR_ITSELF: &str = "; its pool has no free connection: if the unit waits for one, it waits for itself, and has to \
                                    run its queries on `tx`";

    /// The span of a run, or of an attempt.
    #[derive(Debug, Clone)]
    pub(crate) struct Span(tracing::Span);

    impl Span {
        pub(crate) fn of_unit(run: &Run) -> Option<Self> {
            let span = info_span!(
                target: "atomically",
                "unit",
                otel.name = run.name,
                otel.kind = "client",
                otel.status_code = field::Empty,
                db.system.name = run.database,
                db.operation.name = "transaction",
                code.file.path = run.location.map(|location| location.file()),
                code.line.number = run.location.map(|location| location.line()),
                atomically.unit = run.name,
                atomically.run = run.id,
                atomically.strategy = run.strategy,
                atomically.attempts = field::Empty,
                atomically.outcome = field::Empty,
                "error.type" = field::Empty,
            );
            (!span.is_disabled()).then_some(Self(span))
        }

        pub(crate) fn of_attempt(attempt: u32) -> Option<Self> {
            let span = info_span!(
                target: "atomically",
                "attempt",
                otel.kind = "client",
                otel.status_code = field::Empty,
                atomically.attempt = attempt,
                db.response.status_code = field::Empty,
                "error.type" = field::Empty,
            );
            (!span.is_disabled()).then_some(Self(span))
        }

        /// The attempt failed.
        pub(crate) fn failed(&self, failure: &Failure) {
            self.0.record("otel.status_code", "ERROR");
            self.0.record("error.type", failure.kind().as_str());
            if let Some(code) = failure.code() {
                self.0.record("db.response.status_code", code);
            }
        }

        /// The run has ended.
        pub(crate) fn ended(&self, outcome: RunOutcome, attempts: u32) {
            self.0.record("atomically.outcome", outcome.as_str());
            self.0.record("atomically.attempts", attempts);
            if !matches!(outcome, RunOutcome::Committed | RunOutcome::RolledBack) {
                self.0.record("otel.status_code", "ERROR");
                self.0.record("error.type", outcome.as_str());
            }
        }
    }

    /// Runs a future inside of a span, if there is one.
    pub(crate) async fn within<F: Future>(span: Option<Span>, future: impl FnOnce() -> F) -> F::Output {
        match span {
            // In a box of its own: in place, it would make the future of every run twice as large.
            Some(Span(span)) => Box::pin(future()).instrument(span).await,
            None => future().await,
        }
    }

    /// An observer panicked for the first time. What it said is in the report of the panic.
    pub(in crate::telemetry) fn observer_panicked() {
        error!(
            target: "atomically",
            "an observer panicked: the unit or worker that it observes goes on, and so do the other observers; it is called \
             again for the next event, and further panics of it are not logged"
        );
    }

    /// Returns the observer that writes the log, unless the log is off.
    pub(in crate::telemetry) fn log() -> Option<&'static Arc<dyn Observer>> {
        static LOG: LazyLock<Arc<dyn Observer>> = LazyLock::new(|| Arc::new(Log));
        (LevelFilter::current() >= LevelFilter::ERROR).then(|| &*LOG)
    }

    /// Writes down what happens to units: what somebody has to look at as warnings and errors, the rest for
    /// those who are looking already.
    struct Log;

    impl Observer for Log {
        fn observe(&self, event: &Event<'_>) {
            if let Event::Unit { run, event } = event {
                tell(run, event);
            }
        }

        /// A warning that names one side of a deadlock only is half of one.
        fn wants_sessions(&self) -> bool {
            LevelFilter::current() >= LevelFilter::WARN
        }
    }

    fn tell(run: &Run, event: &UnitEvent<'_>) {
        match *event {
            UnitEvent::StatementDone { sql, idle, took, failure } => trace!(
                target: "atomically",
                idle = ?idle,
                took = ?took,
                db.query.text = sql,
                failure = failure.map(field::display),
                "statement done"
            ),
            UnitEvent::WaitedAtGate { waited } => {
                trace!(target: "atomically", waited = ?waited, "had its turn at the gate")
            }
            UnitEvent::Opened { waited, took } => {
                trace!(target: "atomically", waited = ?waited, took = ?took, "transaction open")
            }
            UnitEvent::Idle { idle, after, pool_exhausted } => {
                let hint = if pool_exhausted { WAITS_FOR_ITSELF } else { "" };
                warn!(
                    target: "atomically",
                    unit = %run,
                    idle = ?idle,
                    db.query.text = after,
                    "{run}: the transaction has been idle for {idle:.1?}, after: {after}{hint}"
                )
            }
            UnitEvent::AttemptFailed { attempt, failure } => failed(run, attempt, failure),
            UnitEvent::BackingOff { delay } => {
                debug!(target: "atomically", unit = %run, delay = ?delay, "another attempt follows")
            }
            UnitEvent::Ended { summary, error } => ended(run, summary, error),
            UnitEvent::Started | UnitEvent::AttemptStarted { .. } => {}
        }
    }

    fn failed(run: &Run, attempt: u32, failure: &Failure) {
        let code = failure.code();
        match (failure.kind(), failure.deadlock()) {
            (FailureKind::Deadlock, Some(report)) => warn!(
                target: "atomically", unit = %run, attempt, db.response.status_code = code,
                "{run}: {failure}\n{report}"
            ),
            (FailureKind::Deadlock, None) => warn!(
                target: "atomically", unit = %run, attempt, db.response.status_code = code, "{run}: {failure}"
            ),
            _ => debug!(
                target: "atomically", unit = %run, attempt, db.response.status_code = code, "{run}: {failure}"
            ),
        }
    }

    fn ended(run: &Run, summary: &Summary, error: Option<&Error>) {
        let Summary { outcome, attempts, elapsed, .. } = summary;
        let (what, error) = (outcome.as_str(), error.map(Error::text));
        match (outcome, error) {
            (RunOutcome::CommitUnknown, Some(error)) => error!(
                target: "atomically", unit = %run, attempts, elapsed = ?elapsed, outcome = what,
                "{run}: {error}"
            ),
            (RunOutcome::Exhausted | RunOutcome::DeadlineExceeded | RunOutcome::BudgetSpent, Some(error)) => {
                warn!(target: "atomically", unit = %run, attempts, elapsed = ?elapsed, outcome = what, "{run}: {error}");
            }
            (_, Some(error)) => {
                debug!(target: "atomically", unit = %run, attempts, elapsed = ?elapsed, outcome = what, "{run}: {error}");
            }
            (_, None) => {
                let ended = match outcome {
                    RunOutcome::RolledBack => "rolled back, because the unit returned an error of its own",
                    RunOutcome::Failed => "failed, and the unit returned an error of its own",
                    RunOutcome::Dropped => "dropped before it ended",
                    _ => what,
                };
                debug!(
                    target: "atomically", unit = %run, attempts, elapsed = ?elapsed, outcome = what,
                    "{run}: {ended}"
                );
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod without {
    use std::convert::Infallible;
    use std::future::Future;

    use std::sync::Arc;

    use crate::events::{Observer, Run, RunOutcome};
    use crate::failure::Failure;

    /// There are no spans.
    #[derive(Debug, Clone)]
    pub(crate) struct Span(Infallible);

    impl Span {
        pub(crate) fn of_unit(_run: &Run) -> Option<Self> {
            None
        }

        pub(crate) fn of_attempt(_attempt: u32) -> Option<Self> {
            None
        }

        pub(crate) fn failed(&self, _failure: &Failure) {
            match self.0 {}
        }

        pub(crate) fn ended(&self, _outcome: RunOutcome, _attempts: u32) {
            match self.0 {}
        }
    }

    pub(in crate::telemetry) fn observer_panicked() {}

    pub(crate) async fn within<F: Future>(_span: Option<Span>, future: impl FnOnce() -> F) -> F::Output {
        future().await
    }

    pub(in crate::telemetry) fn log() -> Option<&'static Arc<dyn Observer>> {
        None
    }
}
