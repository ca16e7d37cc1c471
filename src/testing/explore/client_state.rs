//! The state of one client between two steps.

use tokio::sync::oneshot;

use crate::intercept::{Next, Step};

/// The result of a client's future: what it returned, or its error, as text.
pub(in crate::testing) type ClientResult = Result<String, String>;

/// The state of one client between two steps.
#[derive(Debug)]
pub(super) enum ClientState {
    /// Running, or waiting: for a lock in the server, or in the queue of a gate in this process.
    Running { session: Option<i64>, in_line: bool },
    /// Stopped before a step, until `go` is sent.
    Held { step: Step, go: oneshot::Sender<()> },
    /// A step found the database busy, at a time when `ended` transactions had ended. Waits for `decide`.
    Busy { decide: oneshot::Sender<Next>, ended: usize },
    /// The client has ended.
    Done,
}
