//! Who went when, as a short string.

use std::fmt;
use std::str::FromStr;

/// An order of steps: which client takes the next one, each time.
///
/// Shown as letters, one per client in the order in which they were named, with the number of steps that they
/// take in a row: in `a3b5a2` the first client takes three steps, the second one five, and the first one two
/// more. A step is BEGIN, a statement, COMMIT or ROLLBACK. A step that waits for a lock counts when it is
/// sent.
///
/// ```
/// use atomically::testing::Schedule;
///
/// let schedule: Schedule = "a3b5a2".parse()?;
/// assert_eq!(schedule.to_string(), "a3b5a2");
/// # Ok::<_, atomically::testing::BadSchedule>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Schedule(pub(super) Vec<usize>);

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no schedule: it takes letters and numbers in turn, as in \"a3b5a2\"")]
pub struct BadSchedule {
    text: String,
}

/// Letters name the clients.
pub(super) const MAX_CLIENTS: usize = 26;

/// No schedule is as long as this.
const MAX_STEPS: usize = 100_000;

pub(super) fn letter(client: usize) -> char {
    u8::try_from(client).map_or('?', |client| char::from(b'a' + client))
}

impl FromStr for Schedule {
    type Err = BadSchedule;

    fn from_str(text: &str) -> Result<Self, BadSchedule> {
        let bad = || BadSchedule { text: text.to_owned() };
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
    fn what_is_shown_is_read() {
        for text in ["", "a1", "a3b5a2", "c12a1"] {
            assert_eq!(text.parse::<Schedule>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["a", "3a", "a0", "A1", "a1 b1", "ä1", "a99999999999999999999", "a100000b1"] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
