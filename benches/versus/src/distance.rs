//! A proxy that stands for a network between the clients and the server: it delays every response.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

/// The size of the largest piece of a response that is forwarded at once.
const PIECE: usize = 64 * 1024;

/// The threads of the proxy need little, and each connection has three of them.
const STACK: usize = 256 * 1024;

/// Returns the URL under which the server answers after this round-trip time: the server's own if it is zero,
/// or that of a proxy, which runs until the process ends.
///
/// The whole time is added to the responses; requests pass at once. For a client that waits for each response,
/// and for the locks that it holds meanwhile, the two halves of a round trip are the same. Threads wait more
/// precisely than Tokio's timers, which are rounded to milliseconds.
pub(crate) fn url_at(url: &str, round_trip: Duration) -> Result<String> {
    if round_trip.is_zero() {
        return Ok(url.to_owned());
    }
    let behind = url.rsplit_once('@').map_or(url, |(_, behind)| behind);
    let server = behind.split('/').next().unwrap_or_default().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = url.replace(&server, &listener.local_addr()?.to_string());
    start(move || {
        for client in listener.incoming() {
            relay(client?, &server, round_trip)?;
        }
        Ok(())
    })?;
    Ok(url)
}

/// Relays in the background, until either side closes the connection.
fn relay(client: TcpStream, server: &str, round_trip: Duration) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    // Otherwise a piece would wait for the acknowledgement of the one before it.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    start(move || {
        io::copy(&mut from_client, &mut to_server)?;
        to_server.shutdown(Shutdown::Write)
    })?;
    let (delayed, due) = mpsc::channel::<(Instant, Vec<u8>)>();
    start(move || read_responses(server, &delayed, round_trip))?;
    start(move || {
        let mut client = client;
        for (at, piece) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            client.write_all(&piece)?;
        }
        client.shutdown(Shutdown::Both)
    })?;
    Ok(())
}

fn read_responses(
    mut server: TcpStream,
    delayed: &mpsc::Sender<(Instant, Vec<u8>)>,
    round_trip: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = server.read(&mut buffer)?;
        let piece = buffer.get(..length).unwrap_or_default().to_vec();
        if piece.is_empty() || delayed.send((Instant::now() + round_trip, piece)).is_err() {
            return Ok(());
        }
    }
}

/// A thread whose errors only mean that a connection has ended.
fn start(run: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().stack_size(STACK).spawn(move || drop(run()))
}
