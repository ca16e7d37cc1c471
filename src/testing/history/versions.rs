//! Recovers the order in which each list got its values, from the reads.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::transaction::{DuplicateValue, History, Operation, TransactionOutcome};

/// A reliable read: of a committed transaction, or the final state of a list.
#[derive(Clone, Copy)]
pub(super) struct Observation<'h> {
    /// The reader; `None` for the final state.
    pub(super) reader: Option<usize>,
    pub(super) key: i64,
    pub(super) list: &'h [i64],
}

/// The appender of a value, and whether it is the last one that it appended to this list.
struct Append {
    appender: usize,
    is_last: bool,
}

/// The appender of each value and the order of each list. Transactions are identified by their indices.
pub(super) struct Versions<'h> {
    pub(super) history: &'h History,
    /// By list and value.
    appends: HashMap<(i64, i64), Append>,
    /// The longest state of each list that was read, with its reader.
    longest: BTreeMap<i64, Observation<'h>>,
    /// The lists and values of these longest states.
    ordered: HashSet<(i64, i64)>,
    /// The lists and values of all reads.
    read: HashSet<(i64, i64)>,
    /// The transactions with an unknown outcome that have committed, because their appends were read.
    found_committed: HashSet<usize>,
}

impl<'h> Versions<'h> {
    pub(super) fn recover(history: &'h History) -> Result<Self, DuplicateValue> {
        let mut versions = Self {
            history,
            appends: appends(history)?,
            longest: BTreeMap::new(),
            ordered: HashSet::new(),
            read: HashSet::new(),
            found_committed: HashSet::new(),
        };
        for observation in versions.observations() {
            // The final state is the longest one, unless something was lost.
            let longest = versions.longest.entry(observation.key).or_insert(observation);
            let is_longer = observation.list.len() > longest.list.len();
            if longest.reader.is_some() && (observation.reader.is_none() || is_longer) {
                *longest = observation;
            }
            for &value in observation.list {
                versions.read.insert((observation.key, value));
                if let Some(append) = versions.appends.get(&(observation.key, value))
                    && history.transactions[append.appender].outcome == TransactionOutcome::Unknown
                {
                    versions.found_committed.insert(append.appender);
                }
            }
        }
        for (&key, longest) in &versions.longest {
            versions.ordered.extend(longest.list.iter().map(|&value| (key, value)));
        }
        Ok(versions)
    }

    /// The reads of committed transactions in the order of the history, then the final states of the lists.
    pub(super) fn observations(&self) -> impl Iterator<Item = Observation<'h>> + use<'h> {
        let history = self.history;
        let reads = history
            .transactions
            .iter()
            .enumerate()
            .filter(|(_, transaction)| transaction.outcome == TransactionOutcome::Committed)
            .flat_map(|(reader, transaction)| {
                transaction.operations.iter().filter_map(move |operation| match operation {
                    Operation::Read { key, list } => {
                        Some(Observation { reader: Some(reader), key: *key, list })
                    }
                    Operation::Append { .. } => None,
                })
            });
        reads.chain(history.last.iter().map(|(&key, list)| Observation { reader: None, key, list }))
    }

    /// The appends of committed transactions: the appender, the list and the value.
    pub(super) fn committed_appends(&self) -> impl Iterator<Item = (usize, i64, i64)> {
        let committed =
            (0..self.history.transactions.len()).filter(|&transaction| self.committed(transaction));
        committed.flat_map(|transaction| {
            self.history.transactions[transaction].operations.iter().filter_map(move |operation| {
                match operation {
                    Operation::Append { key, value } => Some((transaction, *key, *value)),
                    Operation::Read { .. } => None,
                }
            })
        })
    }

    /// Whether a transaction is known to have committed.
    pub(super) fn committed(&self, transaction: usize) -> bool {
        match self.history.transactions[transaction].outcome {
            TransactionOutcome::Committed => true,
            TransactionOutcome::Aborted => false,
            TransactionOutcome::Unknown => self.found_committed.contains(&transaction),
        }
    }

    /// The transaction that appended a value to a list.
    pub(super) fn appender(&self, key: i64, value: i64) -> Option<usize> {
        self.appends.get(&(key, value)).map(|append| append.appender)
    }

    /// Whether the appender of this value appended further values to the list.
    pub(super) fn is_intermediate(&self, key: i64, value: i64) -> bool {
        self.appends.get(&(key, value)).is_some_and(|append| !append.is_last)
    }

    /// The longest state of each list that was read.
    pub(super) fn longest(&self) -> impl Iterator<Item = Observation<'h>> {
        self.longest.values().copied()
    }

    /// The longest state of one list that was read.
    pub(super) fn longest_of(&self, key: i64) -> Option<Observation<'h>> {
        self.longest.get(&key).copied()
    }

    /// The values of one list in the order in which it got them.
    pub(super) fn order(&self, key: i64) -> &'h [i64] {
        self.longest_of(key).map_or(&[], |longest| longest.list)
    }

    /// Whether a value is in the longest state of its list.
    pub(super) fn is_ordered(&self, key: i64, value: i64) -> bool {
        self.ordered.contains(&(key, value))
    }

    /// Whether a value was read.
    pub(super) fn was_read(&self, key: i64, value: i64) -> bool {
        self.read.contains(&(key, value))
    }

    /// The list without the reader's own appends at its end.
    pub(super) fn without_own(&self, observation: Observation<'h>) -> &'h [i64] {
        let mut list = observation.list;
        while let [others @ .., value] = list
            && observation.reader.is_some()
            && self.appender(observation.key, *value) == observation.reader
        {
            list = others;
        }
        list
    }

    /// The numbers and texts of these transactions, each once, for an explanation.
    pub(super) fn displayed(&self, transactions: impl IntoIterator<Item = usize>) -> Vec<(usize, String)> {
        let mut displayed: Vec<(usize, String)> = Vec::new();
        for transaction in transactions {
            if displayed.iter().all(|(number, _)| *number != transaction + 1) {
                displayed.push((transaction + 1, self.history.transactions[transaction].to_string()));
            }
        }
        displayed
    }
}

fn appends(history: &History) -> Result<HashMap<(i64, i64), Append>, DuplicateValue> {
    let mut appends = HashMap::new();
    for (appender, transaction) in history.transactions.iter().enumerate() {
        let mut keys = HashSet::new();
        for operation in transaction.operations.iter().rev() {
            if let Operation::Append { key, value } = *operation {
                let append = Append { appender, is_last: keys.insert(key) };
                if appends.insert((key, value), append).is_some() {
                    return Err(DuplicateValue { key, value });
                }
            }
        }
    }
    Ok(appends)
}
