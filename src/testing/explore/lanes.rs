//! A schedule as swim lanes.

use std::borrow::Cow;
use std::fmt;

use crate::failure::FailureKind;
use crate::intercept::{StatementAnswer, Step, StepKind};
use crate::testing::shown::with_arguments;

use super::log::{Entry, Log, Sent, Waited};

/// How wide all lanes together are.
const WIDTH: usize = 116;
/// What a lane has at least, however many there are.
const NARROWEST: usize = 24;

/// What the clients did, a column for each and a row for each step.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    pub(super) clients: Vec<String>,
    pub(super) log: Log,
}

impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = (WIDTH / self.clients.len().max(1)).saturating_sub(3).max(NARROWEST);
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
                    let mut lines = wrapped(&text_of(&sent.step), width, 0);
                    match (&sent.waited, &sent.answer) {
                        (Some(waited), _) => lines.extend(wrapped(&self.wait(waited), width, 2)),
                        (None, Some(answer)) => lines.extend(told(&sent.step, answer, width)),
                        (None, None) => {}
                    }
                    lane(sent.client, &lines, &number.to_string(), f)?;
                }
                Entry::GotOn(step) => {
                    if let Some(Entry::Sent(sent)) = self.log.0.get(*step) {
                        lane(sent.client, &self.got_on(sent, width), "", f)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Lanes {
    fn wait(&self, waited: &Waited) -> String {
        let names: Vec<&str> =
            waited.blocked_by.iter().map(|client| self.clients[*client].as_str()).collect();
        match names.as_slice() {
            [] => format!("… waits: {}", waited.lock),
            names => format!("… waits for {}: {}", names.join(" and "), waited.lock),
        }
    }

    fn got_on(&self, sent: &Sent, width: usize) -> Vec<String> {
        let mut lines = wrapped(&format!("… {}", first_word(&text_of(&sent.step))), width, 0);
        if let Some(answer) = &sent.answer {
            let told = told(&sent.step, answer, width);
            if told.is_empty() {
                lines[0].push_str(" goes on");
            }
            lines.extend(told);
        }
        lines
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// What a step was answered, as far as that is worth a line.
fn told(step: &Step, answer: &StatementAnswer, width: usize) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(failure) = &answer.failure {
        let what = match failure.kind() {
            FailureKind::Other => failure.to_string(),
            kind => match failure.code() {
                Some(code) => format!("{kind} ({code})"),
                None => kind.to_string(),
            },
        };
        told.push(format!("✗ {what}"));
    } else if step.kind == StepKind::Statement {
        told.extend(answer.rows.iter().map(|row| format!("→ {row}")));
        let more = answer.rows_read - answer.rows.len();
        match answer.rows_affected {
            _ if more > 0 && !answer.rows.is_empty() => told.push(format!("→ and {more} more")),
            _ if more > 0 => told.push(format!("→ {}", rows(more as u64))),
            Some(written) if answer.rows_read == 0 => told.push(format!("→ {} written", rows(written))),
            None if answer.rows_read == 0 => told.push(String::from("→ no rows")),
            _ => {}
        }
    }
    told.iter().flat_map(|line| wrapped(line, width, 2)).collect()
}

fn rows(number: u64) -> String {
    if number == 1 { String::from("1 row") } else { format!("{number} rows") }
}

/// The text of a step, without what this crate adds to it for itself.
fn text_of(step: &Step) -> String {
    const KEPT: [&str; 5] = ["BEGIN", "START ", "SET TRANSACTION ", "COMMIT", "ROLLBACK"];
    match step.kind {
        StepKind::Begin | StepKind::Commit | StepKind::Rollback => {
            let statements = step.sql.split("; ").filter(|sql| KEPT.iter().any(|kept| sql.starts_with(kept)));
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

/// The text in lines of at most so many characters, all of them indented by so many, and all but the first by
/// two more.
fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let (first, others) = (" ".repeat(indent), " ".repeat(indent + 2));
    let options = textwrap::Options::new(width).initial_indent(&first).subsequent_indent(&others);
    textwrap::wrap(text, options).into_iter().map(Cow::into_owned).collect()
}
