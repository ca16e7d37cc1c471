//! Converts durations to the limits that servers accept: whole units, never 0.

use std::time::Duration;

/// Returns a limit in milliseconds, rounded up, because 0 means "no limit" to every server.
///
/// Capped at 31 bits (24 days), the most that servers accept.
pub(crate) fn whole_millis(limit: Duration) -> u128 {
    limit.as_micros().div_ceil(1000).clamp(1, i32::MAX as u128)
}

/// A year, the longest wait that servers accept.
pub(super) const MAX_SECONDS: u64 = 365 * 24 * 60 * 60;

/// Returns a limit in seconds, rounded up, because 0 means "do not wait" to one setting and "no limit" to
/// another.
pub(crate) fn whole_seconds(limit: Duration) -> u64 {
    limit.as_secs().saturating_add(u64::from(limit.subsec_nanos() > 0)).clamp(1, MAX_SECONDS)
}
