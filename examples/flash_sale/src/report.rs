//! The result of a sale: whether the promises were kept, and the table of figures.

use std::time::Duration;

/// The number of seats, and of the buyers who want one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    pub(crate) buyers: u64,
    pub(crate) seats: u64,
}

/// The result of one sale.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// Whether it is a strategy of the crate, which has promises to keep.
    pub(crate) is_strategy: bool,
    /// The number of buyers that were sold a seat. The tables may contain fewer sales.
    pub(crate) told_sold: u64,
    /// The number of buyers that were refused because the event is sold out.
    pub(crate) told_sold_out: u64,
    /// The first error that a buyer got instead.
    pub(crate) first_error: Option<String>,
    pub(crate) attempts: u64,
    /// What the tables contain afterwards.
    pub(crate) seats_left: i64,
    pub(crate) tickets: u64,
    pub(crate) elapsed: Duration,
    /// The time from entering the shop to the response, in ascending order.
    pub(crate) waits: Vec<Duration>,
}

impl Outcome {
    /// Buyers that got an error.
    fn lost(&self, offer: Offer) -> u64 {
        offer.buyers.saturating_sub(self.told_sold + self.told_sold_out)
    }

    fn oversold(&self, offer: Offer) -> u64 {
        self.tickets.saturating_sub(offer.seats)
    }

    /// This percentile of the waiting times.
    fn wait(&self, percent: usize) -> Duration {
        let rank = (self.waits.len() * percent).div_ceil(100);
        self.waits.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// One sentence for each broken promise.
    pub(crate) fn broken_promises(&self, offer: Offer) -> Vec<String> {
        let Self { name, told_sold, tickets, seats_left, .. } = self;
        let Offer { buyers, seats } = offer;
        let (wanted, lost) = (buyers.min(seats), self.lost(offer));
        let left_if_right = i128::from(seats) - i128::from(*tickets);
        let error = self.first_error.as_deref().unwrap_or("no answer");
        let promises = [
            (*tickets <= wanted, format!("oversold: {tickets} tickets, {seats} seats, {buyers} buyers")),
            (*tickets >= wanted, format!("undersold: {tickets} tickets, {seats} seats, {buyers} buyers")),
            (
                i128::from(*seats_left) == left_if_right,
                format!("lost count: {tickets} tickets left {seats_left} of {seats} seats"),
            ),
            (
                told_sold == tickets,
                format!("told {told_sold} buyers that they have one of {tickets} tickets"),
            ),
            (lost == 0, format!("lost {}, the first to: {error}", counted(lost, "buyer"))),
        ];
        promises.into_iter().filter(|(kept, _)| !kept).map(|(_, how)| format!("{name} {how}.")).collect()
    }
}

const HEADER: [&str; 9] =
    ["strategy", "seats sold", "oversold", "refused", "errors", "attempts", "buyers/s", "p50", "p99"];

/// Renders the table and the verdict below it.
pub(crate) fn render(offer: Offer, outcomes: &[Outcome]) -> String {
    let mut lines = vec![HEADER.map(str::to_owned)];
    lines.extend(outcomes.iter().map(|outcome| {
        [
            outcome.name.clone(),
            outcome.tickets.to_string(),
            outcome.oversold(offer).to_string(),
            outcome.told_sold_out.to_string(),
            outcome.lost(offer).to_string(),
            outcome.attempts.to_string(),
            format!("{:.0}", offer.buyers as f64 / outcome.elapsed.as_secs_f64().max(f64::EPSILON)),
            millis(outcome.wait(50)),
            millis(outcome.wait(99)),
        ]
    }));
    let mut widths = [0; HEADER.len()];
    for (width, column) in widths.iter_mut().zip(0..) {
        *width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    }
    let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1));
    let mut table: Vec<_> = lines.iter().map(|line| aligned(line, &widths)).collect();
    table.insert(1, rule);
    format!("{}\n\n{}\n", table.join("\n"), verdict(offer, outcomes))
}

/// Aligns names to the left and numbers to the right.
fn aligned(line: &[String], widths: &[usize]) -> String {
    let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
        0 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    });
    cells.collect::<Vec<_>>().join("  ")
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

fn verdict(offer: Offer, outcomes: &[Outcome]) -> String {
    let (strategies, tales): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.is_strategy);
    let wanted = offer.buyers.min(offer.seats);
    let mut clauses: Vec<_> = tales.iter().map(|tale| faults(tale, offer)).collect();
    let broken = strategies.iter().filter(|strategy| !strategy.broken_promises(offer).is_empty()).count();
    let seats = counted(wanted, "seat");
    match (strategies.as_slice(), broken) {
        ([], _) => {}
        ([only], 0) => clauses.push(format!("{} sold exactly {seats}", only.name)),
        (_, 0) => clauses.push(format!("every strategy sold exactly {seats}")),
        ([only], _) => clauses.push(format!("{} broke a promise", only.name)),
        (all, broken) => clauses.push(format!("{broken} of {} strategies broke a promise", all.len())),
    }
    let sentence = format!("{}.", clauses.join("; "));
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// What a cautionary tale did wrong. With luck, it is nothing.
fn faults(tale: &Outcome, offer: Offer) -> String {
    let (oversold, lost) = (tale.oversold(offer), tale.lost(offer));
    let mut faults = Vec::new();
    if oversold > 0 {
        faults.push(format!("oversold {}", counted(oversold, "seat")));
    }
    if lost > 0 {
        faults.push(format!("turned {} away with an error", counted(lost, "buyer")));
    }
    if faults.is_empty() && !tale.broken_promises(offer).is_empty() {
        faults.push("lost count of its seats".to_owned());
    }
    if faults.is_empty() {
        faults.push("got away with it".to_owned());
    }
    format!("{} {}", tale.name, faults.join(" and "))
}

fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No run of the program can show this, as long as the crate works.
    #[test]
    fn reports_each_broken_promise() {
        let offer = Offer { buyers: 30, seats: 20 };
        let right = Outcome {
            name: "some strategy".to_owned(),
            is_strategy: true,
            told_sold: 20,
            told_sold_out: 10,
            first_error: None,
            attempts: 40,
            seats_left: 0,
            tickets: 20,
            elapsed: Duration::from_secs(1),
            waits: vec![Duration::from_millis(1); 30],
        };
        let broken = |outcome: &Outcome| outcome.broken_promises(offer).join(" ");

        assert_eq!(broken(&right), "");
        assert!(
            broken(&Outcome { tickets: 21, told_sold: 21, told_sold_out: 9, ..right.clone() })
                .contains("oversold")
        );
        assert!(broken(&Outcome { tickets: 19, seats_left: 1, ..right.clone() }).contains("undersold"));
        assert!(broken(&Outcome { seats_left: 1, ..right.clone() }).contains("lost count"));
        assert!(broken(&Outcome { told_sold: 19, told_sold_out: 11, ..right.clone() }).contains("told 19"));
        let lost = Outcome { told_sold_out: 9, first_error: Some("out of luck".to_owned()), ..right.clone() };
        assert_eq!(broken(&lost), "some strategy lost 1 buyer, the first to: out of luck.");

        assert!(
            render(offer, std::slice::from_ref(&right))
                .ends_with("\n\nSome strategy sold exactly 20 seats.\n")
        );
        assert!(render(offer, &[right, lost]).contains("1 of 2 strategies broke a promise"));
    }
}
