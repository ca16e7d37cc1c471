//! Tests of concurrent code that do not sleep and hope.

mod explore;
mod shown;

pub use crate::intercept::Fault;
pub use explore::{BadSchedule, Client, Explore, Finding, Problem, Report, Schedule, Unexplored, explore};
