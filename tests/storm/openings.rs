//! A server that opens sessions slowly.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use atomically::{Error, Pessimistic, TransactorExt as _, Tx};
use futures_util::future::join_all;
use sqlx::pool::PoolOptions;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::server::StormServer;
use crate::support::proxy::address;

/// How many connections a pool may have open beyond its maximum, as documented.
const MAX_BEYOND_POOL: i64 = 8;

/// The sessions of a server behind a proxy that delays each new one. A requested session starts whether or
/// not its client still waits.
#[derive(Debug, Default)]
struct Sessions {
    open: AtomicI64,
    most: AtomicI64,
    all: AtomicI64,
}

/// Returns the URL of the proxy.
async fn delaying_proxy(url: &str, delay: Duration) -> (String, Arc<Sessions>) {
    let server = address(url).to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let sessions = Arc::<Sessions>::default();
    let counted = sessions.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, sessions) = (server.clone(), counted.clone());
            sessions.all.fetch_add(1, SeqCst);
            sessions.most.fetch_max(sessions.open.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::spawn(async move {
                sleep(delay).await;
                let mut server = TcpStream::connect(&server).await.expect("the server is there");
                // Otherwise a response in two parts waits 40 ms for an acknowledgement.
                client.set_nodelay(true).expect("an open socket");
                server.set_nodelay(true).expect("an open socket");
                let _ = copy_bidirectional(&mut client, &mut server).await;
                sessions.open.fetch_sub(1, SeqCst);
            });
        }
    });
    (url.replace(address(url), &format!("127.0.0.1:{port}")), sessions)
}

pub(crate) async fn waiting_runs_share_one_probe<DB: StormServer>() {
    const CONNECTIONS: i64 = 30;
    let direct = DB::pool(1).await;
    let (url, sessions) = delaying_proxy(&direct.url, Duration::from_millis(700)).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(CONNECTIONS as u32).connect_lazy(&url).expect("a pool");
    let db = Pessimistic::default().on(&pool);
    let runs = (0..CONNECTIONS).map(|_| db.run(async |_: &mut Tx<DB>| Ok::<_, Error>(())));
    assert!(join_all(runs).await.iter().all(Result::is_ok));
    let (most, all) = (sessions.most.load(SeqCst), sessions.all.load(SeqCst));
    assert!(most <= CONNECTIONS + 1, "{most} sessions at once for a pool of {CONNECTIONS}, {all} in all");
}

pub(crate) async fn impatient_callers_get_sessions_and_do_not_flood_the_server<DB: StormServer>() {
    const CONNECTIONS: i64 = 4;
    let direct = DB::pool(1).await;
    let (url, sessions) = delaying_proxy(&direct.url, Duration::from_millis(1500)).await;
    let pool =
        PoolOptions::<DB>::new().max_connections(CONNECTIONS as u32).connect_lazy(&url).expect("a pool");
    let db = Pessimistic::default().on(&pool);
    let end = Instant::now() + Duration::from_secs(6);
    let callers = (0..16_u32).map(|_| async {
        let mut committed = 0;
        while Instant::now() < end {
            let run = db.run(async |_: &mut Tx<DB>| Ok::<_, Error>(()));
            if let Ok(done) = timeout(Duration::from_millis(100), run).await {
                done.expect("the server is there");
                committed += 1;
                sleep(Duration::from_millis(5)).await;
            }
        }
        committed
    });
    let committed: u32 = join_all(callers).await.into_iter().sum();
    let (most, all) = (sessions.most.load(SeqCst), sessions.all.load(SeqCst));
    assert!(
        most <= CONNECTIONS + MAX_BEYOND_POOL,
        "{most} sessions at once for a pool of {CONNECTIONS}, {all} in all"
    );
    assert!(committed > 100, "{committed} runs had a connection; {all} were opened");
}
