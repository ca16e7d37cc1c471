//! Judges schedules by the serial orders of the same clients.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::sql_text::Syntax;

use super::log::ScheduleLog;
use super::report::ExploreError;

mod compared;
mod difference;
mod ends;
mod outcome;
mod permutations;
mod renaming;
mod serial;
mod settings;
mod touched;

use compared::{ComparedTables, Contents, TableList};
pub use difference::SerialDifference;
pub(super) use ends::ClientEnd;
pub(super) use ends::RunEndRecorder;
use outcome::{ScheduleOutcome, SerialOutcome};
pub(super) use settings::{ColumnName, OracleSettings};
use touched::touched_tables;

/// The outcomes of the serial orders, which the outcome of each schedule is compared with.
#[derive(Debug)]
pub(super) struct Oracle {
    syntax: Syntax,
    settings: OracleSettings,
    list: TableList,
    /// The tables that are compared, by their number in `list`.
    touched: BTreeSet<usize>,
    compared: ComparedTables,
    seen_texts: HashSet<String>,
    /// The contents after the set-up, if ids are renamed.
    initial: Option<Contents>,
    /// The outcomes of all orders of a set of clients.
    outcomes: HashMap<Vec<usize>, Vec<SerialOutcome>>,
}

impl Oracle {
    /// The names of the tables that are compared.
    pub(super) fn table_names(&self) -> Vec<String> {
        self.compared.tables.iter().map(|table| table.name.clone()).collect()
    }

    /// Adds the tables that these statements touch. Returns whether there were new ones; the outcomes of the
    /// serial orders are then forgotten, because they lack these tables.
    fn learn<'t>(
        &mut self,
        client_name: &str,
        texts: impl Iterator<Item = &'t str>,
    ) -> Result<bool, ExploreError> {
        if !self.settings.tables.is_empty() {
            return Ok(false);
        }
        let known = self.touched.len();
        for sql in texts {
            if !self.seen_texts.insert(sql.to_owned()) {
                continue;
            }
            let Some(touched) = touched_tables(self.syntax, sql, &self.list) else {
                let (client, sql) = (client_name.to_owned(), sql.to_owned());
                return Err(ExploreError::TablesUnknown { client, sql });
            };
            self.touched.extend(touched);
        }
        let has_grown = self.touched.len() > known;
        if has_grown {
            self.outcomes.clear();
            self.initial = None;
        }
        Ok(has_grown)
    }

    /// Adds the tables that the statements of a schedule touch.
    fn learn_from(&mut self, log: &ScheduleLog, names: &[&str]) -> Result<bool, ExploreError> {
        let mut has_grown = false;
        for (client, name) in names.iter().enumerate() {
            has_grown |= self.learn(name, log.statements_of(client))?;
        }
        Ok(has_grown)
    }

    fn judge_against<'o>(
        &self,
        found: &ScheduleOutcome,
        candidates: impl Iterator<Item = &'o SerialOutcome>,
    ) -> Judgment<'o> {
        let mut nearest: Option<(usize, &SerialOutcome)> = None;
        for candidate in candidates {
            if found.equals(candidate, &self.compared, self.initial.as_ref()) {
                return Judgment::Serial;
            }
            let distance = found.distance(candidate, &self.compared, self.initial.as_ref());
            if nearest.is_none_or(|(smallest, _)| distance < smallest) {
                nearest = Some((distance, candidate));
            }
        }
        Judgment::NotSerial(nearest.map(|(_, nearest)| nearest))
    }
}

enum Judgment<'o> {
    Serial,
    NotSerial(Option<&'o SerialOutcome>),
}
