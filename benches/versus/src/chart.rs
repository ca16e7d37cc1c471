//! Draws the figures as a chart.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::standing::{Panel, Standing};

const WIDTH: u32 = 960;
const COLUMNS: usize = 2;
const MARGIN: i32 = 16;
const TITLE: i32 = 40;
const BAR: i32 = 22;
/// The space for names on the left of the bars, and for figures on the right of the longest bar.
const NAMES: i32 = 176;
const FIGURES: i32 = 64;

const FONT: &str = "sans-serif";
const OURS: RGBColor = RGBColor(37, 99, 235);
const OTHERS: RGBColor = RGBColor(148, 163, 184);
const SERVER: RGBColor = RGBColor(203, 213, 225);
const INK: RGBColor = RGBColor(30, 41, 59);

/// The round-trip times that are drawn. Beyond the first millisecond the ratios hardly change.
const DRAWN: [u64; 2] = [0, 1];

/// Transactions per second, one panel for each workload and distance, and one bar for each contender, longest
/// first.
pub(crate) fn draw(file: &Path, panels: &[Panel]) -> Result<()> {
    let panels: Vec<&Panel> = panels.iter().filter(|panel| DRAWN.contains(&panel.rtt)).collect();
    if panels.is_empty() {
        return Ok(());
    }
    let bars = panels.iter().map(|panel| panel.standings.len()).max().unwrap_or(0);
    let height = TITLE + BAR * i32::try_from(bars)? + MARGIN;
    let rows = panels.len().div_ceil(COLUMNS);
    let total = height.unsigned_abs() * u32::try_from(rows)?;
    let picture = SVGBackend::new(file, (WIDTH, total)).into_drawing_area();
    picture.fill(&WHITE)?;
    for (panel, area) in panels.iter().zip(picture.split_evenly((rows, COLUMNS))) {
        let heading = (FONT, 16).into_font().style(FontStyle::Bold).color(&INK);
        area.draw_text(&format!("{}, per second", panel.title()), &heading, (MARGIN, MARGIN))?;
        bars_of(&area, &panel.standings)?;
    }
    picture.present()?;
    Ok(())
}

fn bars_of(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, standings: &[Standing]) -> Result<()> {
    let mut standings: Vec<&Standing> = standings.iter().collect();
    standings.sort_by(|one, other| other.per_second.total_cmp(&one.per_second));
    let best = standings.first().map_or(1.0, |standing| standing.per_second);
    let (width, _) = area.dim_in_pixel();
    let room = f64::from(i32::try_from(width)? - MARGIN - NAMES - FIGURES);
    let text = (FONT, 13).into_font().color(&INK);
    let name = text.pos(Pos::new(HPos::Right, VPos::Center));
    let figure = text.pos(Pos::new(HPos::Left, VPos::Center));
    for (top, standing) in (TITLE..).step_by(BAR.unsigned_abs() as usize).zip(standings) {
        #[expect(clippy::cast_possible_truncation, reason = "pixels of the picture")]
        let right = NAMES + MARGIN + (room * standing.per_second / best) as i32;
        let color = match &standing.name[..] {
            "pgbench" => SERVER,
            name if name.starts_with("atomically") => OURS,
            _ => OTHERS,
        };
        let middle = top + BAR / 2;
        let bar = Rectangle::new([(NAMES + MARGIN, top + 3), (right, top + BAR - 3)], color.filled());
        area.draw(&bar)?;
        area.draw_text(&standing.name, &name, (NAMES + MARGIN - 6, middle))?;
        area.draw_text(&format!("{:.0}", standing.per_second), &figure, (right + 6, middle))?;
    }
    Ok(())
}
