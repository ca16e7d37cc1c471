//! The order in which a list got its values, recovered from what was read.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::transaction::{History, NotUnique, Operation, Outcome};

/// A read that is to be believed: one of a committed transaction, or the state at the end.
#[derive(Clone, Copy)]
pub(super) struct Observation<'h> {
    /// The reader; `None` is the state at the end.
    pub(super) reader: Option<usize>,
    pub(super) key: i64,
    pub(super) list: &'h [i64],
}

/// Who appended a value, and whether it is the last one that he appended to this list.
struct Append {
    by: usize,
    is_last: bool,
}

/// What follows from the values of a history being unique. Transactions are indices here.
pub(super) struct Versions<'h> {
    pub(super) history: &'h History,
    /// By list and value.
    appends: HashMap<(i64, i64), Append>,
    /// For each list the longest state of it that was seen, and by whom.
    longest: BTreeMap<i64, Observation<'h>>,
    /// The values in there, and all that were seen anywhere.
    ordered: HashSet<(i64, i64)>,
    seen: HashSet<(i64, i64)>,
    /// The unknown ones that have turned out to be committed.
    turned_out: HashSet<usize>,
}

impl<'h> Versions<'h> {
    pub(super) fn recover(history: &'h History) -> Result<Self, NotUnique> {
        let mut versions = Self {
            history,
            appends: appends(history)?,
            longest: BTreeMap::new(),
            ordered: HashSet::new(),
            seen: HashSet::new(),
            turned_out: HashSet::new(),
        };
        for seen in versions.observations() {
            // What a list held at the end is its longest state, or something was lost.
            let longest = versions.longest.entry(seen.key).or_insert(seen);
            if longest.reader.is_some() && (seen.reader.is_none() || seen.list.len() > longest.list.len()) {
                *longest = seen;
            }
            for &value in seen.list {
                versions.seen.insert((seen.key, value));
                if let Some(append) = versions.appends.get(&(seen.key, value))
                    && history.transactions[append.by].outcome == Outcome::Unknown
                {
                    versions.turned_out.insert(append.by);
                }
            }
        }
        for (&key, longest) in &versions.longest {
            versions.ordered.extend(longest.list.iter().map(|&value| (key, value)));
        }
        Ok(versions)
    }

    /// The reads of committed transactions in the order of the history, then what the lists held at the end.
    pub(super) fn observations(&self) -> impl Iterator<Item = Observation<'h>> + use<'h> {
        let history = self.history;
        let reads = history
            .transactions
            .iter()
            .enumerate()
            .filter(|(_, transaction)| transaction.outcome == Outcome::Committed)
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

    /// The appends of transactions that are known to be committed: by whom, to which list, which value.
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

    /// Whether a transaction is known to be committed.
    pub(super) fn committed(&self, transaction: usize) -> bool {
        match self.history.transactions[transaction].outcome {
            Outcome::Committed => true,
            Outcome::Aborted => false,
            Outcome::Unknown => self.turned_out.contains(&transaction),
        }
    }

    /// Who appended a value to a list.
    pub(super) fn appender(&self, key: i64, value: i64) -> Option<usize> {
        self.appends.get(&(key, value)).map(|append| append.by)
    }

    /// Whether its transaction appended more to this list after this value.
    pub(super) fn is_intermediate(&self, key: i64, value: i64) -> bool {
        self.appends.get(&(key, value)).is_some_and(|append| !append.is_last)
    }

    /// The longest state of each list that was seen.
    pub(super) fn longest(&self) -> impl Iterator<Item = Observation<'h>> {
        self.longest.values().copied()
    }

    /// The longest state of one list.
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

    /// Whether anybody has seen a value.
    pub(super) fn was_seen(&self, key: i64, value: i64) -> bool {
        self.seen.contains(&(key, value))
    }

    /// What a transaction saw of a list that others had put there: without its own appends at the end.
    pub(super) fn without_own(&self, seen: Observation<'h>) -> &'h [i64] {
        let mut list = seen.list;
        while let [others @ .., value] = list
            && seen.reader.is_some()
            && self.appender(seen.key, *value) == seen.reader
        {
            list = others;
        }
        list
    }

    /// The numbers and texts of these transactions, each once, for those who read an explanation.
    pub(super) fn printed(&self, transactions: impl IntoIterator<Item = usize>) -> Vec<(usize, String)> {
        let mut printed: Vec<(usize, String)> = Vec::new();
        for transaction in transactions {
            if printed.iter().all(|(number, _)| *number != transaction + 1) {
                printed.push((transaction + 1, self.history.transactions[transaction].to_string()));
            }
        }
        printed
    }
}

fn appends(history: &History) -> Result<HashMap<(i64, i64), Append>, NotUnique> {
    let mut appends = HashMap::new();
    for (by, transaction) in history.transactions.iter().enumerate() {
        let mut keys = HashSet::new();
        for operation in transaction.operations.iter().rev() {
            if let Operation::Append { key, value } = *operation {
                let append = Append { by, is_last: keys.insert(key) };
                if appends.insert((key, value), append).is_some() {
                    return Err(NotUnique { key, value });
                }
            }
        }
    }
    Ok(appends)
}
