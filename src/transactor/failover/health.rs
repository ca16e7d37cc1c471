//! Finds out whether a node takes writes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use sqlx::{Connection as _, Pool};
use tokio::time::timeout;

use crate::backend::Backend;

/// How long an orderly close may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The answer of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    TakesWrites,
    /// It answers, but is read-only, is not a member of its cluster, or has no room for a connection.
    TakesNone,
    /// It cannot be reached, or does not answer in time.
    Silent,
}

/// The check of one node that is in progress, which all attempts share: a node in trouble must not be given a
/// connection for each of them.
#[derive(Debug, Default)]
pub(super) struct HealthChecks(Mutex<Option<WeakShared<BoxFuture<'static, Health>>>>);

impl HealthChecks {
    /// Joins the check that is in progress, or starts one.
    pub(super) fn join<DB: Backend>(
        &self,
        pool: &Pool<DB>,
        limit: Duration,
    ) -> Shared<BoxFuture<'static, Health>> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = latest.as_ref().and_then(WeakShared::upgrade);
        if let Some(in_progress) = known.filter(|check| check.peek().is_none()) {
            return in_progress;
        }
        let check = check(pool.clone(), limit).boxed().shared();
        *latest = check.downgrade();
        check
    }
}

/// Connects to the node outside of its pool, whose connections may all be in use, and asks it.
async fn check<DB: Backend>(pool: Pool<DB>, limit: Duration) -> Health {
    timeout(limit, ask(&pool)).await.unwrap_or(Health::Silent)
}

async fn ask<DB: Backend>(pool: &Pool<DB>) -> Health {
    let mut connection = match DB::Connection::connect_with(&pool.connect_options()).await {
        Ok(connection) => connection,
        Err(sqlx::Error::Database(_)) => return Health::TakesNone,
        Err(_) => return Health::Silent,
    };
    let mut health = Health::TakesNone;
    if let Some(question) = DB::READ_ONLY_QUERY {
        let reply = DB::send_text(&mut connection, question.to_owned()).await;
        if reply.error.is_none() && reply.integers == [0] {
            health = Health::TakesWrites;
        }
    }
    let _ = timeout(CLOSE_LIMIT, connection.close()).await;
    health
}
