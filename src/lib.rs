//! Correct and fast concurrent updates of a database, for sqlx.
//!
//! A *unit of work* is an async closure that runs your own sqlx queries. A *transactor* runs it as one
//! transaction on PostgreSQL, MySQL/MariaDB or SQLite, under a *strategy* that you choose in one place: row
//! locks, version checks, single statements, serializable isolation, or an adaptive mix. It retries the unit
//! after a conflict with another transaction, and reports precisely why a unit did not commit.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
//! use atomically::{Pessimistic, TransactorExt};
//!
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! # sqlx::query("CREATE TABLE event (id INTEGER PRIMARY KEY, seats INTEGER)").execute(&pool).await?;
//! # sqlx::query("INSERT INTO event VALUES (1, 100)").execute(&pool).await?;
//! let db = Pessimistic::default().on(&pool);
//!
//! let left: i64 = db
//!     .run(async |tx| -> Result<_, atomically::Error> {
//!         let seats: i64 = sqlx::query_scalar(tx.for_update("SELECT seats FROM event WHERE id = 1"))
//!             .fetch_one(&mut *tx)
//!             .await?;
//!         sqlx::query("UPDATE event SET seats = $1 WHERE id = 1").bind(seats - 1).execute(&mut *tx).await?;
//!         Ok(seats - 1)
//!     })
//!     .await?;
//! assert_eq!(left, 99);
//! # Ok(()) }
//! ```
//!
//! # Where to start
//!
//! - [`TransactorExt::run`] runs a unit of work; [`Tx`] is the transaction that it runs on.
//! - [`Pessimistic`], [`Optimistic`], [`Atomic`], [`Serializable`] and [`Adaptive`] are the strategies;
//!   implement [`Strategy`] for one of your own.
//! - [`TransactorExt::on_key`] names the row that many units contend for, so that they wait at a [`Gate`] and
//!   not in the pool.
//! - [`Deltas`] adds to hot counters, many additions in one commit.
//! - [`Options`] holds deadlines, limits and the rest, for all runs or for one.
//! - [`Engine`] tells which product and version runs behind a pool, and what it supports.
//! - [`Error`] says why a unit did not commit; [`Failure`] is what the database reported.
//! - [`Schema`] has the tables that idempotency keys, queues and lookups of commits need; [`Purge`] deletes
//!   what has expired in them.
//! - The [`guide`] begins with [moving existing sqlx code](guide::migrating), [axum
//!   services](guide::axum_service), [reads](guide::reading) and [several
//!   databases](guide::several_databases). It explains which strategy to choose, what can go wrong, how to
//!   test a service, and how to operate and monitor it.
//!
//! # Guarantees
//!
//! 1. *No lost update* under any of the strategies.
//! 2. *No double effect*: a unit is never retried blindly after a commit whose outcome is unknown.
//! 3. *No silent loss*: a transaction that the database rolled back never reports success.
//! 4. *No stuck worker*: every wait has a limit, and a dropped future leaves neither a lock nor an unclean
//!    connection behind.
//! 5. *No starvation*: a unit commits, or returns a typed error, by its deadline.
//!
//! # Non-goals
//!
//! The crate is not a query builder, an ORM or a pool: sqlx provides queries and pools. It does not
//! coordinate transactions across several databases.
//!
//! # Features
//!
//! | feature | provides | enables |
//! |---|---|---|
//! | `postgres` | PostgreSQL and engines with its protocol | `sqlx/postgres` |
//! | `mysql` | MySQL, MariaDB and engines with their protocol | `sqlx/mysql` |
//! | `sqlite` | SQLite | `sqlx/sqlite` |
//! | `holds` | `atomically::holds`: seats, stock and credit that are taken for minutes | |
//! | `idempotency` | `atomically::idempotency`: one effect per key | `serde`, `serde_json`, `sha2` |
//! | `http` | `atomically::http`: idempotency keys and entity tags | `idempotency`, `bytes`, `http` |
//! | `axum` | extractors and responses for axum 0.8 | `http`, `axum` |
//! | `lease` | `atomically::lease`: one holder at a time, for minutes; leader election | |
//! | `queue` | `atomically::queue`: fenced jobs, the outbox | `serde`, `serde_json`, `tokio/{macros,sync}` |
//! | `sea-orm` | `atomically::sea_orm`: SeaORM's entities inside a unit | `sea-orm` |
//! | `tracing` | spans and log events: [`guide::monitoring`] | `tracing` |
//! | `metrics` | `atomically::Metrics`: counters and histograms, for Prometheus and others | `metrics` |
//! | `testing` | `atomically::testing`: the test kit | `petgraph`, `serde_json`, `sqlparser`, `textwrap` |
//! | `serde` | `Serialize` for what the advisor of `testing` found out | `serde` |
//!
//! No feature is enabled by default. For TLS, enable one of sqlx's `tls-*` features in your own manifest.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]
#![cfg_attr(
    not(all(feature = "postgres", feature = "mysql", feature = "sqlite", feature = "testing")),
    allow(dead_code, reason = "used by features that are not enabled")
)]

// Plain data: no I/O, no clock, no database.
mod backoff;
mod boxed;
mod retry_budget;
mod deadlock;
mod isolation;
mod row_lock;
mod digest;
mod local_settings;
mod sql_text;
mod failure;
mod schema;
// The contract between strategies and the retry loop.
mod strategy;
// Hooks for the test kit.
mod intercept;
// SQL and error codes of each database.
mod backend;
mod error;
// Events for observers, and the telemetry behind them.
mod events;
mod telemetry;
// One attempt.
mod tx;
// Many attempts.
mod gate;
mod transactor;
mod strategies;
// Built on transactors. The modules below do not import each other.
mod batching;
mod deltas;
// What claims of jobs and leases share.
#[cfg(any(feature = "lease", feature = "queue"))]
mod lease_clock;
#[cfg(any(feature = "lease", feature = "queue"))]
mod wake;
// Optional features, built on everything above.
#[cfg(feature = "holds")]
#[cfg_attr(docsrs, doc(cfg(feature = "holds")))]
pub mod holds;
#[cfg(feature = "idempotency")]
pub mod idempotency;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
#[cfg(feature = "lease")]
#[cfg_attr(docsrs, doc(cfg(feature = "lease")))]
pub mod lease;
#[cfg(feature = "queue")]
#[cfg_attr(docsrs, doc(cfg(feature = "queue")))]
pub mod queue;
#[cfg(feature = "sea-orm")]
#[cfg_attr(docsrs, doc(cfg(feature = "sea-orm")))]
pub mod sea_orm;
// House-keeping for the features above.
mod purge;
// The test kit for units of work.
#[cfg(feature = "testing")]
pub mod testing;
// The guide.
pub mod guide;

pub use backend::{Backend, Capability, Engine, EngineCluster, EngineProduct, EngineVersion, Key, Support};
pub use backoff::Backoff;
pub use deadlock::{DeadlockParty, DeadlockReport, DeadlockUnit, WantedLock};
pub use deltas::{DeltaOutcome, Deltas};
pub use error::{Error, ErrorKind};
pub use events::{
    Event, HoldEvent, JobEvent, KeyOutcome, LeaseEvent, Observer, PurgeEvent, PurgedTable, Run, RunOutcome,
    Summary, Times, UnitEvent,
};
pub use failure::{Constraint, ConstraintKind, Failure, FailureKind};
pub use gate::Gate;
pub use isolation::{Access, Begin, Isolation};
pub use purge::{Purge, Purged};
pub use retry_budget::RetryBudget;
pub use row_lock::RowLock;
pub use schema::{Schema, SchemaFinding, SchemaPart};
pub use strategies::{Adaptive, Atomic, Optimistic, Pessimistic, Serializable};
pub use strategy::{Attempt, Plan, Resolve, Strategy, Verdict};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use telemetry::Metrics;
pub use transactor::{
    Decision, Ended, Failover, OnRows, Options, PoolTransactor, Reading, RowKeys, Transactor, TransactorExt,
    Unit, With,
};
pub use tx::{AtCommit, Repeatable, RowsFn, RowsTxFn, ScopeFn, Tx, TxFn, UnitError, UnitFn};

/// Compiles the examples of the README.
#[cfg(all(doctest, feature = "postgres", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;
