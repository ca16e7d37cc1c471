//! Notices the end of an outage before the pool does.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use sqlx::{Connection as _, Pool};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::CLOSE_LIMIT;
use super::abandoned::SERVER_LIMIT;
use super::extra::{ExtraConnections, ExtraPermit};
use crate::backend::Backend;
use crate::failure::with_causes;
use crate::tx::identity;

/// The pause before each attempt to connect.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a connection attempt may take before another one is started, because the network may have lost
/// the first. Doubled each time, for a server that is slow.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A server that resumes after a stall accepts all pending connections at once. This pause gives the pool
/// time to finish the ones that it is already opening.
const SETTLING: Duration = Duration::from_millis(100);

/// A check for the end of an outage, shared by all runs that wait for their pool to open a connection.
///
/// Resolves to `true` if the server is back and the pool may not have noticed it, because the pool's attempts
/// become less and less frequent. Resolves to `false` if opening a connection merely takes time.
pub(super) type OutageCheck = Shared<BoxFuture<'static, bool>>;

/// Joins the check of this pool that is in progress, or starts one.
///
/// One check serves all runs, because each check connects to the server. If each run had its own, a pool
/// whose server is slow to accept connections would double the number of its sessions.
pub(super) fn check<DB: Backend>(pool: &Pool<DB>) -> OutageCheck {
    static CHECKS: LazyLock<Mutex<HashMap<usize, WeakShared<BoxFuture<'static, bool>>>>> =
        LazyLock::new(Mutex::default);
    let mut checks = CHECKS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = checks.get(&identity(pool)).and_then(WeakShared::upgrade);
    if let Some(in_progress) = known.filter(|check| check.peek().is_none()) {
        return in_progress;
    }
    checks.retain(|_, check| check.upgrade().is_some());
    let check = probe(pool.clone()).boxed().shared();
    if let Some(weak) = check.downgrade() {
        checks.insert(identity(pool), weak);
    }
    check
}

/// Connects to the server, outside of the pool, until that succeeds.
async fn probe<DB: Backend>(pool: Pool<DB>) -> bool {
    let extra = ExtraConnections::of(identity(&pool));
    let (mut refused, mut silent) = (false, false);
    let (mut attempts, mut limit) = (FuturesUnordered::new(), CONNECT_LIMIT);
    loop {
        sleep(PAUSE).await;
        if let Some(permit) = extra.for_probe() {
            let is_first = !refused && !silent;
            let connected = connect(&pool, permit);
            attempts.push(connected.map(move |answers| (answers.unwrap_or(false), is_first)));
        }
        match timeout(limit, attempts.next()).await {
            // The pool's own connections are accepted as well.
            Ok(Some((true, true))) if !refused => return false,
            Ok(Some((true, _))) => {
                if silent {
                    sleep(SETTLING).await;
                }
                return true;
            }
            Ok(Some((false, _))) => refused = true,
            Ok(None) => {}
            Err(_) => {
                record_refusal(identity(&pool), format!("no answer within {limit:?}"));
                (silent, limit) = (true, limit * 2);
            }
        }
    }
}

/// Connects in the background, and reports whether the server accepted the connection.
///
/// The attempt runs in the background, because an abandoned one still becomes a session when the server
/// accepts it. It keeps its permit until then.
fn connect<DB: Backend>(pool: &Pool<DB>, permit: ExtraPermit) -> oneshot::Receiver<bool> {
    let (sender, receiver) = oneshot::channel();
    let (options, pool) = (pool.connect_options(), identity(pool));
    tokio::spawn(async move {
        let connected = timeout(SERVER_LIMIT, DB::Connection::connect_with(&options)).await;
        if let Ok(Err(error)) = &connected {
            record_refusal(pool, reason(error));
        }
        let connection = connected.ok().and_then(Result::ok);
        // The check may have been dropped.
        let _ = sender.send(connection.is_some());
        if let Some(connection) = connection {
            let _ = timeout(CLOSE_LIMIT, connection.close()).await;
        }
        drop(permit);
    });
    receiver
}

/// Returns the reason without sqlx's prefix for I/O errors; error messages add the address.
fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) => with_causes(error),
        error => with_causes(error),
    }
}

/// The last reason why the server refused a connection of each pool. sqlx's pool does not report it.
static REFUSALS: LazyLock<Mutex<HashMap<usize, (Instant, String)>>> = LazyLock::new(Mutex::default);

/// How long refusals are kept.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(60);

fn record_refusal(pool: usize, reason: String) {
    let mut refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    refusals.retain(|_, (at, _)| at.elapsed() < REFUSAL_LIFETIME);
    refusals.insert(pool, (Instant::now(), reason));
}

/// Returns why the server last refused a connection of this pool, if it has done so since `since`.
pub(crate) fn refusal_since(pool: usize, since: Instant) -> Option<String> {
    let refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    refusals.get(&pool).filter(|(at, _)| *at >= since).map(|(_, reason)| reason.clone())
}
