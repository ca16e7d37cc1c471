//! Compares generated ids up to renaming.

use std::collections::{BTreeMap, BTreeSet};

use super::compared::{ComparedTables, Contents};
use super::permutations::permutations;

/// With more generated ids than this in a group of columns, the smallest is renamed to the smallest, and so
/// on.
const MAX_PERMUTED: usize = 7;

/// Which generated id of one outcome is which of another, for each group of columns.
#[derive(Debug, Clone)]
pub(super) struct Renaming(Vec<BTreeMap<String, String>>);

impl Renaming {
    /// All renamings of the ids that were generated in `from` to those in `to`, beginning with the one that
    /// keeps their order; empty if their numbers differ.
    pub(super) fn all(
        tables: &ComparedTables,
        initial: Option<&Contents>,
        from: &Contents,
        to: &Contents,
    ) -> Vec<Self> {
        let groups = tables.tables.iter().flat_map(|table| &table.columns).filter_map(|column| column.ids);
        let groups = groups.max().map_or(0, |last| last + 1);
        let mut all = vec![Self(Vec::new())];
        for group in 0..groups {
            let [from, to] = [from, to].map(|contents| generated(tables, initial, contents, group));
            if from.len() != to.len() {
                return Vec::new();
            }
            let orders = match from.len() {
                count @ 0..=MAX_PERMUTED => permutations(count),
                count => vec![(0..count).collect()],
            };
            let map = |order: &Vec<usize>| {
                from.iter().zip(order).map(|(id, at)| (id.clone(), to[*at].clone())).collect()
            };
            let maps: Vec<BTreeMap<String, String>> = orders.iter().map(map).collect();
            let longer = |Self(before): &Self| {
                let before = before.clone();
                maps.iter()
                    .map(move |map| Self([before.as_slice(), std::slice::from_ref(map)].concat()))
                    .collect::<Vec<_>>()
            };
            all = all.iter().flat_map(longer).collect();
        }
        all
    }

    pub(super) fn rename(&self, tables: &ComparedTables, contents: &Contents) -> Contents {
        let mut renamed = contents.clone();
        for (rows, table) in renamed.0.iter_mut().zip(&tables.tables) {
            for row in rows.iter_mut() {
                for (value, column) in row.iter_mut().zip(&table.columns) {
                    let map = column.ids.and_then(|group| self.0.get(group));
                    if let Some(id) = map.and_then(|map| map.get(value)) {
                        value.clone_from(id);
                    }
                }
            }
            rows.sort();
        }
        renamed
    }

    /// Whether two returned values are equal, except for ids that are renamed.
    pub(super) fn are_equal(&self, from: &str, to: &str) -> bool {
        let words = |text: &'_ str| -> Vec<String> {
            text.split_inclusive(|c: char| !is_part_of_id(c)).flat_map(split_last).collect()
        };
        let is_renamed = |(from, to): (&String, &String)| {
            let is = |map: &BTreeMap<String, String>| {
                let quoted = |text: &str| format!("'{text}'");
                map.get(from) == Some(to) || map.get(&quoted(from)) == Some(&quoted(to))
            };
            from == to || self.0.iter().any(is)
        };
        let (from, to) = (words(from), words(to));
        from.len() == to.len() && from.iter().zip(&to).all(is_renamed)
    }
}

/// Splits a word from the separator behind it.
fn split_last(word: &str) -> Vec<String> {
    let at =
        word.char_indices().next_back().filter(|(_, c)| !is_part_of_id(*c)).map_or(word.len(), |(at, _)| at);
    let (word, separator) = word.split_at(at);
    vec![word.to_owned(), separator.to_owned()]
}

fn is_part_of_id(c: char) -> bool {
    c.is_alphanumeric() || c == '-' || c == '_'
}

/// The values of a group of columns that were not there after the set-up, in ascending order.
fn generated(
    tables: &ComparedTables,
    initial: Option<&Contents>,
    contents: &Contents,
    group: usize,
) -> Vec<String> {
    let values = |contents: &Contents| -> BTreeSet<String> {
        let rows = contents
            .0
            .iter()
            .zip(&tables.tables)
            .flat_map(|(rows, table)| rows.iter().flat_map(|row| row.iter().zip(&table.columns)));
        let ids = rows.filter(|(value, column)| column.ids == Some(group) && *value != "NULL");
        ids.map(|(value, _)| value.clone()).collect()
    };
    let known = initial.map(values).unwrap_or_default();
    let mut generated: Vec<String> = values(contents).into_iter().filter(|id| !known.contains(id)).collect();
    // Numbers of more digits are larger.
    generated.sort_by_key(|id| (id.len(), id.clone()));
    generated
}

#[cfg(test)]
mod tests {
    use super::super::compared::{ComparedColumn, ComparedTable};
    use super::*;

    fn tables() -> ComparedTables {
        let column = |name: &str, ids| ComparedColumn { name: name.to_owned(), ids };
        let columns = vec![column("id", Some(0)), column("seat", None)];
        let mut tables = ComparedTables::default();
        tables.tables.push(ComparedTable { name: String::from("booking"), columns });
        tables
    }

    fn contents(rows: &[[&str; 2]]) -> Contents {
        Contents(vec![rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect()])
    }

    fn are_equal(from: (&[[&str; 2]], &str), to: (&[[&str; 2]], &str)) -> bool {
        let (tables, initial) = (tables(), contents(&[["1", "1"]]));
        let (from_rows, to_rows) = (contents(from.0), contents(to.0));
        Renaming::all(&tables, Some(&initial), &from_rows, &to_rows).iter().any(|renaming| {
            renaming.rename(&tables, &from_rows) == to_rows && renaming.are_equal(from.1, to.1)
        })
    }

    #[test]
    fn generated_ids_are_renamed_alike_everywhere() {
        let from: &[[&str; 2]] = &[["1", "1"], ["9", "4"], ["10", "5"]];
        let to: &[[&str; 2]] = &[["1", "1"], ["17", "5"], ["18", "4"]];
        assert!(are_equal((from, "Booking { id: 9 }"), (to, "Booking { id: 18 }")));
        assert!(!are_equal((from, "Booking { id: 9 }"), (to, "Booking { id: 17 }")), "the other booking");
        assert!(!are_equal((from, "9"), (to, "19")), "a prefix");
    }

    #[test]
    fn ids_of_the_set_up_are_not_renamed() {
        assert!(!are_equal((&[["1", "2"]], ""), (&[["2", "2"]], "")));
        assert!(!are_equal((&[["1", "1"], ["2", "2"]], ""), (&[["1", "2"], ["2", "1"]], "")));
    }
}
