//! The outcome of a schedule.

use super::compared::{ComparedTables, Contents};
use super::difference::{SerialDifference, differing_rows};
use super::ends::ClientEnd;
use super::renaming::Renaming;

/// What a schedule left in the tables, and how each client ended.
#[derive(Debug, Clone)]
pub(in super::super) struct ScheduleOutcome {
    pub(super) contents: Contents,
    /// `None` for a client that was left out.
    pub(super) ends: Vec<Option<ClientEnd>>,
}

/// The outcome of a serial order.
#[derive(Debug, Clone)]
pub(super) struct SerialOutcome {
    pub(super) order: Vec<usize>,
    pub(super) outcome: ScheduleOutcome,
}

impl ScheduleOutcome {
    /// Whether this outcome is that of the serial order.
    pub(super) fn equals(
        &self,
        serial: &SerialOutcome,
        tables: &ComparedTables,
        initial: Option<&Contents>,
    ) -> bool {
        let to = &serial.outcome;
        let renamings = Renaming::all(tables, initial, &self.contents, &to.contents);
        renamings.iter().any(|renaming| {
            self.differing_ends(to, Some(renaming)).next().is_none()
                && renaming.rename(tables, &self.contents) == to.contents
        })
    }

    /// How many rows and returned values differ.
    pub(super) fn distance(
        &self,
        serial: &SerialOutcome,
        tables: &ComparedTables,
        initial: Option<&Contents>,
    ) -> usize {
        let to = &serial.outcome;
        let (renaming, contents) = self.renamed_towards(to, tables, initial);
        let rows = contents.0.iter().zip(&to.contents.0).map(|(found, serial)| {
            let (found, serial) = differing_rows(found, serial);
            found.len().max(serial.len())
        });
        rows.sum::<usize>() + self.differing_ends(to, renaming.as_ref()).count()
    }

    /// Shows this outcome beside that of the serial order.
    pub(super) fn difference(
        &self,
        serial: &SerialOutcome,
        tables: &ComparedTables,
        initial: Option<&Contents>,
        clients: &[&str],
    ) -> SerialDifference {
        let to = &serial.outcome;
        let (renaming, contents) = self.renamed_towards(to, tables, initial);
        let order = serial.order.iter().map(|client| clients[*client].to_owned()).collect();
        let mut difference = SerialDifference::new(order);
        for ((table, found), serial) in tables.tables.iter().zip(&contents.0).zip(&to.contents.0) {
            difference.add_table(table, found, serial);
        }
        let differing: Vec<usize> = self.differing_ends(to, renaming.as_ref()).collect();
        let ends = self.ends.iter().zip(&to.ends).enumerate();
        for (client, (found, serial)) in ends {
            difference.add_end(clients[client], found.as_ref(), serial.as_ref(), differing.contains(&client));
        }
        difference
    }

    /// Renames generated ids in ascending order.
    fn renamed_towards(
        &self,
        to: &Self,
        tables: &ComparedTables,
        initial: Option<&Contents>,
    ) -> (Option<Renaming>, Contents) {
        let renaming = Renaming::all(tables, initial, &self.contents, &to.contents).into_iter().next();
        let contents = renaming.as_ref().map(|renaming| renaming.rename(tables, &self.contents));
        (renaming, contents.unwrap_or_else(|| self.contents.clone()))
    }

    /// The clients that ended differently. A client whose commit is unknown may have ended in any way.
    fn differing_ends<'o>(
        &'o self,
        to: &'o Self,
        renaming: Option<&'o Renaming>,
    ) -> impl Iterator<Item = usize> + 'o {
        let differ = move |found: &Option<ClientEnd>, serial: &Option<ClientEnd>| match (found, serial) {
            (Some(ClientEnd::Returned(found)), Some(ClientEnd::Returned(serial))) => {
                !renaming.map_or(found == serial, |renaming| renaming.are_equal(found, serial))
            }
            (Some(ClientEnd::Returned(_)), _) => true,
            _ => false,
        };
        let ends = self.ends.iter().zip(&to.ends).enumerate();
        ends.filter(move |(_, (found, serial))| differ(found, serial)).map(|(client, _)| client)
    }
}
