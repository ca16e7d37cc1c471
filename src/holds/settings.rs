//! The settings of holds.

use crate::backend::{Backend, Target};
use crate::batching::{BatchLimits, NumberColumn};
use crate::schema::Schema;
use crate::transactor::Options;

use super::sql::{HoldSql, Records};

/// The settings of a [`Holds`](super::Holds).
#[derive(Debug, Clone)]
pub(super) struct HoldSettings {
    pub(super) target: Target,
    /// The name under which holds of this column are stored.
    pub(super) name: String,
    pub(super) floor: i64,
    pub(super) options: Options,
    pub(super) limits: BatchLimits,
    pub(super) persistent: bool,
    pub(super) single_statement: bool,
}

impl HoldSettings {
    pub(super) fn new(target: Target) -> Self {
        let Target { table, key, column } = target;
        Self {
            target,
            name: format!("{table}.{key}.{column}"),
            floor: 0,
            options: Options::new(),
            limits: BatchLimits::DEFAULT,
            persistent: true,
            single_statement: true,
        }
    }

    pub(super) fn numbers<DB: Backend>(&self) -> NumberColumn {
        NumberColumn {
            target: self.target,
            persistent: self.persistent,
            shares_texts: self.single_statement,
            result: "difference",
            also: Some(HoldSql::of::<DB>().clock),
        }
    }

    pub(super) fn records(&self) -> Records<'_> {
        Records { target: &self.name, schema: self.schema() }
    }

    pub(super) fn schema(&self) -> Schema {
        self.options.tables()
    }
}
