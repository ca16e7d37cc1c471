//! What SeaORM needs of each database.

use sea_orm::{DbBackend, ExecResult, QueryResult};
use sea_query_sqlx::SqlxValues;

use crate::backend::Backend;

/// A database that SeaORM supports as well: PostgreSQL, MySQL/MariaDB and SQLite.
pub trait SeaOrmBackend:
    Backend + sqlx::Database<Row: Into<QueryResult>, QueryResult: Into<ExecResult>>
{
    #[doc(hidden)]
    const BACKEND: DbBackend;

    /// Encodes values as arguments of a statement.
    #[doc(hidden)]
    fn arguments(values: SqlxValues) -> Self::Arguments;
}

#[cfg_attr(not(any(feature = "postgres", feature = "mysql", feature = "sqlite")), allow(unused_macros))]
macro_rules! backend {
    ($database:ty, $backend:ident) => {
        impl SeaOrmBackend for $database {
            const BACKEND: DbBackend = DbBackend::$backend;

            fn arguments(values: SqlxValues) -> Self::Arguments {
                sqlx::IntoArguments::<Self>::into_arguments(values)
            }
        }
    };
}

#[cfg(feature = "postgres")]
backend!(sqlx::Postgres, Postgres);
#[cfg(feature = "mysql")]
backend!(sqlx::MySql, MySql);
#[cfg(feature = "sqlite")]
backend!(sqlx::Sqlite, Sqlite);
