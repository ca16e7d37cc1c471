//! The end of an outage.

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

use super::FAREWELL_LIMIT;
use super::abandoned::SERVER_LIMIT;
use super::places::{Place, Places};
use crate::backend::Backend;
use crate::failure::with_causes;
use crate::tx::identity;

/// The pause before a server is asked, and again while it does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// After this time without an answer the server is asked by another connection: the network may have lost the
/// request. The next one has twice the time, for a server that is slow.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// A server that stood still answers everybody at once. This is the time for those whose own connection was
/// on its way.
const SETTLING: Duration = Duration::from_millis(100);

/// The question whether an outage is over, shared by all who wait for their pool to open a connection. Yields
/// whether the pool, which tries less and less often, may have missed that the server is back; otherwise
/// opening a connection just takes its time.
pub(super) type Probe = Shared<BoxFuture<'static, bool>>;

/// Joins the probe of this pool that is under way, or begins one.
///
/// # Why one for all?
///
/// Each probe is a session of the server. A pool whose server takes its time for each new session would have
/// as many again as it has runs that wait.
pub(super) fn is_over<DB: Backend>(pool: &Pool<DB>) -> Probe {
    static PROBES: LazyLock<Mutex<HashMap<usize, WeakShared<BoxFuture<'static, bool>>>>> =
        LazyLock::new(Mutex::default);
    let mut probes = PROBES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = probes.get(&identity(pool)).and_then(WeakShared::upgrade);
    if let Some(under_way) = known.filter(|probe| probe.peek().is_none()) {
        return under_way;
    }
    probes.retain(|_, probe| probe.upgrade().is_some());
    let probe = probe(pool.clone()).boxed().shared();
    if let Some(weak) = probe.downgrade() {
        probes.insert(identity(pool), weak);
    }
    probe
}

/// Connects to the server, past the pool, until that succeeds.
async fn probe<DB: Backend>(pool: Pool<DB>) -> bool {
    let places = Places::of(identity(&pool));
    let (mut refused, mut silent) = (false, false);
    let (mut dials, mut patience) = (FuturesUnordered::new(), ANSWER_LIMIT);
    loop {
        sleep(PAUSE).await;
        if let Some(place) = places.for_probe() {
            let is_first = !refused && !silent;
            dials.push(dial(&pool, place).map(move |answers| (answers.unwrap_or(false), is_first)));
        }
        match timeout(patience, dials.next()).await {
            // The pool's own connections get their answers as well.
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
                note_refusal(identity(&pool), format!("no answer within {patience:?}"));
                (silent, patience) = (true, patience * 2);
            }
        }
    }
}

/// Connects in the background, and reports whether the server answered.
///
/// # Why in the background?
///
/// A connection that is given up before it has its answer is a session of the server all the same, once that
/// gets to it. So it keeps its place until then.
fn dial<DB: Backend>(pool: &Pool<DB>, place: Place) -> oneshot::Receiver<bool> {
    let (report, reported) = oneshot::channel();
    let (options, pool) = (pool.connect_options(), identity(pool));
    tokio::spawn(async move {
        let connected = timeout(SERVER_LIMIT, DB::Connection::connect_with(&options)).await;
        if let Ok(Err(error)) = &connected {
            note_refusal(pool, reason(error));
        }
        let connection = connected.ok().and_then(Result::ok);
        // Those who wait may have left.
        let _ = report.send(connection.is_some());
        if let Some(connection) = connection {
            let _ = timeout(FAREWELL_LIMIT, connection.close()).await;
        }
        drop(place);
    });
    reported
}

/// The address is named by whoever shows the reason.
fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) => with_causes(error),
        error => with_causes(error),
    }
}

/// Why connections of each pool were refused last. The pool keeps it to itself.
static REFUSALS: LazyLock<Mutex<HashMap<usize, (Instant, String)>>> = LazyLock::new(Mutex::default);

/// After this time a refusal explains nothing any more.
const REFUSAL_LIFE: Duration = Duration::from_secs(60);

fn note_refusal(pool: usize, reason: String) {
    let mut refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    refusals.retain(|_, (at, _)| at.elapsed() < REFUSAL_LIFE);
    refusals.insert(pool, (Instant::now(), reason));
}

/// Why the server has refused a connection of this pool, if it has done so since this time.
pub(crate) fn refusal_since(pool: usize, since: Instant) -> Option<String> {
    let refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    refusals.get(&pool).filter(|(at, _)| *at >= since).map(|(_, reason)| reason.clone())
}
