//! Displays advice for people.

use std::fmt;

use super::advice::{Advice, AdviceCell};

const HEADER: [&str; 9] =
    ["units", "strategy", "schedules", "wrong", "anomaly", "wasted", "waits", "waited", "round trips"];

/// The columns that hold numbers.
const NUMBERS: [usize; 6] = [2, 3, 5, 6, 7, 8];

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = HEADER.map(str::to_owned);
        let rows: Vec<[String; 9]> = [header].into_iter().chain(self.cells.iter().map(fields)).collect();
        let widths: [usize; 9] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        });
        for (number, row) in rows.iter().enumerate() {
            let padded = row.iter().zip(widths).enumerate().map(|(column, (text, width))| {
                if NUMBERS.contains(&column) { format!("{text:>width$}") } else { format!("{text:<width$}") }
            });
            writeln!(f, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
            if number == 0 {
                writeln!(f, "{}", widths.map(|width| "─".repeat(width)).join("──"))?;
            }
        }
        for advice in &self.units {
            let strategy = advice.strategy.as_deref().unwrap_or("no strategy");
            writeln!(f, "\n{}: {strategy}\n  {}", advice.unit, advice.reason)?;
            let wrong = self.cells.iter().filter(|cell| cell.wrong > 0 && cell.units.contains(&advice.unit));
            for cell in wrong {
                self.fmt_wrong(cell, f)?;
            }
        }
        writeln!(f, "\nNot covered:")?;
        for left_out in &self.not_covered {
            writeln!(f, "- {left_out}")?;
        }
        Ok(())
    }
}

impl Advice {
    fn fmt_wrong(&self, cell: &AdviceCell, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(counterexample) = &cell.counterexample else { return Ok(()) };
        let what = cell.anomaly.map_or("goes wrong", |anomaly| anomaly.as_str());
        let (strategy, units) = (&cell.strategy, cell.units.join(" and "));
        writeln!(f, "  not {strategy}: {what} of {units}, in schedule {}", counterexample.schedule())?;
        if f.alternate() { writeln!(f, "\n{counterexample}\n") } else { Ok(()) }
    }
}

fn fields(cell: &AdviceCell) -> [String; 9] {
    let anomaly = match (cell.wrong, cell.anomaly) {
        (0, _) => "",
        (_, Some(anomaly)) => anomaly.as_str(),
        (_, None) => "unknown",
    };
    [
        cell.units.join(" and "),
        cell.strategy.clone(),
        cell.schedules.to_string(),
        cell.wrong.to_string(),
        anomaly.to_owned(),
        cell.wasted_attempts.to_string(),
        cell.waits.to_string(),
        cell.waited.to_string(),
        cell.round_trips.to_string(),
    ]
}
