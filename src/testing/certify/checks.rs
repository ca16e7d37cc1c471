//! All checks, in the order of the sheet.

use futures_core::future::BoxFuture;

use super::lab::Lab;
use super::obstacle::CheckObstacle;
use super::sheet::Standing;
use crate::backend::Backend;

mod commits;
mod isolation;
mod limits;
mod locks;
mod nodes;
mod retries;
mod sessions;
mod statements;

/// The check that all other checks of nodes presuppose.
pub(super) const SAME_DATA: &str = "nodes.same-data";

/// What the server does about a promise, and the evidence.
pub(super) type CheckResult = Result<(Standing, String), CheckObstacle>;

type RunCheck<DB> = Box<dyn for<'a> Fn(&'a Lab<DB>) -> BoxFuture<'a, CheckResult> + Send + Sync>;

/// One check.
pub(super) struct CertifyCheck<DB: Backend> {
    pub(super) id: String,
    pub(super) promise: String,
    pub(super) run: RunCheck<DB>,
}

impl<DB: Backend> CertifyCheck<DB> {
    fn new(
        id: impl Into<String>,
        promise: impl Into<String>,
        run: impl for<'a> Fn(&'a Lab<DB>) -> BoxFuture<'a, CheckResult> + Send + Sync + 'static,
    ) -> Self {
        Self { id: id.into(), promise: promise.into(), run: Box::new(run) }
    }
}

/// The checks for one address, and those for several.
pub(super) fn all<DB: Backend>(nodes: usize) -> Vec<CertifyCheck<DB>> {
    let mut checks = isolation::checks();
    checks.extend(commits::checks());
    checks.extend(statements::checks());
    checks.extend(locks::checks());
    checks.extend(retries::checks());
    checks.extend(limits::checks());
    checks.extend(sessions::checks());
    if nodes > 1 {
        checks.extend(nodes::checks());
    }
    checks
}

fn held(evidence: impl Into<String>) -> CheckResult {
    Ok((Standing::Held, evidence.into()))
}

fn not_held(evidence: impl Into<String>) -> CheckResult {
    Ok((Standing::NotHeld, evidence.into()))
}

fn not_offered(evidence: impl Into<String>) -> CheckResult {
    Ok((Standing::NotOffered, evidence.into()))
}
