//! Measures runs, reports their events to observers, and turns events into logs, spans and metrics.

#[cfg(feature = "metrics")]
mod metrics;
mod attempt_log;
mod observers;
mod run_clock;
mod sessions;
mod tracing;
mod watched;

#[cfg(feature = "metrics")]
pub use metrics::Metrics;
pub(crate) use observers::Observers;
pub(crate) use run_clock::{RunClock, counted};
pub(crate) use tracing::within;
pub(crate) use watched::watched;
