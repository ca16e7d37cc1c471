//! Statements that share a text with BEGIN or COMMIT: none, because there is no round trip to save.

use sqlx::MySql;

use crate::backend::folded::FoldedSql;

impl FoldedSql for MySql {}
