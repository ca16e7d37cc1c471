//! The observers of a run, and how they are called.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::events::{Event, Observer};

use super::tracing::{log, observer_panicked};

/// The observers of a run.
#[derive(Clone, Default)]
pub(crate) struct Observers(Vec<Watching>);

/// An observer, called so that its panics end nothing else.
#[derive(Clone)]
struct Watching {
    observer: Arc<dyn Observer>,
    has_panicked: Arc<AtomicBool>,
}

impl Watching {
    fn is(&self, other: &Arc<dyn Observer>) -> bool {
        Arc::ptr_eq(&self.observer, other)
    }

    /// `None` where the observer panics. The panic itself was reported by its hook.
    fn call<T>(&self, what: impl FnOnce(&dyn Observer) -> T) -> Option<T> {
        let called = catch_unwind(AssertUnwindSafe(|| what(&*self.observer)));
        if called.is_err() && !self.has_panicked.swap(true, Ordering::Relaxed) {
            observer_panicked();
        }
        called.ok()
    }
}

impl Observers {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These, and the others; nobody twice.
    pub(crate) fn and(&self, others: &Self) -> Self {
        let mut all = self.clone();
        for other in &others.0 {
            all.push(other.clone());
        }
        all
    }

    /// Returns these observers and the one that writes the log.
    pub(crate) fn and_log(&self) -> Self {
        let mut all = self.clone();
        if let Some(log) = log() {
            all.add(log);
        }
        all
    }

    pub(crate) fn add(&mut self, observer: &Arc<dyn Observer>) {
        self.push(Watching { observer: observer.clone(), has_panicked: Arc::default() });
    }

    fn push(&mut self, watching: Watching) {
        if !self.0.iter().any(|known| known.is(&watching.observer)) {
            self.0.push(watching);
        }
    }

    pub(crate) fn want_sessions(&self) -> bool {
        self.0.iter().any(|one| one.call(|observer| observer.wants_sessions()) == Some(true))
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        for one in &self.0 {
            one.call(|observer| observer.observe(event));
        }
    }
}

/// The same if they are the very same ones.
impl PartialEq for Observers {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(one, other)| one.is(&other.observer))
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} observers", self.0.len())
    }
}
