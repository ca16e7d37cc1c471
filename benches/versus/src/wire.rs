//! A proxy that lists the requests that clients send to a PostgreSQL server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A round trip: the messages up to the one after which the server reports that it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoundTrip {
    /// The requested operations.
    pub(crate) what: String,
    /// Whether the client waits for the response.
    pub(crate) awaited: bool,
}

type RoundTrips = Arc<Mutex<Vec<RoundTrip>>>;

pub(crate) struct Proxy {
    pub(crate) url: String,
    round_trips: RoundTrips,
}

impl Proxy {
    /// Starts a proxy in front of the server of this URL.
    pub(crate) async fn to(url: &str) -> Result<Self> {
        let behind = url.rsplit_once('@').map_or(url, |(_, behind)| behind);
        let server = behind.split('/').next().unwrap_or_default().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = listener.local_addr()?.to_string();
        let round_trips = RoundTrips::default();
        let (url, seen) = (url.replace(&server, &proxy), round_trips.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server.clone(), seen.clone()));
            }
        });
        Ok(Self { url, round_trips })
    }

    /// The round trips since the last call, including those whose response a client has received.
    pub(crate) fn take(&self) -> Vec<RoundTrip> {
        std::mem::take(&mut *self.round_trips.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The first message of a client that prefers TLS, which the proxy could not read.
const TLS_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();

/// Ends when either side closes the connection.
async fn relay(mut client: TcpStream, server: String, seen: RoundTrips) -> Result<()> {
    let mut server = TcpStream::connect(server).await?;
    // Messages are forwarded in pieces, which must not wait for each other's acknowledgement.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // The startup messages have no type byte.
    let mut startup = message(&mut client).await?;
    if startup.ends_with(&TLS_REQUEST) {
        client.write_all(b"N").await?;
        startup = message(&mut client).await?;
    }
    server.write_all(&startup).await?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        end = requests(from_client, to_server, seen) => end,
        end = forward_responses(from_server, to_client) => end,
    }
}

async fn forward_responses(mut server: OwnedReadHalf, mut client: OwnedWriteHalf) -> Result<()> {
    tokio::io::copy(&mut server, &mut client).await?;
    Ok(())
}

async fn requests(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, seen: RoundTrips) -> Result<()> {
    let mut reader = Reader::default();
    loop {
        let kind = client.read_u8().await?;
        let message = message(&mut client).await?;
        if let Some(round_trip) = reader.read(kind, message.get(4..).unwrap_or_default()) {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(round_trip);
        }
        server.write_u8(kind).await?;
        server.write_all(&message).await?;
    }
}

/// Reads a message, which begins with its own length.
async fn message(client: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let length = client.read_u32().await?;
    let mut message = length.to_be_bytes().to_vec();
    message.resize(usize::try_from(length)?.max(4), 0);
    client.read_exact(message.get_mut(4..).context("a length")?).await?;
    Ok(message)
}

/// The request that closes a statement. Clients send it without waiting for the response.
const CLOSE: &str = "close";

/// Groups messages into round trips.
#[derive(Default)]
struct Reader {
    /// The first word of each prepared statement, by name.
    prepared: HashMap<Vec<u8>, String>,
    /// The operations since the last round trip.
    operations: Vec<String>,
}

impl Reader {
    fn read(&mut self, kind: u8, body: &[u8]) -> Option<RoundTrip> {
        let trip = |what: String| Some(RoundTrip { awaited: what != CLOSE, what });
        let mut texts = body.split(|byte| *byte == 0);
        let mut text = || texts.next().unwrap_or_default();
        match kind {
            // Query, which is a round trip on its own.
            b'Q' => trip(verb(text())),
            // Parse: a name and a statement.
            b'P' => {
                let (name, statement) = (text().to_vec(), verb(text()));
                self.operations.push(format!("prepare {statement}"));
                self.prepared.insert(name, statement);
                None
            }
            // Bind: a portal, which is executed next, and its statement.
            b'B' => {
                let (_portal, name) = (text(), text());
                self.operations.extend(self.prepared.get(name).cloned());
                None
            }
            // Close of a statement. Closing a portal is not listed.
            b'C' if body.first() == Some(&b'S') => {
                self.operations.push(CLOSE.to_owned());
                None
            }
            // Sync.
            b'S' if self.operations.is_empty() => trip("ping".to_owned()),
            b'S' => trip(std::mem::take(&mut self.operations).join(" and ")),
            _ => None,
        }
    }
}

/// The first word of a statement, or `ping` for a SELECT without a table.
fn verb(statement: &[u8]) -> String {
    let statement = String::from_utf8_lossy(statement);
    match statement.split([' ', ';']).next().unwrap_or_default() {
        "SELECT" if !statement.contains(" FROM ") => "ping".to_owned(),
        verb => verb.to_owned(),
    }
}
