//! Opens the transaction of an attempt.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sqlx::Pool;

use crate::backend::Backend;
use crate::boxed::boxed;
use crate::failure::Failure;
use crate::strategy::{CommitMarker, Plan};
use crate::telemetry::RunClock;
use crate::transactor::deadline::Clock;
use crate::transactor::options::Options;
use crate::tx::{self, ConnectionReuse, NotOpened, RightOfWay, RowRequest, Tx};

/// How the transaction of an attempt is to be opened.
pub(super) struct AttemptOpening<'a, DB: Backend> {
    pub(super) pool: &'a Pool<DB>,
    pub(super) reuse: &'a ConnectionReuse<DB>,
    pub(super) options: &'a Options,
    pub(super) plan: Plan,
    pub(super) attempt: u32,
    pub(super) waits_at_gate: bool,
    pub(super) gives_way_to: Option<RightOfWay>,
    pub(super) connected: &'a AtomicBool,
    pub(super) clock: Clock,
    pub(super) marker: Option<CommitMarker>,
    pub(super) observation: Option<Arc<RunClock>>,
    pub(super) rows: Option<&'a dyn RowRequest<DB>>,
}

impl<DB: Backend> AttemptOpening<'_, DB> {
    /// Opens the transaction, on another connection if a pooled one has died since it was last used, or was
    /// returned to the pool within a transaction.
    ///
    /// Such a connection does not count as an attempt, because nothing was run on it. At most as many are
    /// replaced as the pool holds.
    pub(super) async fn run(&self) -> Result<Box<Tx<DB>>, Failure> {
        let mut replacements = self.pool.options().get_max_connections();
        loop {
            let opening = tx::OpenRequest {
                plan: self.plan,
                limits: self.options.limits(),
                attempt: self.attempt,
                max_attempts: self.options.max_attempts(),
                marker: self.marker,
                schema: self.options.tables(),
                local: self.options.local_settings(),
                may_open_read_write: self.options.may_open_read_write(),
                waits_at_gate: self.waits_at_gate,
                rows: self.rows,
                connected: self.connected,
                gives_way_to: self.gives_way_to.clone(),
                interceptors: self.options.interceptors().clone(),
                run_clock: self.observation.clone(),
            };
            let remaining = || self.clock.server_limit();
            match boxed(|| Tx::open(self.pool, self.reuse, &opening, remaining)).await {
                Ok(tx) => return Ok(tx),
                Err(NotOpened { stale_connection: true, .. }) if replacements > 0 => replacements -= 1,
                Err(NotOpened { failure, .. }) => return Err(failure),
            }
        }
    }
}
