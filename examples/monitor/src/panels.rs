//! The four charts: what each of them shows, and its current value as text.

use std::time::Duration;

use anyhow::Result;

use crate::chart::{self, Lines};
use crate::figures::{count, percent, round, round_time, short, time};
use crate::scale::Scale;
use crate::timeline::Timeline;

/// A chart with its heading.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    /// The value of the last second.
    pub(crate) now: String,
    pub(crate) svg: String,
}

/// All charts, each `width` pixels wide.
pub(crate) fn all(timeline: &Timeline, width: u32) -> Result<[Panel; 4]> {
    let last = timeline.last();
    Ok([
        panel(
            ("Throughput", "purchases per second"),
            last.map(|point| format!("{}/s", count(point.per_second))),
            (Lines { solid: |point| Some(point.per_second), dashed: None }, timeline, width),
            |_, most| Scale::from_zero(most, 4.0, round),
        )?,
        panel(
            ("Conflict rate", "attempts lost to other transactions"),
            last.and_then(|point| point.conflict_rate).map(percent),
            (Lines { solid: |point| point.conflict_rate, dashed: None }, timeline, width),
            |_, _| Scale::from_zero(100.0, 100.0, |value| format!("{value}\u{202f}%")),
        )?,
        panel(
            ("Attempts", "for each purchase, on average"),
            last.and_then(|point| point.attempts_each).map(short),
            (Lines { solid: |point| point.attempts_each, dashed: None }, timeline, width),
            |_, most| Scale::from_zero(most, 2.0, round),
        )?,
        panel(
            ("Latency", "of purchases: p50, and p99 dashed"),
            last.and_then(|point| Some(format!("{} / {}", time(point.p50?), time(point.p99?)))),
            (
                Lines { solid: |point| seconds(point.p50), dashed: Some(|point| seconds(point.p99)) },
                timeline,
                width,
            ),
            |least, most| Scale::logarithmic(least, most, round_time),
        )?,
    ])
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64().max(1e-6))
}

fn panel(
    (title, unit): (&'static str, &'static str),
    now: Option<String>,
    (lines, timeline, width): (Lines, &Timeline, u32),
    scale: impl Fn(f64, f64) -> Scale,
) -> Result<Panel> {
    let (least, most) = lines.extent(timeline).unwrap_or((0.001, 0.1));
    let now = now.unwrap_or_else(|| "–".to_owned());
    let svg = chart::draw(timeline, lines, scale(least, most), width)?;
    Ok(Panel { title, unit, now, svg })
}
