//! Additions to the numbers of rows.

use sqlx::Postgres;

#[cfg(feature = "holds")]
use super::hold_statement;
use super::single_statement;
use crate::backend::additions::{AddInOneStatement, AdditionSql, Target};
#[cfg(feature = "holds")]
use crate::backend::additions::{HoldInOneStatement, HoldRecords};
use crate::backend::codec::Key;

impl AdditionSql for Postgres {
    fn add_in_one_statement<K: Key<Self>>(target: Target) -> Option<Box<dyn AddInOneStatement<Self, K>>> {
        single_statement::statement(target)
    }

    #[cfg(feature = "holds")]
    fn hold_in_one_statement<K: Key<Self>>(
        target: Target,
        records: HoldRecords<'_>,
    ) -> Option<Box<dyn HoldInOneStatement<Self, K>>> {
        hold_statement::statement(target, records)
    }
}
