//! Descriptions and digests of schedule states, by which schedules are compared.

use std::hash::{DefaultHasher, Hash as _, Hasher};

use crate::intercept::{Step, StepKind};
use crate::sql_text::{Syntax, normalized};

use super::client_state::ClientState;
use super::independence::Independence;
use super::log::{Entry, ScheduleLog, Sent};

/// A unit with at most this many attempts is also run in every order in which it uses them all up.
pub(super) const MAX_EXPLORED_ATTEMPTS: u32 = 5;

/// In a unit with more attempts than that, all attempts from this one on count as equal. Strategies that
/// become more cautious with each attempt have done so by then.
const EQUAL_FROM_ATTEMPT: u32 = 3;

/// Describes the state of a client. Two schedules that have gone the same way have equal descriptions: values
/// are left out, because they may differ without changing what happens next.
pub(super) fn describe(state: &ClientState, ended: usize, last: Option<&Sent>, syntax: Syntax) -> String {
    let description = match state {
        ClientState::Running { .. } => String::from("waits"),
        ClientState::Held { step, .. } => describe_step(step, syntax),
        ClientState::Busy { ended: at, .. } if *at < ended => String::from("may retry on the busy database"),
        ClientState::Busy { .. } => String::from("waits for the busy database"),
        ClientState::Done => String::from("is done"),
    };
    match last.and_then(summarize_answer) {
        None => description,
        Some(answer) => format!("{description} (previous answer: {answer})"),
    }
}

fn describe_step(step: &Step, syntax: Syntax) -> String {
    let attempt = if step.attempt > 1 { format!(" (attempt {})", step.attempt) } else { String::new() };
    match step.kind {
        StepKind::Begin => format!("is about to begin{attempt}"),
        StepKind::Commit => String::from("is about to commit"),
        StepKind::Rollback => String::from("is about to roll back"),
        StepKind::Statement | StepKind::Control => {
            format!("is about to send {:?}{attempt}", normalized(syntax, &step.sql))
        }
    }
}

/// Summarizes the answer to a step, if there is one. Rows written are only counted for writes, because SQLite
/// reports for a query the rows that the previous statement has written.
fn summarize_answer(sent: &Sent) -> Option<String> {
    let answer = sent.answer.as_ref()?;
    let first = sent.step.sql.split_whitespace().next().unwrap_or_default();
    let writes = ["INSERT", "UPDATE", "DELETE"].iter().any(|word| first.eq_ignore_ascii_case(word));
    Some(match (&answer.failure, answer.rows_affected) {
        (Some(failure), _) => failure.kind().to_string(),
        (None, Some(written)) if writes && answer.rows_read == 0 => format!("{written} rows written"),
        (None, _) => format!("{} rows read", answer.rows_read),
    })
}

/// A digest of the state that a schedule has reached: of all steps in order, except for failed attempts that
/// were retried. Those have left nothing behind, so states with equal digests have the same futures. With an
/// `independence`, the order of independent steps is left out as well.
///
/// Two facts about failed attempts are included because they affect the future: the number of the next
/// attempt, as far as it matters, and the number of unique violations, which only some retries are spent on.
pub(super) fn digest(
    log: &ScheduleLog,
    states: &[ClientState],
    ended: usize,
    syntax: Syntax,
    independence: Option<&Independence>,
) -> u64 {
    let retried = retried_entries(log, states);
    let mut entries: Vec<(usize, u64)> = Vec::new();
    for (i, entry) in log.0.iter().enumerate() {
        let (index, is_sent) = match entry {
            Entry::Sent(_) => (i, true),
            Entry::Unblocked(index) => (*index, false),
        };
        let Some(Entry::Sent(sent)) = log.0.get(index) else { continue };
        if !retried[index] {
            entries.push((i, entry_digest(sent, is_sent, syntax)));
        }
    }
    let mut digest = DefaultHasher::new();
    match independence {
        Some(independence) => independence.digest(log, &entries).hash(&mut digest),
        None => entries.iter().for_each(|(_, entry)| entry.hash(&mut digest)),
    }
    for (client, state) in states.iter().enumerate() {
        let (step, description) = match state {
            ClientState::Held { step, .. } => (Some(step), describe_without_attempt(step, syntax)),
            ClientState::Running { .. } | ClientState::Busy { .. } | ClientState::Done => {
                (log.last_of(client).map(|sent| &sent.step), describe(state, ended, None, syntax))
            }
        };
        let attempt = step.map(|step| (distinct_attempt(step), unique_violations(log, client, step)));
        (description, attempt).hash(&mut digest);
    }
    digest.finish()
}

fn entry_digest(sent: &Sent, is_sent: bool, syntax: Syntax) -> u64 {
    let mut digest = DefaultHasher::new();
    (sent.client, is_sent).hash(&mut digest);
    if is_sent {
        (describe_without_attempt(&sent.step, syntax), sent.waited.is_some()).hash(&mut digest);
    }
    let is_answered = sent.waited.is_none() || !is_sent;
    is_answered.then(|| summarize_answer(sent)).flatten().hash(&mut digest);
    digest.finish()
}

fn describe_without_attempt(step: &Step, syntax: Syntax) -> String {
    describe_step(&Step { attempt: 1, ..step.clone() }, syntax)
}

fn distinct_attempt(step: &Step) -> u32 {
    if step.max_attempts <= MAX_EXPLORED_ATTEMPTS {
        step.attempt
    } else {
        step.attempt.min(EQUAL_FROM_ATTEMPT)
    }
}

/// Counts the earlier attempts of the same unit that ended with a unique violation.
fn unique_violations(log: &ScheduleLog, client: usize, step: &Step) -> usize {
    let mut attempt = step.attempt;
    let mut count = 0;
    for sent in log.sent().rev().filter(|sent| sent.client == client) {
        let Some(failure) = sent.failure().filter(|_| sent.step.attempt < attempt) else { continue };
        count += usize::from(failure.is_unique_violation());
        attempt = sent.step.attempt;
    }
    count
}

/// Which entries belong to attempts that were retried, or are about to be. Attempts that may have been
/// committed nevertheless are not among them.
fn retried_entries(log: &ScheduleLog, states: &[ClientState]) -> Vec<bool> {
    let in_doubt = |sent: &Sent| {
        let mut same = log.sent().filter(|other| other.step.transaction.is(&sent.step.transaction));
        same.any(|other| other.failure().is_some_and(|failure| failure.kind().may_hide_commit()))
    };
    let mut retried = vec![false; log.0.len()];
    for (client, state) in states.iter().enumerate() {
        // Going backwards: the step that came next, and whether its attempt was retried.
        let mut next = match state {
            ClientState::Held { step, .. } => Some((step, false)),
            ClientState::Running { .. } | ClientState::Busy { .. } | ClientState::Done => None,
        };
        for (i, entry) in log.0.iter().enumerate().rev() {
            let Entry::Sent(sent) = entry else { continue };
            if sent.client != client {
                continue;
            }
            let is_retried = match next {
                None => false,
                Some((step, is_retried)) if step.transaction.is(&sent.step.transaction) => is_retried,
                Some((step, _)) => step.attempt == sent.step.attempt + 1 && !in_doubt(sent),
            };
            retried[i] = is_retried;
            next = Some((&sent.step, is_retried));
        }
    }
    retried
}
