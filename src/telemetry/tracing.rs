//! Spans and log events, with the feature `tracing`.
//!
//! Field names follow OpenTelemetry where it defines one ([database
//! spans](https://opentelemetry.io/docs/specs/semconv/database/database-spans/), [code
//! attributes](https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/)).

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
    use crate::events::{
        Event, HoldEvent, LeaseEvent, Observer, PurgeEvent, Run, RunOutcome, Summary, UnitEvent,
    };
    use crate::failure::{Failure, FailureKind};

    const WAITS_FOR_ITSELF: &str = "; all connections of its pool are in use: if the unit runs a query on \
                                    the pool, it waits for itself; run it on `tx` instead";

    /// The span of a run or of an attempt.
    #[derive(Debug, Clone)]
    pub(crate) struct Span(tracing::Span);

    impl Span {
        /// Creates the span of a run.
        ///
        /// Subscribers that print lines repeat the fields of the span in each line. So those that only a
        /// trace needs are recorded at the end.
        pub(crate) fn of_unit(run: &Run) -> Option<Self> {
            let span = info_span!(
                target: "atomically",
                "unit",
                otel.name = run.name,
                otel.kind = "client",
                otel.status_code = field::Empty,
                db.system.name = field::Empty,
                db.operation.name = field::Empty,
                code.file.path = field::Empty,
                code.line.number = field::Empty,
                atomically.unit = field::Empty,
                atomically.run = run.id,
                atomically.strategy = field::Empty,
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

        /// Records the failure of the attempt.
        pub(crate) fn failed(&self, failure: &Failure) {
            self.0.record("otel.status_code", "ERROR");
            self.0.record("error.type", failure.kind().as_str());
            if let Some(code) = failure.code() {
                self.0.record("db.response.status_code", code);
            }
        }

        /// Records the run and its outcome.
        pub(crate) fn ended(&self, run: &Run, outcome: RunOutcome, attempts: u32) {
            self.0.record("db.system.name", run.database);
            self.0.record("db.operation.name", "transaction");
            if let Some(location) = run.location {
                self.0.record("code.file.path", location.file());
                self.0.record("code.line.number", location.line());
            }
            self.0.record("atomically.unit", run.name);
            self.0.record("atomically.strategy", run.strategy);
            self.0.record("atomically.outcome", outcome.as_str());
            self.0.record("atomically.attempts", attempts);
            if !matches!(outcome, RunOutcome::Committed | RunOutcome::RolledBack | RunOutcome::Replayed) {
                self.0.record("otel.status_code", "ERROR");
                self.0.record("error.type", outcome.as_str());
            }
        }
    }

    /// Runs a future in a span, if there is one.
    pub(crate) async fn within<F: Future>(span: Option<Span>, future: impl FnOnce() -> F) -> F::Output {
        match span {
            // Boxed, because it would double the size of every run's future.
            Some(Span(span)) => Box::pin(future()).instrument(span).await,
            None => future().await,
        }
    }

    /// Logs the first panic of an observer. The panic hook reports its message.
    pub(in crate::telemetry) fn observer_panicked() {
        error!(
            target: "atomically",
            "an observer panicked: the observed unit or worker and the other observers are not affected; \
             the observer is called again for the next event, and its further panics are not logged"
        );
    }

    /// Returns the observer that writes the log, unless the log is off.
    pub(in crate::telemetry) fn log() -> Option<&'static Arc<dyn Observer>> {
        static LOG: LazyLock<Arc<dyn Observer>> = LazyLock::new(|| Arc::new(LogObserver));
        (LevelFilter::current() >= LevelFilter::ERROR).then(|| &*LOG)
    }

    /// Logs the events of units: those that need attention as warnings and errors, the others as debug and
    /// trace events.
    struct LogObserver;

    impl Observer for LogObserver {
        fn observe(&self, event: &Event<'_>) {
            match event {
                Event::Unit { run, event } => log_event(run, event),
                Event::Purge { event } => log_purge(event),
                Event::Lease { lease, event } => log_lease(lease, event),
                Event::Hold { column, event } => log_hold(column, event),
                _ => {}
            }
        }

        /// A warning about a deadlock should name both sides.
        fn wants_sessions(&self) -> bool {
            LevelFilter::current() >= LevelFilter::WARN
        }
    }

    fn log_event(run: &Run, event: &UnitEvent<'_>) {
        match *event {
            UnitEvent::StatementDone { sql, idle, took, failure } => trace!(
                target: "atomically",
                idle = ?idle,
                took = ?took,
                db.query.text = sql,
                failure = failure.map(field::display),
                "statement ended"
            ),
            UnitEvent::WaitedAtGate { waited } => {
                trace!(target: "atomically", waited = ?waited, "admitted by the gate")
            }
            UnitEvent::Opened { waited, took } => {
                trace!(target: "atomically", waited = ?waited, took = ?took, "transaction opened")
            }
            UnitEvent::Idle { idle, after, pool_exhausted } => {
                let hint = if pool_exhausted { WAITS_FOR_ITSELF } else { "" };
                warn!(
                    target: "atomically",
                    "{run}: the transaction has been idle for {idle:.1?}, after: {after}{hint}"
                )
            }
            UnitEvent::AttemptFailed { attempt, failure } => log_failure(run, attempt, failure),
            UnitEvent::BackingOff { delay } => {
                debug!(target: "atomically", delay = ?delay, "another attempt follows")
            }
            UnitEvent::Ended { summary, error } => log_end(run, summary, error),
            UnitEvent::Started | UnitEvent::AttemptStarted { .. } => {}
        }
    }

    fn log_lease(lease: &str, event: &LeaseEvent<'_>) {
        match event {
            LeaseEvent::Lost { token } => warn!(
                target: "atomically", lease, token,
                "the lease {lease:?} is lost: it has another holder, or could not be renewed in time"
            ),
            LeaseEvent::RenewalFailed { token, error } => warn!(
                target: "atomically", lease, token,
                "the lease {lease:?} could not be renewed, and the renewal is repeated: {error}"
            ),
            LeaseEvent::Acquired { token } => {
                debug!(target: "atomically", lease, token, "the lease {lease:?} is held");
            }
            LeaseEvent::Released { token } => {
                debug!(target: "atomically", lease, token, "the lease {lease:?} is released");
            }
        }
    }

    fn log_hold(column: &str, event: &HoldEvent<'_>) {
        match event {
            HoldEvent::TooLate { id } => warn!(
                target: "atomically", column, id,
                "the hold {id} of {column} cannot be confirmed: it has expired or was released"
            ),
            HoldEvent::SweepFailed { error } => warn!(
                target: "atomically", column,
                "expired holds of {column} could not be given back, which is tried again: {error}"
            ),
            HoldEvent::Expired { holds } => {
                debug!(target: "atomically", column, holds, "{holds} holds of {column} have expired");
            }
            _ => {}
        }
    }

    fn log_purge(event: &PurgeEvent<'_>) {
        match *event {
            PurgeEvent::Deleted { table, rows } => {
                debug!(target: "atomically", table = table.as_str(), rows, "purged")
            }
            PurgeEvent::Failed { table, error } => {
                let table = table.as_str();
                warn!(target: "atomically", table, "could not purge {table}: {}", error.text());
            }
        }
    }

    fn log_failure(run: &Run, attempt: u32, failure: &Failure) {
        match (failure.kind(), failure.deadlock()) {
            (FailureKind::Deadlock, Some(report)) => {
                warn!(target: "atomically", attempt, "{run}: {failure}\n{report}");
            }
            (FailureKind::Deadlock, None) => warn!(target: "atomically", attempt, "{run}: {failure}"),
            _ => debug!(target: "atomically", attempt, "{run}: {failure}"),
        }
    }

    /// The text says how many attempts there were, and how long they took.
    fn log_end(run: &Run, summary: &Summary, error: Option<&Error>) {
        let Summary { outcome, .. } = summary;
        let what = outcome.as_str();
        match (outcome, error.map(Error::text)) {
            (RunOutcome::CommitUnknown, Some(error)) => {
                error!(target: "atomically", outcome = what, "{run}: {error}");
            }
            (RunOutcome::Exhausted | RunOutcome::DeadlineExceeded | RunOutcome::BudgetSpent, Some(error)) => {
                warn!(target: "atomically", outcome = what, "{run}: {error}");
            }
            (_, Some(error)) => debug!(target: "atomically", outcome = what, "{run}: {error}"),
            (_, None) => {
                let ended = match outcome {
                    RunOutcome::RolledBack => "rolled back, because the unit returned an error of its own",
                    RunOutcome::Replayed => "returned the stored response of an earlier request",
                    RunOutcome::Failed => "failed, and the unit returned an error of its own",
                    RunOutcome::Dropped => "dropped before it ended",
                    _ => what,
                };
                let Summary { attempts, elapsed, .. } = summary;
                debug!(target: "atomically", attempts, elapsed = ?elapsed, "{run}: {ended}");
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

    /// Stands in for a span without the feature `tracing`. It is never constructed.
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

        pub(crate) fn ended(&self, _run: &Run, _outcome: RunOutcome, _attempts: u32) {
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
