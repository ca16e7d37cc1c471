//! Displays a schedule as swim lanes.

use std::borrow::Cow;
use std::fmt;

use crate::failure::FailureKind;
use crate::intercept::{StatementAnswer, Step, StepKind};
use crate::testing::bound_sql::with_arguments;

use super::log::{Entry, ScheduleLog, Sent, Waited};

/// The width of all lanes together, in characters.
const TOTAL_WIDTH: usize = 116;
/// The minimum width of a lane, in characters.
const MIN_WIDTH: usize = 24;

/// Displays the steps of a schedule: a column for each client, a row for each step.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    pub(super) clients: Vec<String>,
    pub(super) log: ScheduleLog,
}

impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = (TOTAL_WIDTH / self.clients.len().max(1)).saturating_sub(3).max(MIN_WIDTH);
        let lane = |client: usize, lines: &[String], number: &str, f: &mut fmt::Formatter<'_>| {
            for (i, line) in lines.iter().enumerate() {
                let cells =
                    (0..self.clients.len()).map(|other| if other == client { line.as_str() } else { "" });
                let cells: Vec<String> = cells.map(|text| format!("{text:<width$}")).collect();
                let number = if i == 0 { number } else { "" };
                writeln!(f, "{}", format!("{number:>3} {}", cells.join(" │ ")).trim_end())?;
            }
            Ok::<_, fmt::Error>(())
        };
        let names = self.clients.iter().enumerate();
        let header: Vec<String> = names
            .map(|(i, name)| format!("{:<width$}", format!("{} ({})", name, super::letter(i))))
            .collect();
        writeln!(f, "    {}", header.join(" │ ").trim_end())?;
        let rule = vec!["─".repeat(width); self.clients.len()];
        writeln!(f, "    {}", rule.join("─┼─"))?;
        let mut number = 0;
        for entry in &self.log.0 {
            match entry {
                Entry::Sent(sent) => {
                    number += 1;
                    let mut lines = wrapped(&step_text(&sent.step), width, 0);
                    match (&sent.waited, &sent.answer) {
                        (Some(waited), _) => lines.extend(wrapped(&self.wait_text(waited), width, 2)),
                        (None, Some(answer)) => lines.extend(answer_lines(&sent.step, answer, width)),
                        (None, None) => {}
                    }
                    lane(sent.client, &lines, &number.to_string(), f)?;
                }
                Entry::Unblocked(step) => {
                    if let Some(Entry::Sent(sent)) = self.log.0.get(*step) {
                        lane(sent.client, &self.unblocked_lines(sent, width), "", f)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Lanes {
    fn wait_text(&self, waited: &Waited) -> String {
        let names: Vec<&str> =
            waited.blocked_by.iter().map(|client| self.clients[*client].as_str()).collect();
        match names.as_slice() {
            [] => format!("… waits: {}", waited.lock),
            names => format!("… waits for {}: {}", names.join(" and "), waited.lock),
        }
    }

    fn unblocked_lines(&self, sent: &Sent, width: usize) -> Vec<String> {
        let mut lines = wrapped(&format!("… {}", first_word(&step_text(&sent.step))), width, 0);
        if let Some(answer) = &sent.answer {
            let answer = answer_lines(&sent.step, answer, width);
            if answer.is_empty() {
                lines[0].push_str(" goes on");
            }
            lines.extend(answer);
        }
        lines
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// The failure or the rows that a step was answered with.
fn answer_lines(step: &Step, answer: &StatementAnswer, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(failure) = &answer.failure {
        let what = match failure.kind() {
            FailureKind::Other => failure.to_string(),
            kind => match failure.code() {
                Some(code) => format!("{kind} ({code})"),
                None => kind.to_string(),
            },
        };
        lines.push(format!("✗ {what}"));
    } else if step.kind == StepKind::Statement {
        lines.extend(answer.rows.iter().map(|row| format!("→ {row}")));
        let more = answer.rows_read - answer.rows.len();
        match answer.rows_affected {
            _ if more > 0 && !answer.rows.is_empty() => lines.push(format!("→ and {more} more")),
            _ if more > 0 => lines.push(format!("→ {}", count_rows(more as u64))),
            Some(written) if answer.rows_read == 0 => {
                lines.push(format!("→ {} written", count_rows(written)))
            }
            None if answer.rows_read == 0 => lines.push(String::from("→ no rows")),
            _ => {}
        }
    }
    lines.iter().flat_map(|line| wrapped(line, width, 2)).collect()
}

fn count_rows(number: u64) -> String {
    if number == 1 { String::from("1 row") } else { format!("{number} rows") }
}

/// The text of a step, without the settings that this crate sends with it.
fn step_text(step: &Step) -> String {
    const SHOWN: [&str; 5] = ["BEGIN", "START ", "SET TRANSACTION ", "COMMIT", "ROLLBACK"];
    match step.kind {
        StepKind::Begin | StepKind::Commit | StepKind::Rollback => {
            let statements =
                step.sql.split("; ").filter(|sql| SHOWN.iter().any(|shown| sql.starts_with(shown)));
            let sql = statements.collect::<Vec<_>>().join("; ");
            match (step.kind, step.attempt) {
                (StepKind::Begin, 2..) => format!("{sql} (attempt {})", step.attempt),
                _ => sql,
            }
        }
        StepKind::Control => step.sql.clone(),
        StepKind::Statement => {
            let sql = step.sql.split_whitespace().collect::<Vec<_>>().join(" ");
            match &step.arguments {
                Some(arguments) => with_arguments(&sql, arguments),
                None => sql,
            }
        }
    }
}

/// Wraps the text at `width` characters. The first line is indented by `indent`, the others by two more.
fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let (first, others) = (" ".repeat(indent), " ".repeat(indent + 2));
    let options = textwrap::Options::new(width).initial_indent(&first).subsequent_indent(&others);
    textwrap::wrap(text, options).into_iter().map(Cow::into_owned).collect()
}
