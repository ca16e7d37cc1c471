//! Draws lines over time, as SVG.

use std::time::{Duration, Instant};

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged as _;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::scale::Scale;
use crate::settings::{Approach, Way};
use crate::timeline::{Point, SPAN, Timeline};

const HEIGHT: u32 = 232;
/// Margins for the texts at the marks and beside the axes.
const ABOVE: i32 = 22;
const BELOW: u32 = 26;
const LEFT: u32 = 58;
const RIGHT: i32 = 14;

const FONT: &str = "sans-serif";
/// Becomes `font-size: 12px`: plotters divides by 1.24.
const SIZE: f64 = 12.0 * 1.24;
/// An upper bound of the average width of a letter; there is no font here to measure it with.
const LETTER: f64 = 6.6;
/// The space between the texts of two marks.
const GAP: i32 = 10;
/// Points that are further apart are not connected, because there were no buyers in between.
const APART: Duration = Duration::from_millis(2500);

// The style sheet replaces these in dark mode.
const INK: RGBColor = RGBColor(85, 85, 85);
const GRID: RGBColor = RGBColor(221, 221, 221);

/// The colour of a strategy, from the palette of Okabe and Ito, which is safe for colour-blind readers.
pub(crate) const fn colour(approach: Approach) -> RGBColor {
    match approach {
        Approach::Pessimistic => RGBColor(0, 114, 178),
        Approach::Optimistic => RGBColor(213, 94, 0),
        Approach::Serializable => RGBColor(204, 121, 167),
        Approach::Atomic => RGBColor(0, 158, 115),
        Approach::Adaptive => RGBColor(230, 159, 0),
    }
}

pub(crate) type Value = fn(&Point) -> Option<f64>;

/// The values that are drawn: a solid line, and optionally a dashed one.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    pub(crate) solid: Value,
    pub(crate) dashed: Option<Value>,
}

impl Lines {
    /// The smallest and the greatest value.
    pub(crate) fn extent(&self, timeline: &Timeline) -> Option<(f64, f64)> {
        let lines = [Some(self.solid), self.dashed].into_iter().flatten();
        let values = lines.flat_map(|value| timeline.points.iter().filter_map(value));
        values.map(|value| (value, value)).reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
    }
}

/// Draws the lines, `width` pixels wide.
pub(crate) fn draw(timeline: &Timeline, lines: Lines, scale: Scale, width: u32) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, HEIGHT)).into_drawing_area();
        let text = (FONT, SIZE).into_font().color(&INK);
        let between = Duration::from_secs(if width < 480 { 20 } else { 10 });
        let bottom = scale.range().start;
        let mut chart = ChartBuilder::on(&area)
            .margin_top(ABOVE)
            .margin_right(RIGHT)
            .x_label_area_size(BELOW)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(Scale::ago(SPAN, between), scale)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .x_label_style(text.clone())
            .y_label_style(text.clone())
            .draw()?;

        for (way, points) in stretches(timeline) {
            let colour = colour(way.strategy);
            for line in pieces(&points, timeline.now, lines.solid) {
                // An area below the line means something only if the axis begins at zero.
                if bottom == 0.0 {
                    chart.draw_series(AreaSeries::new(line.clone(), bottom, colour.mix(0.12)))?;
                }
                chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
            }
            let dashed = lines.dashed.map(|value| pieces(&points, timeline.now, value));
            for line in dashed.into_iter().flatten() {
                chart.draw_series(DashedLineSeries::new(line, 5, 4, colour.stroke_width(2)))?;
            }
        }

        let plot = chart.plotting_area();
        let (across, down) = plot.get_pixel_range();
        if timeline.points.is_empty() {
            let centred = text.pos(Pos::new(HPos::Center, VPos::Center));
            let middle = ((across.start + across.end) / 2, (down.start + down.end) / 2);
            area.draw_text("No purchases yet", &centred, middle)?;
        }
        let marks: Vec<_> = timeline
            .marks
            .iter()
            .map(|mark| {
                let place = (age(mark.at, timeline.now), bottom);
                (plot.map_coordinate(&place).0, mark.what())
            })
            .collect();
        draw_marks(&area, &marks, (across.start, across.end), down.end)?;
        area.present()?;
    }
    Ok(svg)
}

/// Draws a vertical line at each mark, and its text where there is room, the newest first.
fn draw_marks(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    marks: &[(i32, String)],
    (left, right): (i32, i32),
    bottom: i32,
) -> Result<()> {
    let text = (FONT, SIZE).into_font().color(&INK);
    let before = marks.iter().rev().skip(1).map(|(across, _)| *across).chain([left]);
    let mut free = right;
    for ((across, what), before) in marks.iter().rev().zip(before) {
        let line = [(*across, ABOVE - 4), (*across, bottom)];
        area.draw(&DashedPathElement::new(line, 2, 3, INK.stroke_width(1)))?;
        #[expect(clippy::cast_possible_truncation, reason = "pixels of the picture")]
        let wide = (what.chars().count() as f64 * LETTER) as i32;
        // Not so far to the left that it looks like the text of the mark before.
        let starts = (*across - 2).min(free - wide);
        if starts >= before && starts + wide >= *across {
            area.draw_text(what, &text.pos(Pos::new(HPos::Left, VPos::Top)), (starts, 2))?;
            free = starts - GAP;
        }
    }
    Ok(())
}

/// Groups the points by what was chosen.
fn stretches(timeline: &Timeline) -> Vec<(Way, Vec<&Point>)> {
    let mut stretches: Vec<(Way, Vec<&Point>)> = Vec::new();
    for point in &timeline.points {
        let open = stretches.iter_mut().find(|(way, points)| {
            *way == point.way && points.last().is_some_and(|last| point.at - last.at < APART)
        });
        match open {
            Some((_, points)) => points.push(point),
            None => stretches.push((point.way, vec![point])),
        }
    }
    stretches
}

/// Splits the points at those without a value, where the line has a gap.
fn pieces(points: &[&Point], now: Instant, value: Value) -> Vec<Vec<(f64, f64)>> {
    points
        .split(|point| value(point).is_none())
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let places = piece.iter().filter_map(|point| Some((age(point.at, now), value(point)?)));
            places.collect()
        })
        .collect()
}

/// The age in seconds, negative, so that time runs to the right.
fn age(at: Instant, now: Instant) -> f64 {
    -now.saturating_duration_since(at).as_secs_f64()
}
