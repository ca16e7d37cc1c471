//! Where the clients of a schedule stand, so that schedules can be compared.

use std::hash::{DefaultHasher, Hash as _, Hasher};

use crate::failure::{ConstraintKind, FailureKind};
use crate::intercept::{Step, StepKind};
use crate::sql_text::{Syntax, normalized};

use super::log::{Entry, Log, Sent};
use super::stage::Place;

/// Of a unit that has at most so many attempts, each order is run in which it uses them up.
pub(super) const EXPLORED_ATTEMPTS: u32 = 5;

/// From this one on, the attempts of a unit with more of them are taken to be alike. Strategies that become
/// more cautious with the attempts have done so by then.
const ALIKE_FROM: u32 = 3;

/// Where a client stands: the same words for two schedules that have gone the same way. They leave out what
/// may differ each time without changing anything: values, and what the crate itself tells the server about
/// time.
pub(super) fn of(place: &Place, ended: usize, last: Option<&Sent>, syntax: Syntax) -> String {
    let stands = match place {
        Place::Running { .. } => String::from("waits"),
        Place::Held { step, .. } => in_front_of(step, syntax),
        Place::Busy { ended: at, .. } if *at < ended => String::from("may ask for the busy database again"),
        Place::Busy { .. } => String::from("waits for the busy database"),
        Place::Done => String::from("is done"),
    };
    match last.and_then(in_short) {
        None => stands,
        Some(answer) => format!("{stands}, the answer before it being {answer}"),
    }
}

fn in_front_of(step: &Step, syntax: Syntax) -> String {
    let again = if step.attempt > 1 { format!(" (attempt {})", step.attempt) } else { String::new() };
    match step.kind {
        StepKind::Begin => format!("is about to begin{again}"),
        StepKind::Commit => String::from("is about to commit"),
        StepKind::Rollback => String::from("is about to roll back"),
        StepKind::Statement | StepKind::Control => {
            format!("is about to send {:?}{again}", normalized(syntax, &step.sql))
        }
    }
}

/// What a step was answered, if it was. SQLite says of a query how many rows the statement before it has
/// written.
fn in_short(sent: &Sent) -> Option<String> {
    let answer = sent.answer.as_ref()?;
    let first = sent.step.sql.split_whitespace().next().unwrap_or_default();
    let writes = ["INSERT", "UPDATE", "DELETE"].iter().any(|word| first.eq_ignore_ascii_case(word));
    Some(match (&answer.failure, answer.rows_affected) {
        (Some(failure), _) => failure.kind().to_string(),
        (None, Some(written)) if writes && answer.rows_read == 0 => format!("{written} rows written"),
        (None, _) => format!("{} rows read", answer.rows_read),
    })
}

/// What a schedule has come to: a digest of all steps in order, but for the attempts that failed and were
/// begun again. They have left nothing behind, so from two states with the same digest the same can happen.
///
/// Two things do tell such attempts: the number of the next one, as far as that matters, and how many unique
/// violations there were, which units are run again after only so often.
pub(super) fn progress(log: &Log, places: &[Place], ended: usize, syntax: Syntax) -> u64 {
    let undone = undone(log, places);
    let mut digest = DefaultHasher::new();
    for (i, entry) in log.0.iter().enumerate() {
        let (of, is_new) = match entry {
            Entry::Sent(_) => (i, true),
            Entry::GotOn(of) => (*of, false),
        };
        let Some(Entry::Sent(sent)) = log.0.get(of) else { continue };
        if undone[of] {
            continue;
        }
        (sent.client, is_new).hash(&mut digest);
        if is_new {
            (in_front_of(&Step { attempt: 1, ..sent.step.clone() }, syntax), sent.waited.is_some())
                .hash(&mut digest);
        }
        let is_answered = sent.waited.is_none() || !is_new;
        is_answered.then(|| in_short(sent)).flatten().hash(&mut digest);
    }
    for (client, place) in places.iter().enumerate() {
        let (step, stands) = match place {
            Place::Held { step, .. } => {
                (Some(step), in_front_of(&Step { attempt: 1, ..step.clone() }, syntax))
            }
            Place::Running { .. } | Place::Busy { .. } | Place::Done => {
                (log.last_of(client).map(|sent| &sent.step), of(place, ended, None, syntax))
            }
        };
        (stands, step.map(|step| (attempt_that_matters(step), violations(log, client, step))))
            .hash(&mut digest);
    }
    digest.finish()
}

fn attempt_that_matters(step: &Step) -> u32 {
    if step.max_attempts <= EXPLORED_ATTEMPTS { step.attempt } else { step.attempt.min(ALIKE_FROM) }
}

/// How many attempts of the unit that this step belongs to have ended with a unique violation.
fn violations(log: &Log, client: usize, step: &Step) -> usize {
    let mut attempt = step.attempt;
    let mut count = 0;
    for sent in log.sent().rev().filter(|sent| sent.client == client) {
        let Some(failure) = sent.failure().filter(|_| sent.step.attempt < attempt) else { continue };
        let constraint = failure.constraint();
        count += usize::from(constraint.is_some_and(|constraint| constraint.kind == ConstraintKind::Unique));
        attempt = sent.step.attempt;
    }
    count
}

/// Which entries belong to attempts behind which another one has begun, or is about to; without those that
/// may have been stored all the same.
fn undone(log: &Log, places: &[Place]) -> Vec<bool> {
    const IN_DOUBT: [FailureKind; 3] =
        [FailureKind::ConnectionLost, FailureKind::CommitUnknown, FailureKind::Unavailable];
    let in_doubt = |sent: &Sent| {
        let mut same = log.sent().filter(|other| other.step.transaction.is(&sent.step.transaction));
        same.any(|other| other.failure().is_some_and(|failure| IN_DOUBT.contains(&failure.kind())))
    };
    let mut undone = vec![false; log.0.len()];
    for (client, place) in places.iter().enumerate() {
        // The attempt that came next, seen from behind, and the transaction that it ran in.
        let mut later = match place {
            Place::Held { step, .. } => Some((step, false)),
            Place::Running { .. } | Place::Busy { .. } | Place::Done => None,
        };
        for (i, entry) in log.0.iter().enumerate().rev() {
            let Entry::Sent(sent) = entry else { continue };
            if sent.client != client {
                continue;
            }
            let is_undone = match later {
                None => false,
                Some((step, is_undone)) if step.transaction.is(&sent.step.transaction) => is_undone,
                Some((step, _)) => step.attempt == sent.step.attempt + 1 && !sent.is_in_doubt(),
            };
            undone[i] = is_undone;
            later = Some((&sent.step, is_undone));
        }
    }
    undone
}
