//! Formats figures.

use std::time::Duration;

/// Formats a count, with a narrow space between thousands.
pub(crate) fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Formats a number with two significant digits, or all digits before the point.
pub(crate) fn short(number: f64) -> String {
    if number < 9.95 && number != 0.0 { format!("{number:.1}") } else { count(number) }
}

/// Formats a round number for an axis.
pub(crate) fn round(number: f64) -> String {
    if number < 1000.0 { number.to_string() } else { count(number) }
}

/// Formats a power of ten of seconds for an axis.
pub(crate) fn round_time(seconds: f64) -> String {
    let (number, unit) = match seconds {
        ..0.000_9 => (seconds * 1e6, "µs"),
        ..0.9 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    format!("{number:.0}\u{202f}{unit}")
}

pub(crate) fn percent(number: f64) -> String {
    format!("{}\u{202f}%", short(number))
}

pub(crate) fn time(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    match millis {
        ..0.995 => format!("{:.0}\u{202f}µs", millis * 1000.0),
        ..9.95 => format!("{millis:.1}\u{202f}ms"),
        ..999.5 => format!("{millis:.0}\u{202f}ms"),
        _ => format!("{:.1}\u{202f}s", millis / 1000.0),
    }
}
