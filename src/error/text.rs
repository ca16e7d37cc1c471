//! What an error says: where, what failed, why, and what to do about it.

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
        if let Some(shown) = self.shown_source().filter(|_| self.0.failure.is_none()) {
            debug.field("source", &shown);
        }
        if let Some(input) = &self.0.input {
            debug.field("input", input);
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
    /// The text without the name of the run, for a line that begins with it.
    pub(crate) const fn text(&self) -> Text<'_> {
        Text(self)
    }
}

/// What failed, why, and what to do about it.
pub(crate) struct Text<'a>(&'a Error);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, failure, spent, swallowed, during, input, .. } = &*self.0.0;
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
                return match (failure, self.0.shown_source(), input) {
                    (Some(failure), ..) => write!(f, "{failure}{}", advice(*kind, failure)),
                    (None, Some(shown), _) => f.write_str(&shown),
                    (None, None, Some(input)) => write!(f, "invalid input: {input}"),
                    (None, None, None) => f.write_str("the unit of work did not commit"),
                };
            }
        }
        match failure {
            Some(failure) => write!(f, ": {failure}{}", advice(*kind, failure)),
            None => f.write_str("; raise the deadline, or make the unit faster"),
        }
    }
}

/// What to do, where neither the kind of the failure nor the server's message says it.
fn advice(kind: ErrorKind, failure: &Failure) -> &'static str {
    match failure.kind() {
        FailureKind::Deadlock => {
            "; lock the rows of a unit in one order everywhere, for example first of all with `tx.lock_rows`"
        }
        FailureKind::StaleVersion => {
            "; other transactions changed the row each time, or there is no such row: check the WHERE, or \
             name what is \
             contended with `on_key`"
        }
        FailureKind::SerializationFailure if kind != ErrorKind::Conflict => {
            "; make the unit shorter, or name what is contended with `on_key`"
        }
        FailureKind::SerializationFailure => "; it may succeed when it is run again",
        FailureKind::Busy => {
            "; another connection is writing: keep units that write short, or give them one key with `on_key`"
        }
        FailureKind::LockTimeout => {
            "; another transaction holds the lock: look for one that is open for long"
        }
        FailureKind::LockNotAvailable => {
            "; another transaction holds the lock, and NOWAIT asks not to wait for it"
        }
        FailureKind::StatementTimeout => "; make the statement faster, or raise the limit",
        FailureKind::ConnectionLost => "; nothing was stored",
        FailureKind::CommitUnknown => {
            "; it may be stored or not: look before you run it again (a unit with `resolve_commits` finds \
             out by itself)"
        }
        FailureKind::Overloaded if kind == ErrorKind::Overloaded => {
            "; try again later, or raise `Gate::queue`"
        }
        FailureKind::Overloaded => "; raise the deadline, or have fewer units contend for one key",
        FailureKind::ReadOnly => "; run it on a server that takes writes, and not as `read_only`",
        FailureKind::Constraint
        | FailureKind::Aborted
        | FailureKind::StaleClaim
        | FailureKind::Unavailable
        | FailureKind::Unsupported
        | FailureKind::Other => "",
    }
}
