//! What callers were told about each operation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use atomically::{Error, ErrorKind};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A transfer under one of the strategies, with a savepoint that is rolled back and a hook.
    Transfer,
    /// A statement of its own.
    Statement,
    /// An addition to a counter.
    Addition,
    /// A request that is sent twice with one idempotency key.
    Request,
    /// A job.
    Job,
    /// A purchase of seats that were held.
    Purchase,
}

/// How the call of an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    Committed,
    /// It is not stored.
    Failed,
    /// It may be stored.
    Unknown,
    /// The caller has dropped the future, so it may be stored.
    GaveUp,
}

impl Answer {
    pub(crate) fn of<T>(result: &Result<T, Error>) -> Self {
        match result {
            Ok(_) => Self::Committed,
            Err(error) if error.is_commit_unknown() => Self::Unknown,
            Err(_) => Self::Failed,
        }
    }
}

/// The answers of all operations.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    next: AtomicI64,
    commits: AtomicU64,
    answers: Mutex<BTreeMap<Kind, BTreeMap<i64, Answer>>>,
    errors: Mutex<BTreeMap<ErrorKindName, u64>>,
    /// The operations whose hook has run, each as often as it has.
    hooks: Mutex<BTreeMap<i64, u32>>,
}

/// `ErrorKind` has no order.
type ErrorKindName = String;

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Returns the number of a new operation.
    pub(crate) fn begin(&self) -> i64 {
        self.next.fetch_add(1, Relaxed) + 1
    }

    pub(crate) fn record(&self, kind: Kind, op: i64, answer: Answer) {
        if answer == Answer::Committed {
            self.commits.fetch_add(1, Relaxed);
        }
        locked(&self.answers).entry(kind).or_default().insert(op, answer);
    }

    /// Records the error that ended a call.
    pub(crate) fn failed(&self, kind: ErrorKind) {
        *locked(&self.errors).entry(format!("{kind:?}")).or_default() += 1;
    }

    pub(crate) fn hook(&self, op: i64) {
        *locked(&self.hooks).entry(op).or_default() += 1;
    }

    /// Counts a commit that is audited elsewhere.
    pub(crate) fn count(&self, commits: u64) {
        self.commits.fetch_add(commits, Relaxed);
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Relaxed)
    }

    pub(crate) fn answers(&self, kind: Kind) -> BTreeMap<i64, Answer> {
        locked(&self.answers).get(&kind).cloned().unwrap_or_default()
    }

    pub(crate) fn hooks(&self) -> BTreeMap<i64, u32> {
        locked(&self.hooks).clone()
    }

    pub(crate) fn errors(&self) -> BTreeMap<ErrorKindName, u64> {
        locked(&self.errors).clone()
    }

    /// How many operations of a kind ended how.
    pub(crate) fn summary(&self) -> BTreeMap<Kind, BTreeMap<Answer, u64>> {
        let mut summary = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (kind, answers) in &*locked(&self.answers) {
            for answer in answers.values() {
                *summary.entry(*kind).or_default().entry(*answer).or_default() += 1;
            }
        }
        summary
    }
}
