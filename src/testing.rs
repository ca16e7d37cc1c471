//! Tests of concurrent code that do not sleep and hope.
//!
//! A transaction of this crate sees every statement that its unit of work sends. So statements can be held
//! back, put in any order and made to fail, on the database that the application runs on.
//!
//! - [`explore`] drives a few units through every interleaving of their statements and checks what must hold
//!   after each.
//! - [`Faults`] lets single steps fail, and [`assert_retry_safe`] lets each of them fail in turn.
//! - [`LockOrder`] reports locks that are taken in two orders, before they deadlock.
//! - `assert_fenced` (with the feature `queue`) lets the leases of a queue's handler lapse.
//! - [`history`] checks what many clients did and saw for the anomalies that isolation is to prevent.
//!
//! Everything works with `#[tokio::test]`, with your own pools and transactors, and without any state that is
//! shared by two tests.

mod explore;
mod faults;
pub mod history;
mod lock_order;
mod retry_safe;
mod shown;
#[cfg(feature = "queue")]
mod zombie;

pub use crate::intercept::Fault;
pub use explore::{
    BadSchedule, Client, Counterexample, Explore, Gap, Problem, Report, Schedule, Unexplored, explore,
};
pub use faults::{Faults, Moment};
pub use lock_order::{Inversion, LockOrder, Locked, Order, Unclear, Unknown, Watched};
pub use retry_safe::{NotRetrySafe, RetryCheck, assert_retry_safe, check_retry_safe};
#[cfg(feature = "queue")]
pub use zombie::{NotFenced, assert_fenced, check_fenced, lapse_lease};
