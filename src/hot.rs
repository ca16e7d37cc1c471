//! The hot path: contention that costs neither the pool nor the commit.

mod coalesce;

pub use coalesce::{DeltaOutcome, Deltas};
