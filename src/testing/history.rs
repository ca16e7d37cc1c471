//! Checks what clients did and saw for the anomalies that isolation is to prevent.

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
pub use report::{NotUnique, Order, Report};
pub use table::Lists;
pub use transaction::{History, Operation, Outcome, Transaction};
pub use workload::{Appends, ListAppend};
