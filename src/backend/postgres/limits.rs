//! The limits of a transaction or a statement.

use std::fmt::Write as _;
use std::time::Duration;

use crate::backend::limits::whole_millis;
use crate::backend::transaction::OwnLockTimeout;
use crate::strategy::{Limits, OwnLockLimit};

/// Returns the statements, each after a semicolon, that set the requested limits and the limit of the
/// deadline.
pub(super) fn of_statement(limits: &Limits) -> String {
    let mut sql = String::new();
    set_in_statement(&mut sql, limits);
    sql
}

fn set_in_statement(sql: &mut String, limits: &Limits) {
    let on_statements = limits.on_statements();
    // The limit of the statement includes its waits for locks.
    let on_locks = limits.on_locks().filter(|limit| on_statements.is_none_or(|longer| *limit < longer));
    for (setting, limit) in [
        ("lock_timeout", on_locks),
        ("statement_timeout", on_statements),
        ("idle_in_transaction_session_timeout", limits.idle),
    ] {
        if let Some(millis) = limit.map(whole_millis) {
            set_local(sql, setting, millis);
        }
    }
}

/// Only the number is formatted, because every transaction has such statements.
fn set_local(sql: &mut String, setting: &str, millis: u128) {
    sql.push_str("; SET LOCAL ");
    sql.push_str(setting);
    sql.push_str(" = ");
    // The number always fits: `whole_millis` returns no more than `i32::MAX`.
    let _ = write!(sql, "{}", u32::try_from(millis).unwrap_or(u32::MAX));
}

/// Appends the statements of [`of_statement`], with a lock timeout that is derived from the deadline if none
/// is requested. It is shorter than the statement timeout, so that the server reports a wait for a lock as
/// such.
///
/// The session's own lock timeout stays if it is shorter. The opening cannot compare the two: `SELECT
/// set_config(…)` would take the snapshot of a transaction at REPEATABLE READ before the unit begins, and
/// `SET` accepts no expression. `SHOW` takes no snapshot, so the opening returns the session's own timeout,
/// unless the session has reported it before, and [`own_lock_timeout`] corrects the setting if necessary.
pub(super) fn set_in_transaction(sql: &mut String, limits: &Limits) {
    if let Some(derived) = limits.derived_on_locks() {
        let millis = whole_millis(no_longer_than(limits.own_lock.limit(), derived));
        if !matches!(limits.own_lock, OwnLockLimit::Known(_)) {
            sql.push_str("; SHOW lock_timeout");
        }
        set_local(sql, "lock_timeout", millis);
    }
    set_in_statement(sql, limits);
}

/// Reads the result of `SHOW`, and returns how to correct the lock timeout that was set without knowing it.
/// The correction costs a round trip once; the next transaction knows the session's timeout.
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

/// Parses a setting: a number and its unit. Without a unit, the number is in milliseconds.
fn duration(setting: &str) -> Option<Duration> {
    let unit = setting.find(|c: char| !c.is_ascii_digit()).unwrap_or(setting.len());
    let number: u64 = setting[..unit].parse().ok()?;
    let millis = match &setting[unit..] {
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
    fn settings_are_parsed_in_every_unit() {
        for (setting, millis) in
            [("0", 0), ("150ms", 150), ("2s", 2000), ("1min", 60_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(setting), Some(Duration::from_millis(millis)), "{setting}");
        }
        assert_eq!(duration("on"), None);
    }

    #[test]
    fn a_session_reports_its_own_lock_timeout_once() {
        let text = |own_lock| {
            let mut sql = String::new();
            let limits = Limits { left: Some(Duration::from_secs(10)), own_lock, ..Limits::default() };
            set_in_transaction(&mut sql, &limits);
            sql
        };
        let limits = "SET LOCAL lock_timeout = 9900; SET LOCAL statement_timeout = 10000";
        assert_eq!(text(OwnLockLimit::Likely(None)), format!("; SHOW lock_timeout; {limits}"));
        assert_eq!(text(OwnLockLimit::Known(None)), format!("; {limits}"));
    }

    #[test]
    fn a_lock_timeout_is_corrected_if_the_sessions_own_is_shorter() {
        let limits = |own_lock| Limits {
            left: Some(Duration::from_secs(10)),
            own_lock: OwnLockLimit::Likely(own_lock),
            ..Limits::default()
        };
        let correction = |own_lock, setting: &str| {
            own_lock_timeout(&limits(own_lock), &[setting.to_owned()]).expect("an answer").correction
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
