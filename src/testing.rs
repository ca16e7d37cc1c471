//! Tests of concurrent code that do not sleep and hope.

mod explore;
mod lock_order;
mod shown;

pub use crate::intercept::Fault;
pub use explore::{BadSchedule, Client, Explore, Finding, Problem, Report, Schedule, Unexplored, explore};
pub use lock_order::{Inversion, LockOrder, Locked, Order, Unclear, Unknown, Watched};
