//! The observers of a run.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::events::{Event, Observer};

use super::tracing::{log, observer_panicked};

/// The observers of a run, without duplicates.
#[derive(Clone, Default)]
pub(crate) struct Observers(Vec<GuardedObserver>);

/// Calls an observer and contains its panics.
#[derive(Clone)]
struct GuardedObserver {
    observer: Arc<dyn Observer>,
    has_panicked: Arc<AtomicBool>,
}

impl GuardedObserver {
    fn is(&self, other: &dyn Observer) -> bool {
        self.observer.address() == other.address()
    }

    /// Returns `None` if the observer panics. The panic itself is reported by the panic hook.
    fn call<T>(&self, method: impl FnOnce(&dyn Observer) -> T) -> Option<T> {
        let result = catch_unwind(AssertUnwindSafe(|| method(&*self.observer)));
        if result.is_err() && !self.has_panicked.swap(true, Ordering::Relaxed) {
            observer_panicked();
        }
        result.ok()
    }
}

impl Observers {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns these observers and `others`.
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
            all.add(log.clone());
        }
        all
    }

    pub(crate) fn add(&mut self, observer: Arc<dyn Observer>) {
        self.push(GuardedObserver { observer, has_panicked: Arc::default() });
    }

    fn push(&mut self, observer: GuardedObserver) {
        if !self.0.iter().any(|known| known.is(&*observer.observer)) {
            self.0.push(observer);
        }
    }

    pub(crate) fn want_sessions(&self) -> bool {
        self.0.iter().any(|observer| observer.call(|observer| observer.wants_sessions()) == Some(true))
    }

    /// Notifies these observers, and the one that writes the log.
    pub(crate) fn notify_and_log(&self, event: &Event<'_>) {
        self.notify(event);
        if let Some(log) = log() {
            log.observe(event);
        }
    }

    pub(crate) fn notify(&self, event: &Event<'_>) {
        for observer in &self.0 {
            observer.call(|observer| observer.observe(event));
        }
    }
}

/// Equal if they are the same observers in the same order.
impl PartialEq for Observers {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(one, other)| one.is(&*other.observer))
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} observers", self.0.len())
    }
}
