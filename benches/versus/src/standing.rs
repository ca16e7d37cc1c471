//! The figures of contenders.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::workload::Workload;

/// The figures of one workload at one distance from the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Panel {
    pub(crate) workload: Workload,
    /// The round-trip time to the server, in milliseconds.
    pub(crate) rtt: u64,
    pub(crate) standings: Vec<Standing>,
}

impl Panel {
    pub(crate) fn title(&self) -> String {
        let title = self.workload.title();
        if self.rtt == 0 { title.to_owned() } else { format!("{title}, {} ms away", self.rtt) }
    }

    pub(crate) fn round_trip(&self) -> Duration {
        Duration::from_millis(self.rtt)
    }
}

/// The result of one contender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) name: String,
    pub(crate) per_second: f64,
    /// The worst and the best turn.
    pub(crate) range: (f64, f64),
    /// The latency in milliseconds that 99 of 100 transactions do not exceed; `None` for pgbench, which
    /// reports averages.
    pub(crate) p99: Option<f64>,
    /// For how many round trips a transaction holds its lock on the one hot row.
    pub(crate) holds: Option<f64>,
    /// The ratio of this contender to pgbench.
    pub(crate) of_pgbench: f64,
    /// The ratio of `atomically` to this contender.
    pub(crate) behind: f64,
}

/// The time for which each transaction holds the lock on the row that all of them need, in round trips.
///
/// Transactions that wait for one another's lock run one at a time, so their rate is the inverse of that time.
/// Not for contenders that commit many calls together.
pub(crate) fn hold(per_second: f64, round_trip: Duration) -> Option<f64> {
    (!round_trip.is_zero()).then(|| 1.0 / per_second / round_trip.as_secs_f64())
}
