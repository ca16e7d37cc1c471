//! The axes: positions of values, and labels.

use std::ops::Range;
use std::time::Duration;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;

/// A range, and the labels of the values that have a grid line.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// The position of a value on a linear axis.
    place: fn(f64) -> f64,
    values: Range<f64>,
    lines: Vec<(f64, String)>,
}

impl Scale {
    /// From 0 to the first round number that is not below `most` and `least`.
    pub(crate) fn from_zero(most: f64, least: f64, label: impl Fn(f64) -> String) -> Self {
        let step = most.max(least) / 4.0;
        let power = 10_f64.powf(step.log10().floor());
        let round = [1.0, 2.0, 2.5, 5.0].map(|step| step * power).into_iter().find(|round| *round >= step);
        let step = round.unwrap_or(10.0 * power);
        let lines = [0.0, 1.0, 2.0, 3.0, 4.0].map(|number| number * step);
        Self {
            place: |value| value,
            values: 0.0..4.0 * step,
            lines: lines.map(|value| (value, label(value))).into(),
        }
    }

    /// From the power of ten below `least` to the one above `most`, at least two powers apart.
    pub(crate) fn logarithmic(least: f64, most: f64, label: impl Fn(f64) -> String) -> Self {
        let bottom = least.log10().floor();
        let top = most.log10().ceil().max(bottom + 2.0);
        let powers = (0..16).map(|number| bottom + f64::from(number)).take_while(|power| *power <= top);
        let lines = powers.map(|power| 10_f64.powf(power));
        Self {
            place: f64::log10,
            values: 10_f64.powf(bottom)..10_f64.powf(top),
            lines: lines.map(|value| (value, label(value))).collect(),
        }
    }

    /// From `span` ago until now, in seconds.
    pub(crate) fn ago(span: Duration, between: Duration) -> Self {
        let span = span.as_secs_f64();
        let ages =
            (1..).map(|number| f64::from(number) * between.as_secs_f64()).take_while(|age| *age <= span);
        let past = ages.map(|age| (-age, format!("−{age:.0}\u{202f}s")));
        Self {
            place: |value| value,
            values: -span..0.0,
            lines: past.chain([(0.0, "now".to_owned())]).collect(),
        }
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, pixels: (i32, i32)) -> i32 {
        let ends = (self.place)(self.values.start)..(self.place)(self.values.end);
        RangedCoordf64::from(ends).map(&(self.place)(*value), pixels)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.lines.iter().map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.values.clone()
    }
}

impl ValueFormatter<f64> for Scale {
    /// Called only for values that have a grid line.
    fn format_ext(&self, value: &f64) -> String {
        let line = self.lines.iter().find(|(line, _)| line.to_bits() == value.to_bits());
        line.map(|(_, label)| label.clone()).unwrap_or_default()
    }
}
