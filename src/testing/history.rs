//! Checks recorded histories for the anomalies that isolation levels forbid: lost updates, dirty and aborted
//! reads, and the cycles G0, G1c, G-single and G2-item.
//!
//! A [`History`] is a list of transactions that append values to lists and read the lists. Every value is
//! appended at most once and a list keeps its order, so the reads show which transactions came before which.
//! If these dependencies form a cycle, no serial order explains the history, and the cycle is the proof. This
//! is the method of [Elle](https://github.com/jepsen-io/elle). The anomalies are named as by
//! [Adya](https://pmg.csail.mit.edu/papers/icde00.pdf).
//!
//! ```
//! use atomically::Isolation;
//! use atomically::testing::history::{AnomalyKind, History, Operation, Transaction};
//!
//! // Each transaction reads the list that the other one appends to: write skew.
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
//! - [`ListAppend`] runs a ready-made workload through your transactor and records it.
//! - [`Recorder`] records your own units.
//! - [`History::check`] finds the anomalies, and [`CheckReport::assert`] fails on those that an isolation
//!   level forbids.
//!
//! The guide has [a chapter](crate::guide::histories) on histories. There is no global state, so tests may
//! run concurrently.

mod anomaly;
mod check;
mod cycles;
mod dependencies;
mod order;
mod reads;
mod recorder;
mod report;
mod table;
mod transaction;
mod versions;
mod workload;

pub use anomaly::{Anomaly, AnomalyKind, CycleStep, DependencyKind};
pub use order::Order;
pub use recorder::{RecordedAttempt, RecordedRun, Recorder, Session};
pub use report::CheckReport;
pub use transaction::{DuplicateValue, History, Operation, Transaction, TransactionOutcome};
pub use workload::{Appends, ListAppend};
