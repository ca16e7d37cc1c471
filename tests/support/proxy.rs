//! A TCP proxy that loses the requests or responses that a test selects.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// The effect on a connection whose client sends a request that contains the trigger. Silence is permanent:
/// no connection is closed and no response is sent, as when a host is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request is not delivered, and the connection never gets another response.
    SilenceBefore,
    /// The request is delivered; its response and all later ones are not.
    SilenceAfter,
    /// The connection is closed instead of delivering the request.
    CutBefore,
    /// The request is delivered, and the connection is closed once the server has responded.
    CutAfter,
    /// The request is held until a later one meets [`AfterHeld`](Self::AfterHeld), and its client receives
    /// nothing more. The connection to the client is closed by [`cut_held`](Proxy::cut_held). A proxy holds
    /// one request.
    #[allow(dead_code, reason = "each test binary uses its part")]
    Hold,
    /// The held request is delivered first, and this one once the server has responded to that.
    #[allow(dead_code, reason = "each test binary uses its part")]
    AfterHeld,
}

/// What became of the request that is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    #[default]
    Kept,
    ClientCut,
    Released,
    Answered,
}

/// The triggers, and their effects.
type Rules = Arc<Mutex<Vec<Rule>>>;

/// A trigger, and the fates of the requests that contain it, applied in turn and then from the start again.
#[derive(Debug)]
struct Rule {
    trigger: Vec<u8>,
    fates: Vec<Option<Fault>>,
    seen: usize,
}

impl Rule {
    fn fate_of(&mut self, request: &[u8]) -> Option<Fault> {
        if !request.windows(self.trigger.len()).any(|window| window == self.trigger) {
            return None;
        }
        self.seen += 1;
        self.fates[(self.seen - 1) % self.fates.len()]
    }
}

/// A proxy between clients and a server, on a port of its own.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    server: Arc<Mutex<String>>,
    rules: Rules,
    hits: Arc<Mutex<u32>>,
    requests: Arc<AtomicU32>,
    held: watch::Sender<Held>,
}

impl Proxy {
    /// Starts a proxy in front of the server of this URL.
    pub(crate) async fn to(url: &str) -> Self {
        let server = Arc::new(Mutex::new(address(url).to_owned()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (rules, hits, requests, held) = Default::default();
        let proxy = Self { port, server: server.clone(), rules, hits, requests, held };
        let (rules, hits, requests) = (proxy.rules.clone(), proxy.hits.clone(), proxy.requests.clone());
        let held = proxy.held.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = server.lock().expect("the address").clone();
                let server = TcpStream::connect(&server).await.expect("the server is there");
                // Otherwise a response in two parts waits 40 ms for an acknowledgement.
                client.set_nodelay(true).expect("an open socket");
                server.set_nodelay(true).expect("an open socket");
                relay(client, server, rules.clone(), hits.clone(), requests.clone(), held.clone());
            }
        });
        proxy
    }

    /// The same URL, through the proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(address(url), &format!("127.0.0.1:{}", self.port))
    }

    /// Leads new connections to the server of another URL, as a change of a DNS entry does. Old connections
    /// stay where they are.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub(crate) fn lead_to(&self, url: &str) {
        address(url).clone_into(&mut self.server.lock().expect("the address"));
    }

    /// From now on, and until [`heal`](Self::heal), requests that contain the trigger meet the fault.
    pub(crate) fn on(&self, trigger: &str, fault: Fault) {
        self.heal();
        self.cycle(trigger, &[Some(fault)]);
    }

    /// In addition, requests that contain the trigger meet these fates in turn from now on.
    pub(crate) fn cycle(&self, trigger: &str, fates: &[Option<Fault>]) {
        let rule = Rule { trigger: trigger.as_bytes().to_vec(), fates: fates.to_vec(), seen: 0 };
        self.rules.lock().expect("the rules").push(rule);
    }

    /// New requests pass again. Silent connections stay silent.
    pub(crate) fn heal(&self) {
        self.rules.lock().expect("the rules").clear();
    }

    /// Closes the connection to the client whose request is held.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub(crate) fn cut_held(&self) {
        self.held.send_replace(Held::ClientCut);
    }

    /// The number of requests. A client that waits for each response has made as many round trips.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
    }

    /// The number of requests that met a fault.
    pub(crate) fn hits(&self) -> u32 {
        *self.hits.lock().expect("the hits")
    }
}

/// Reserves a port for as long as the socket exists, so that no server comes to listen there.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) fn closed_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let port = socket.local_addr().expect("its address").port();
    (socket, port)
}

/// Extracts `host:port` from `scheme://user:password@host:port/database`.
pub(crate) fn address(url: &str) -> &str {
    let behind = url.rsplit_once('@').expect("a URL with a user").1;
    behind.split('/').next().expect("a host")
}

fn relay(
    client: TcpStream,
    server: TcpStream,
    rules: Rules,
    hits: Arc<Mutex<u32>>,
    sent: Arc<AtomicU32>,
    held: watch::Sender<Held>,
) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (met, fault) = watch::channel(None);
    tokio::spawn(requests(from_client, to_server, rules, hits, sent, met, held.clone()));
    tokio::spawn(forward_responses(from_server, to_client, fault, held));
}

async fn requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    rules: Rules,
    hits: Arc<Mutex<u32>>,
    sent: Arc<AtomicU32>,
    met: watch::Sender<Option<Fault>>,
    held: watch::Sender<Held>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = client.read(&mut buffer).await {
        let request = &buffer[..read];
        sent.fetch_add(1, Ordering::SeqCst);
        let fault = rules.lock().expect("the rules").iter_mut().find_map(|rule| rule.fate_of(request));
        if fault.is_some() {
            *hits.lock().expect("the hits") += 1;
            met.send_replace(fault);
        }
        match fault {
            Some(Fault::Hold) => has_reached(&held, Held::Released).await,
            Some(Fault::AfterHeld) => {
                held.send_replace(Held::Released);
                has_reached(&held, Held::Answered).await;
            }
            _ => {}
        }
        if !matches!(fault, Some(Fault::SilenceBefore | Fault::CutBefore))
            && server.write_all(request).await.is_err()
        {
            return;
        }
        match fault {
            None | Some(Fault::AfterHeld) => {}
            // The server must not see the connection closed while the client believes that it is open, nor
            // before it has executed a request that was held.
            Some(Fault::SilenceBefore | Fault::SilenceAfter | Fault::Hold) => {
                return std::future::pending().await;
            }
            Some(Fault::CutBefore | Fault::CutAfter) => {
                return tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn has_reached(held: &watch::Sender<Held>, stage: Held) {
    held.subscribe().wait_for(|held| *held >= stage).await.expect("the proxy");
}

async fn forward_responses(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut met: watch::Receiver<Option<Fault>>,
    held: watch::Sender<Held>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let has_met = met.wait_for(|fault| matches!(fault, Some(Fault::CutBefore | Fault::Hold)));
        let read = tokio::select! {
            read = server.read(&mut buffer) => read,
            Ok(fault) = async { has_met.await.map(|fault| *fault) } => match fault {
                Some(Fault::Hold) => return await_held_response(server, client, &held).await,
                _ => return,
            },
        };
        let Ok(read @ 1..) = read else { return };
        let fault = *met.borrow();
        match fault {
            Some(Fault::SilenceBefore | Fault::SilenceAfter) => return std::future::pending().await,
            Some(Fault::CutBefore | Fault::CutAfter) => return,
            None | Some(Fault::Hold | Fault::AfterHeld) => {}
        }
        if client.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Closes the connection to the client when it is to be cut, and waits for the response that it does not get.
async fn await_held_response(mut server: OwnedReadHalf, client: OwnedWriteHalf, held: &watch::Sender<Held>) {
    has_reached(held, Held::ClientCut).await;
    drop(client);
    let read = server.read(&mut [0; 1024]).await;
    assert!(matches!(read, Ok(1..)), "the server closed the connection of the held request: {read:?}");
    held.send_replace(Held::Answered);
}
