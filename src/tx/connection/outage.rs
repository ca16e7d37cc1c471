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
use crate::backend::{Backend, failure_or_other};
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
                let reason = format!("no answer within {limit:?}");
                record_refusal(key_of(&pool), RefusedConnection { reason, by_server: false });
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
    let (options, key) = (pool.connect_options(), key_of(pool));
    tokio::spawn(async move {
        let connected = timeout(SERVER_LIMIT, DB::Connection::connect_with(&options)).await;
        if let Ok(Err(error)) = &connected {
            record_refusal(key, refusal::<DB>(error));
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

/// Why a server refused a connection, without its address.
#[derive(Debug, Clone)]
pub(crate) struct RefusedConnection {
    pub(crate) reason: String,
    /// Whether the server itself gave the reason, so that it can be reached.
    pub(crate) by_server: bool,
}

fn refusal<DB: Backend>(error: &sqlx::Error) -> RefusedConnection {
    match error {
        // Without sqlx's prefix.
        sqlx::Error::Io(error) => RefusedConnection { reason: with_causes(error), by_server: false },
        sqlx::Error::Database(_) => {
            let failure = failure_or_other::<DB>(error);
            let code = failure.code().map(|code| format!(" ({code})")).unwrap_or_default();
            RefusedConnection { reason: format!("{}{code}", failure.message()), by_server: true }
        }
        error => RefusedConnection { reason: with_causes(error), by_server: false },
    }
}

/// The last reason why the server refused a connection of each pool, by the identity of the pool and the
/// server's address, because a new pool may have the identity of one that is gone. sqlx's pool does not
/// report the reason.
static REFUSALS: LazyLock<Mutex<HashMap<PoolKey, (Instant, RefusedConnection)>>> =
    LazyLock::new(Mutex::default);

/// The identity of a pool, and the address of its server.
type PoolKey = (usize, String);

/// How long refusals are kept.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(60);

fn key_of<DB: Backend>(pool: &Pool<DB>) -> PoolKey {
    (identity(pool), DB::address(&pool.connect_options()))
}

fn record_refusal(key: PoolKey, refusal: RefusedConnection) {
    let mut refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    refusals.retain(|_, (at, _)| at.elapsed() < REFUSAL_LIFETIME);
    refusals.insert(key, (Instant::now(), refusal));
}

/// Returns why the server last refused a connection of this pool, if it has done so since `since`.
pub(crate) fn refusal_since(pool: usize, address: &str, since: Instant) -> Option<RefusedConnection> {
    let refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    refusals
        .get(&(pool, address.to_owned()))
        .filter(|(at, _)| *at >= since)
        .map(|(_, refusal)| refusal.clone())
}
