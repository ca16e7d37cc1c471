//! What a caller wants to hold.

use std::collections::BTreeMap;
use std::time::Duration;

use super::HoldKey;
use crate::backend::Backend;
use crate::error::Error;

const MIN_TTL: Duration = Duration::from_millis(1);
const MAX_TTL: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// The most characters of a key, and of the names of a table and its columns together.
const MAX_TEXT: usize = 255;

/// The most rows of one hold.
const MAX_ROWS: usize = 256;

/// What a caller wants to hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HoldRequest<K> {
    /// The amount of each row.
    pub(super) amounts: BTreeMap<K, i64>,
    pub(super) ttl: Duration,
}

impl<K> HoldRequest<K> {
    /// Checks a request for a column with this name, and returns it with its first key.
    pub(super) fn checked<DB: Backend>(
        name: &str,
        amounts: impl IntoIterator<Item = (K, i64)>,
        ttl: Duration,
    ) -> Result<(K, Self), Error>
    where
        K: HoldKey<DB>,
    {
        if name.chars().count() > MAX_TEXT {
            let message = format!("the names {name} are too long: at most {MAX_TEXT} characters are stored");
            return Err(Error::invalid_input(message));
        }
        let amounts = summed(amounts)?;
        amounts.keys().try_for_each(check_key::<DB, K>)?;
        let Some(first) = amounts.keys().next().cloned() else {
            return Err(Error::invalid_input("a hold needs at least one key".into()));
        };
        if amounts.len() > MAX_ROWS {
            return Err(Error::invalid_input(format!("a hold takes from at most {MAX_ROWS} rows")));
        }
        Ok((first, Self { amounts, ttl: ttl.clamp(MIN_TTL, MAX_TTL) }))
    }
}

/// Sums the amounts of each key.
fn summed<K: Ord>(amounts: impl IntoIterator<Item = (K, i64)>) -> Result<BTreeMap<K, i64>, Error> {
    let mut sums = BTreeMap::<K, i64>::new();
    for (key, amount) in amounts {
        if amount < 1 {
            let message = format!("an amount of {amount} cannot be held: hold at least 1");
            return Err(Error::invalid_input(message));
        }
        let sum = sums.entry(key).or_default();
        *sum = sum.checked_add(amount).ok_or_else(|| {
            let message = format!("the amounts of one row cannot be held: they are more than {}", i64::MAX);
            Error::invalid_input(message)
        })?;
    }
    Ok(sums)
}

/// Checks that the row of a key can be found again.
fn check_key<DB: Backend, K: HoldKey<DB>>(key: &K) -> Result<(), Error> {
    let text = key.to_string();
    let length = text.chars().count();
    if length > MAX_TEXT {
        let message = format!("a key of {length} characters cannot be held: use at most {MAX_TEXT}");
        return Err(Error::invalid_input(message));
    }
    if text.parse::<K>().is_ok_and(|parsed| parsed == *key) {
        return Ok(());
    }
    let kind = std::any::type_name::<K>();
    let message = format!("a key of the type {kind} changes when it is formatted as text and parsed again");
    Err(Error::invalid_input(message))
}
