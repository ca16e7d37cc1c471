//! Checks what clients did and saw for the anomalies that isolation is to prevent: lost updates, dirty and
//! aborted reads, and the cycles G0, G1c, G-single and G2-item.
//!
//! A [`History`] is a list of transactions that append values to lists and read them. Because every value is
//! appended once, and a list keeps them in order, what was read tells who came before whom. Where that goes
//! round in a circle, no order explains what happened, and the circle is the proof. That is the method of
//! [Elle](https://github.com/jepsen-io/elle), with [Adya's](https://pmg.csail.mit.edu/papers/icde00.pdf)
//! names for the circles.
//!
//! ```
//! use atomically::Isolation;
//! use atomically::testing::history::{AnomalyKind, History, Operation, Transaction};
//!
//! // Each looks at the list that the other is going to append to: write skew.
//! let history: History = [
//!     Transaction::committed([Operation::read(1, []), Operation::append(2, 4)]),
//!     Transaction::committed([Operation::read(2, []), Operation::append(1, 5)]),
//! ]
//! .into_iter()
//! .collect();
//!
//! let report = history.check()?;
//! report.assert(Isolation::RepeatableRead);
//! assert!(report.has(AnomalyKind::G2Item));
//! assert_eq!(
//!     report.anomalies()[0].to_string(),
//!     "G2-item: T1 -rw-> T2 -rw-> T1
//!   T1 -rw-> T2: T1 read [] of key 1, without 5, which T2 appended
//!   T2 -rw-> T1: T2 read [] of key 2, without 4, which T1 appended
//!   T1 committed: read [] of key 1, append 4 to key 2
//!   T2 committed: read [] of key 2, append 5 to key 1"
//! );
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`ListAppend`] runs a ready-made load on your pool, through your transactor, and records it.
//! - [`Recorder`] records units of your own.
//! - [`History::check`] finds what is wrong, and [`Report::assert`] says which of it a level forbids.
//!
//! The guide has [a chapter](crate::guide::histories) on it. Nothing here is global: tests may run next to
//! each other.

mod anomaly;
mod cycles;
mod dependencies;
mod reads;
mod recorder;
mod report;
mod table;
mod transaction;
mod versions;
mod workload;

pub use anomaly::{Anomaly, AnomalyKind, DependencyKind, Step};
pub use recorder::{Attempt, Recorder, Run, Session};
pub use report::{Order, Report};
pub use transaction::{History, NotUnique, Operation, Outcome, Transaction};
pub use workload::{Appends, ListAppend};
