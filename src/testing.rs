//! Deterministic tests of concurrent transactions, without sleeps.
//!
//! A transaction of this crate sees every statement that its unit of work sends. The test kit can delay each
//! statement, put the statements of several clients in any order, and let them fail, on the database that the
//! application uses.
//!
//! - [`explore`] runs a few units through every interleaving of their statements and checks invariants after
//!   each.
//! - [`advise`] explores units under several strategies, and recommends the cheapest one that is right.
//! - [`Faults`] injects failures at single steps, and [`assert_retry_safe`] at each step in turn.
//! - [`error`] makes an [`Error`](crate::Error) of any kind, to test what a program does with it.
//! - [`LockOrder`] reports opposite lock orders before they deadlock.
//! - `assert_fenced` (feature `queue`) lets the leases of a job handler expire at each point of its work.
//! - [`certify`] finds out which promises a server keeps: isolation levels, locks, limits, and much more.
//! - [`history`] checks the reads and writes of many clients for the anomalies that isolation levels forbid.
//!
//! Everything works with `#[tokio::test]` and with your own pools and transactors. Tests share no state.

mod advisor;
mod bound_sql;
mod certify;
mod errors;
mod explore;
mod faults;
pub mod history;
mod lock_order;
mod retry_safe;
#[cfg(feature = "queue")]
mod zombie;

pub use crate::intercept::Fault;
pub use advisor::{Advice, AdviceCell, Advisor, AdvisorProgress, UnitAdvice, advise};
pub use certify::{
    Certification, CertifyProgress, Sheet, SheetDifference, SheetEntry, SheetFinding, Standing, certify,
};
pub use errors::{constraint_error, error, error_after};
pub use explore::{
    AnomalyName, Client, Counterexample, Explore, ExploreError, Gap, ParseScheduleError, Problem, Report,
    Schedule, SerialDifference, explore,
};
pub use faults::{Faults, Moment};
pub use lock_order::{AcquisitionOrder, Inversion, LockOrder, Locked, UnknownLocks, UnknownReason, Watched};
pub use retry_safe::{NotRetrySafe, RetryCheckError, assert_retry_safe, check_retry_safe};
#[cfg(feature = "queue")]
pub use zombie::{NotFenced, assert_fenced, check_fenced, lapse_lease};
