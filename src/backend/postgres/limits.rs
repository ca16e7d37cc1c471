//! The limits that a transaction is opened with.

use std::fmt::Write as _;
use std::time::Duration;

use crate::backend::{OwnLockTimeout, whole_millis};
use crate::strategy::{Limits, OwnLockLimit};

/// Behind a text that opens a transaction: the limits that were asked for, and that of the deadline.
pub(super) fn of_statement(limits: &Limits) -> String {
    let on_statements = limits.on_statements();
    // A wait for a lock is a part of its statement.
    let on_locks = limits.on_locks().filter(|limit| on_statements.is_none_or(|longer| *limit < longer));
    let mut sql = String::new();
    for (setting, limit) in [
        ("lock_timeout", on_locks),
        ("statement_timeout", on_statements),
        ("idle_in_transaction_session_timeout", limits.idle),
    ] {
        if let Some(millis) = limit.map(whole_millis) {
            let _ = write!(sql, "; SET LOCAL {setting} = {millis}");
        }
    }
    sql
}

/// The same, with a limit for lock waits that is derived from the deadline where none was asked for: the
/// server reports the limit that is met first, and a wait for a lock is to be reported as one.
///
/// A session may have a shorter limit of its own, which stays. The text cannot compute with it: `SELECT
/// set_config(…)` would take the snapshot of a transaction at REPEATABLE READ before the unit has begun, and
/// `SET` takes no expression. `SHOW` takes no snapshot; so the text returns what was set before, where the
/// session has not reported it already, and a [wrong guess](own_lock_timeout) is corrected.
pub(super) fn of_transaction(limits: &Limits) -> String {
    let asked_for = of_statement(limits);
    match limits.derived_on_locks() {
        None => asked_for,
        Some(derived) => {
            let millis = whole_millis(no_longer_than(limits.own_lock.limit(), derived));
            let show =
                if matches!(limits.own_lock, OwnLockLimit::Known(_)) { "" } else { "; SHOW lock_timeout" };
            format!("{show}; SET LOCAL lock_timeout = {millis}{asked_for}")
        }
    }
}

/// Reads what `SHOW` returned, and corrects a wrong guess by one more round trip, which the next transaction
/// on the pool does without.
pub(super) fn own_lock_timeout(limits: &Limits, answers: &[String]) -> Option<OwnLockTimeout> {
    let derived = limits.derived_on_locks()?;
    let limit = duration(answers.first()?)?;
    let limit = Some(limit).filter(|limit| !limit.is_zero());
    let [set, wanted] =
        [limits.own_lock.limit(), limit].map(|own| whole_millis(no_longer_than(own, derived)));
    let correction = (set != wanted).then(|| format!("SET LOCAL lock_timeout = {wanted}"));
    Some(OwnLockTimeout { limit, correction })
}

fn no_longer_than(own: Option<Duration>, derived: Duration) -> Duration {
    own.map_or(derived, |own| own.min(derived))
}

/// A setting as the server shows it: a number and its unit, milliseconds where it has none.
fn duration(shown: &str) -> Option<Duration> {
    let unit = shown.find(|c: char| !c.is_ascii_digit()).unwrap_or(shown.len());
    let number: u64 = shown[..unit].parse().ok()?;
    let millis = match &shown[unit..] {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.saturating_mul(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_every_unit() {
        for (shown, millis) in [("0", 0), ("150ms", 150), ("2s", 2000), ("1min", 60_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(shown), Some(Duration::from_millis(millis)), "{shown}");
        }
        assert_eq!(duration("on"), None);
    }

    #[test]
    fn a_session_is_asked_for_its_own_limit_once() {
        let text = |own_lock| {
            of_transaction(&Limits { left: Some(Duration::from_secs(10)), own_lock, ..Limits::default() })
        };
        let limits = "SET LOCAL lock_timeout = 9900; SET LOCAL statement_timeout = 10000";
        assert_eq!(text(OwnLockLimit::Likely(None)), format!("; SHOW lock_timeout; {limits}"));
        assert_eq!(text(OwnLockLimit::Known(None)), format!("; {limits}"));
    }

    #[test]
    fn a_limit_that_was_set_in_ignorance_is_corrected() {
        let limits = |own_lock| Limits {
            left: Some(Duration::from_secs(10)),
            own_lock: OwnLockLimit::Likely(own_lock),
            ..Limits::default()
        };
        let correction = |own_lock, shown: &str| {
            own_lock_timeout(&limits(own_lock), &[shown.to_owned()]).expect("an answer").correction
        };
        let (short, set) =
            (Some(Duration::from_millis(150)), |millis| Some(format!("SET LOCAL lock_timeout = {millis}")));
        assert_eq!(correction(None, "0"), None);
        assert_eq!(correction(None, "1min"), None, "a longer one does not matter");
        assert_eq!(correction(None, "150ms"), set(150));
        assert_eq!(correction(short, "150ms"), None);
        assert_eq!(correction(short, "0"), set(9900));
    }
}
