//! The order of steps in a schedule, and its text form.

use std::fmt;
use std::str::FromStr;

/// The order in which the clients of an exploration take their steps.
///
/// Its text form has a letter for each client, in the order in which the clients were added, followed by the
/// number of steps that it takes in a row: in `a3b5a2` the first client takes three steps, then the second
/// takes five, then the first takes two more. A step is BEGIN, a statement, a savepoint, COMMIT or ROLLBACK.
/// A step that waits for a lock counts when it is sent.
///
/// ```
/// use atomically::testing::Schedule;
///
/// let schedule: Schedule = "a3b5a2".parse()?;
/// assert_eq!(schedule.to_string(), "a3b5a2");
/// # Ok::<_, atomically::testing::ParseScheduleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Schedule(pub(super) Vec<usize>);

/// The error of parsing a text that is not a [`Schedule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a schedule: expected lowercase letters, each with a number of steps, as in \"a3b5a2\""
)]
pub struct ParseScheduleError {
    text: String,
}

/// Each client is named by a letter.
pub(super) const MAX_CLIENTS: usize = 26;

/// Limits the memory that parsing can take.
const MAX_STEPS: usize = 100_000;

pub(super) fn letter(client: usize) -> char {
    u8::try_from(client).map_or('?', |client| char::from(b'a' + client))
}

impl FromStr for Schedule {
    type Err = ParseScheduleError;

    fn from_str(text: &str) -> Result<Self, ParseScheduleError> {
        let bad = || ParseScheduleError { text: text.to_owned() };
        let mut steps = Vec::new();
        let mut rest = text.trim();
        while let Some(client) = rest.chars().next() {
            if !client.is_ascii_lowercase() {
                return Err(bad());
            }
            rest = &rest[1..];
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let times = rest[..digits].parse().ok().filter(|times| (1..=MAX_STEPS).contains(times));
            steps.extend(std::iter::repeat_n(client as usize - 'a' as usize, times.ok_or_else(bad)?));
            if steps.len() > MAX_STEPS {
                return Err(bad());
            }
            rest = &rest[digits..];
        }
        Ok(Self(steps))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in self.0.chunk_by(|one, next| one == next) {
            write!(f, "{}{}", letter(run[0]), run.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_displayed_schedule_parses_back() {
        for text in ["", "a1", "a3b5a2", "c12a1"] {
            assert_eq!(text.parse::<Schedule>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn an_invalid_text_does_not_parse() {
        for text in ["a", "3a", "a0", "A1", "a1 b1", "ä1", "a99999999999999999999", "a100000b1"] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
