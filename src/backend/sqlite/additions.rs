//! Additions to the numbers of rows.

use sqlx::Sqlite;

use super::single_statement;
use crate::backend::additions::{AddInOneStatement, AdditionSql, Target};
use crate::backend::codec::Key;

impl AdditionSql for Sqlite {
    fn add_in_one_statement<K: Key<Self>>(target: Target) -> Option<Box<dyn AddInOneStatement<Self, K>>> {
        single_statement::statement(target)
    }
}
