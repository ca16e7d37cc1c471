//! Concurrent database updates that are correct, and fast under contention.
//!
//! A *unit of work* is an async closure with your own sqlx queries in it. A *transactor* runs it as one transaction of
//! PostgreSQL, MySQL/MariaDB or SQLite, under a *strategy* that is picked in one place: it locks, checks versions or
//! relies on serializable isolation; it runs the unit again when concurrency got in its way; and it tells apart what
//! callers must tell apart.
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
//!     .run(async |tx| {
//!         let seats: i64 = sqlx::query_scalar(tx.for_update("SELECT seats FROM event WHERE id = 1"))
//!             .fetch_one(&mut *tx)
//!             .await?;
//!         sqlx::query("UPDATE event SET seats = $1 WHERE id = 1").bind(seats - 1).execute(&mut *tx).await?;
//!         Ok::<_, atomically::Error>(seats - 1)
//!     })
//!     .await?;
//! assert_eq!(left, 99);
//! # Ok(()) }
//! ```
//!
//! # How to read these pages
//!
//! - [`TransactorExt::run`] runs a unit of work; [`Tx`] is what it runs on.
//! - [`Pessimistic`], [`Optimistic`], [`Atomic`], [`Serializable`] and [`Adaptive`] are the strategies; [`Strategy`] is
//!   how to write one.
//! - [`TransactorExt::on_key`] names what many units want at once, so that they wait at a [`Gate`] and not in the pool.
//! - [`Deltas`] adds to numbers that everybody wants at once, many calls to one commit.
//! - [`Options`] is what can be asked for beyond that, for all runs or for one.
//! - [`Error`] says why a unit did not commit; [`Failure`] is what the database said.
//! - The [`guide`] argues: which strategy when, what can go wrong and does, and what stands between you and your database.
//!
//! # What it promises
//!
//! 1. *No lost update* under any of its strategies.
//! 2. *No double effect*: a commit whose outcome is unknown is never blindly run again.
//! 3. *No silent loss*: a transaction that the database has given up never reports success.
//! 4. *No stuck worker*: every wait has a limit; a dropped future leaves neither a lock nor a dirty connection behind.
//! 5. *No starvation*: a unit commits, or gets its typed error, within its deadline.
//!
//! # What it does not do
//!
//! It is no query builder and no ORM: queries are sqlx's. It does not pool: the pool is sqlx's. It does not coordinate
//! databases with each other.
//!
//! # Features
//!
//! | feature | what for | what it adds |
//! |---|---|---|
//! | `postgres` | PostgreSQL and what speaks its protocol | `sqlx/postgres` |
//! | `mysql` | MySQL, MariaDB and what speaks their protocol | `sqlx/mysql` |
//! | `sqlite` | SQLite | `sqlx/sqlite` |
//! | `idempotency` | `atomically::idempotency`: requests that are sent again have one effect and one answer | `serde`, `serde_json`, `sha2` |
//! | `queue` | fenced background jobs and the outbox: `atomically::queue` | `serde`, `serde_json`, `tokio/macros`, `tokio/sync` |
//! | `tracing` | spans and log lines: [`guide::monitoring`] | `tracing` |
//! | `metrics` | `atomically::Metrics`: what units, queues and keys go through, for Prometheus and others | `metrics` |
//! | `testing` | `atomically::testing`: tests that explore interleavings, inject faults, check lock orders and histories | `petgraph`, `sqlparser`, `textwrap` |
//!
//! None is on by default. TLS is left to you: name one of sqlx's `tls-*` features in your own manifest.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]
#![cfg_attr(
    not(all(feature = "postgres", feature = "mysql", feature = "sqlite", feature = "testing")),
    allow(dead_code, reason = "what the features that are left out would use")
)]

// Plain data: no I/O, no clock, no database.
mod backoff;
mod retry_budget;
mod deadlock;
mod isolation;
mod row_lock;
mod digest;
mod sql_text;
mod failure;
// The contract between strategies and the retry loop.
mod strategy;
// What the test kit hooks into.
mod intercept;
// What is true of each database.
mod backend;
mod error;
// What observers learn, and what measures it.
mod events;
mod telemetry;
// One attempt.
mod tx;
// Many attempts.
mod gate;
mod transactor;
mod strategies;
// Built on transactors, side by side.
mod deltas;
#[cfg(feature = "idempotency")]
pub mod idempotency;
#[cfg(feature = "queue")]
#[cfg_attr(docsrs, doc(cfg(feature = "queue")))]
pub mod queue;
// Tests of the caller's units.
#[cfg(feature = "testing")]
pub mod testing;
// Essays.
pub mod guide;

pub use backend::{Backend, Key};
pub use backoff::Backoff;
pub use deadlock::{DeadlockParty, DeadlockReport, DeadlockUnit, WantedLock};
pub use deltas::{DeltaOutcome, Deltas};
pub use error::{Error, ErrorKind};
pub use events::{Event, JobEvent, KeyOutcome, Observer, Run, RunOutcome, Summary, Times, UnitEvent};
pub use failure::{Constraint, ConstraintKind, Failure, FailureKind};
pub use gate::Gate;
pub use isolation::{Access, Begin, Isolation};
pub use retry_budget::RetryBudget;
pub use row_lock::RowLock;
pub use strategies::{Adaptive, Atomic, Optimistic, Pessimistic, Serializable};
pub use strategy::{Attempt, Plan, Resolve, Strategy, Verdict};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use telemetry::Metrics;
pub use transactor::{Ended, Options, PoolTransactor, Transactor, TransactorExt, Unit, Wish, With};
pub use tx::{Repeatable, Tx, TxFn};

/// The examples of the README, which compile.
#[cfg(all(doctest, feature = "postgres", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;
