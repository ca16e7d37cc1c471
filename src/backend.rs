//! The SQL of each database, and the meaning of its errors.
//!
//! Each trait below covers one subject. It is implemented once per database, in a file of the same name in
//! `postgres/`, `mysql/` and `sqlite/`, with the items in the same order: a diff of two of these files
//! shows how two databases differ. Their functions are pure and tested without a server; statements are
//! sent by [`Wire`] only.

use crate::failure::Failure;

mod additions;
mod carried_failure;
mod certification;
#[cfg(all(test, feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod classification;
mod codec;
mod commit_marker;
mod contents;
mod driver;
mod engine;
mod error_text;
mod errors;
mod folded;
mod limits;
mod locks;
mod messages;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod query;
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;
mod transaction;
mod values;
mod wire;

use additions::AdditionSql;
pub(crate) use additions::{AddInOneStatement, Addition, Target};
#[cfg(feature = "holds")]
pub(crate) use additions::{HoldGroup, HoldInOneStatement, HoldRecords, short_lock_wait};
pub(crate) use carried_failure::{SyntheticError, with_failure};
use certification::CertificationSql;
#[cfg(feature = "testing")]
pub(crate) use certification::CertifiedLevel;
pub use codec::Key;
#[cfg(any(feature = "holds", feature = "idempotency", feature = "queue", feature = "testing"))]
pub(crate) use codec::Value;
pub(crate) use codec::required;
use commit_marker::CommitMarkerSql;
pub(crate) use commit_marker::TransactionStatus;
use contents::ContentsSql;
#[cfg(feature = "testing")]
pub(crate) use contents::FIELD_SEPARATOR;
use engine::Product;
pub use engine::{Capability, Engine, EngineCluster, EngineProduct, EngineVersion, Support};
#[cfg(feature = "idempotency")]
pub(crate) use error_text::json_error_text;
pub(crate) use error_text::{error_text, source as quotable_source};
use errors::ErrorReports;
pub(crate) use errors::{Provocation, failure_of, failure_or_other};
use folded::FoldedSql;
pub(crate) use folded::{FoldedText, Folding, Literal, PreparedNames, Unwritable};
#[cfg(all(feature = "postgres", feature = "queue"))]
pub(crate) use limits::whole_millis;
#[cfg(feature = "idempotency")]
pub(crate) use limits::whole_seconds;
use locks::LockSql;
#[cfg(feature = "testing")]
pub(crate) use locks::LockWait;
pub(crate) use locks::SnapshotAge;
#[cfg(all(feature = "postgres", feature = "queue"))]
pub(crate) use postgres::prepared::PreparedStatement;
pub(crate) use query::{Reply, WatchedQuery};
pub(crate) use schema::CatalogScope;
use schema::SchemaSql;
pub(crate) use statements::BeforeLoneStatement;
use statements::StatementRules;
use transaction::TransactionSql;
pub(crate) use transaction::{Closing, CommitSql, ProbeSavepoint, Survival};
pub(crate) use wire::{ResultOrRow, Wire};

/// A database that units of work can run on: `Postgres`, `MySql` (which includes MariaDB) or `Sqlite`.
///
/// The trait is sealed: it cannot be implemented outside of this crate. Products that speak the protocol of
/// one of the three run on its implementation.
pub trait Backend: sealed::Sealed {}

mod sealed {
    use super::{
        AdditionSql, CertificationSql, CommitMarkerSql, ContentsSql, ErrorReports, FoldedSql, LockSql,
        Product, SchemaSql, StatementRules, TransactionSql, Wire,
    };

    /// The subjects of a backend.
    pub trait Sealed:
        Wire
        + Product
        + TransactionSql
        + StatementRules
        + LockSql
        + SchemaSql
        + ContentsSql
        + CertificationSql
        + CommitMarkerSql
        + AdditionSql
        + FoldedSql
        + ErrorReports
    {
    }
}

/// Classifies an error whose database is unknown.
pub(crate) fn failure_of_any(error: &sqlx::Error) -> Option<Failure> {
    let failure = driver::failure(error);
    #[cfg(feature = "postgres")]
    let failure = failure.or_else(|| failure_of::<sqlx::Postgres>(error, false));
    #[cfg(feature = "mysql")]
    let failure = failure.or_else(|| failure_of::<sqlx::MySql>(error, false));
    #[cfg(feature = "sqlite")]
    let failure = failure.or_else(|| failure_of::<sqlx::Sqlite>(error, false));
    failure
}
