//! The texts of errors: where, what failed, why, and what to do about it.

use std::fmt;

use super::{Error, ErrorKind, Inner, RunLabel, Spent};
use crate::failure::{Failure, FailureKind};

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("failure", &self.0.failure);
        if let Some(Spent { attempts, elapsed }) = self.0.spent {
            debug.field("attempts", &attempts).field("elapsed", &elapsed);
        }
        if let Some(during) = self.0.during {
            debug.field("during", &during);
        }
        if let Some(text) = &self.0.text {
            debug.field("source", text);
        }
        if let Some(RunLabel { name, .. }) = self.0.run {
            debug.field("run", &name);
        }
        debug.finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(run) = &self.0.run {
            write!(f, "{run}: ")?;
        }
        self.text().fmt(f)
    }
}

impl fmt::Display for RunLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.location {
            Some(location) => write!(f, " ({}:{})", location.file(), location.line()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.attempts == 1 { "" } else { "s" };
        write!(f, "{} attempt{plural} in {:.1?}", self.attempts, self.elapsed)
    }
}

impl Error {
    /// Returns the text without the name of the run, for a log line that begins with it.
    pub(crate) const fn text(&self) -> Text<'_> {
        Text(self)
    }

    /// Returns the text of an error that has no failure, without what its run had used.
    pub(super) fn text_without_failure(&self) -> &str {
        match (&self.0.text, self.0.kind) {
            (Some(text), _) => text,
            (None, ErrorKind::DeadlineExceeded) => "the deadline passed",
            (None, _) => "the unit of work did not commit",
        }
    }
}

/// Displays what failed, why, and what to do about it.
pub(crate) struct Text<'a>(&'a Error);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, failure, spent, swallowed, during, .. } = &*self.0.0;
        match (kind, spent) {
            (ErrorKind::Exhausted, Some(spent)) => write!(f, "gave up after {spent}")?,
            (ErrorKind::DeadlineExceeded, Some(spent)) => {
                write!(f, "deadline passed after {spent}")?;
                if let Some(during) = during {
                    write!(f, ", while it waited {during}")?;
                }
            }
            (ErrorKind::BudgetSpent, Some(spent)) => write!(f, "retry budget spent after {spent}")?,
            _ if *swallowed => {
                f.write_str(
                    "the unit of work returned Ok, but a statement had failed and nothing was stored",
                )?;
            }
            _ => {
                return match failure {
                    Some(failure) => write!(f, "{failure}{}", advice(*kind, failure)),
                    None => f.write_str(self.0.text_without_failure()),
                };
            }
        }
        match failure {
            Some(failure) => write!(f, ": {failure}{}", advice(*kind, failure)),
            None => f.write_str("; raise the deadline, or make the unit faster"),
        }
    }
}

/// Returns what to do, unless the kind of the failure or the server's message says so already.
fn advice(kind: ErrorKind, failure: &Failure) -> &'static str {
    match failure.kind() {
        FailureKind::Deadlock => {
            "; lock rows in the same order in every unit, for example with `tx.lock_rows` at its start"
        }
        FailureKind::StaleVersion => {
            "; other transactions changed the row each time, or it does not exist: check the WHERE, or name \
             the contended row with `on_key`"
        }
        FailureKind::SerializationFailure if kind != ErrorKind::Conflict => {
            "; make the unit shorter, or name the contended rows with `on_key`"
        }
        FailureKind::SerializationFailure => "; the unit may succeed if it is run again",
        FailureKind::Busy => {
            "; another connection is writing: keep writing units short, or give them one key with `on_key`"
        }
        FailureKind::LockTimeout => {
            "; another transaction holds the lock: look for one that has been open for long"
        }
        FailureKind::LockNotAvailable => {
            "; another transaction holds the lock, and NOWAIT does not wait for it"
        }
        FailureKind::StatementTimeout => "; make the statement faster, or raise the limit",
        FailureKind::ConnectionLost => "; nothing was stored",
        FailureKind::CommitUnknown => {
            "; it may be stored or not: check before you run it again (with `resolve_commits` a unit \
             checks by itself)"
        }
        FailureKind::Overloaded if kind == ErrorKind::Overloaded => {
            "; try again later, or raise `Gate::queue`"
        }
        FailureKind::Overloaded => "; raise the deadline, or let fewer units contend for one key",
        FailureKind::ReadOnly => "; run the unit on a server that accepts writes, and not as `read_only`",
        FailureKind::Constraint
        | FailureKind::Aborted
        | FailureKind::StaleClaim
        | FailureKind::Unavailable
        | FailureKind::Unsupported
        | FailureKind::InvalidInput
        | FailureKind::Other => "",
    }
}
