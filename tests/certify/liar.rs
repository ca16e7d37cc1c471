//! A proxy that rewrites the statements of its clients before the server gets them.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::support::proxy::address;

/// A text, and what the server gets instead; only in messages that contain the mark, if there is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rewrite {
    pub mark: &'static str,
    pub from: &'static str,
    pub to: &'static str,
}

/// Replaces the text in all messages.
pub(crate) const fn rewrite(from: &'static str, to: &'static str) -> Rewrite {
    Rewrite { mark: "", from, to }
}

/// Replaces the text in the messages of this check.
pub(crate) const fn rewrite_in(mark: &'static str, from: &'static str, to: &'static str) -> Rewrite {
    Rewrite { mark, from, to }
}

impl Rewrite {
    fn apply(&self, message: &[u8]) -> Option<Vec<u8>> {
        let position = |text: &str, from: usize| {
            message[from..].windows(text.len()).position(|window| window == text.as_bytes())
        };
        if !self.mark.is_empty() {
            position(self.mark, 0)?;
        }
        let (mut rewritten, mut from) = (Vec::new(), 0);
        while let Some(found) = position(self.from, from) {
            rewritten.extend_from_slice(&message[from..from + found]);
            rewritten.extend_from_slice(self.to.as_bytes());
            from += found + self.from.len();
        }
        rewritten.extend_from_slice(&message[from..]);
        (from > 0).then_some(rewritten)
    }
}

/// How messages are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Postgres,
    MySql,
}

/// Starts a proxy in front of the server of this URL. Returns the URL of the proxy.
pub(crate) async fn liar(url: &str, rewrites: &[Rewrite]) -> String {
    let protocol = if url.starts_with("postgres") { Protocol::Postgres } else { Protocol::MySql };
    let (server, rewrites) = (address(url).to_owned(), Arc::<[Rewrite]>::from(rewrites));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let proxy = url.replace(address(url), &format!("127.0.0.1:{port}"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.expect("the server is there");
            client.set_nodelay(true).expect("an open socket");
            server.set_nodelay(true).expect("an open socket");
            let (from_client, mut to_client) = client.into_split();
            let (mut from_server, to_server) = server.into_split();
            let rewrites = rewrites.clone();
            tokio::spawn(async move { forward(protocol, from_client, to_server, &rewrites).await });
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        }
    });
    proxy
}

/// Forwards the client's messages, whole and rewritten, until one of both sides has gone.
async fn forward(
    protocol: Protocol,
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    rewrites: &[Rewrite],
) -> Option<()> {
    let mut is_typed = protocol == Protocol::MySql;
    loop {
        let mut message = match protocol {
            Protocol::Postgres => postgres_message(&mut client, is_typed).await?,
            Protocol::MySql => mysql_message(&mut client).await?,
        };
        // The first messages of PostgreSQL have no type: a request for TLS, and then the start.
        is_typed =
            is_typed || message.get(4..8) == Some(&[0, 3, 0, 0]) || message.get(4..8) == Some(&[0, 3, 0, 2]);
        for rewrite in rewrites {
            if let Some(rewritten) = rewrite.apply(&message) {
                message = with_length(protocol, rewritten);
            }
        }
        server.write_all(&message).await.ok()?;
    }
}

async fn postgres_message(client: &mut OwnedReadHalf, is_typed: bool) -> Option<Vec<u8>> {
    let mut message = vec![0; if is_typed { 5 } else { 4 }];
    client.read_exact(&mut message).await.ok()?;
    let length = u32::from_be_bytes(message[message.len() - 4..].try_into().ok()?);
    let mut body = vec![0; usize::try_from(length).ok()?.checked_sub(4)?];
    client.read_exact(&mut body).await.ok()?;
    message.append(&mut body);
    Some(message)
}

async fn mysql_message(client: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut message = vec![0; 4];
    client.read_exact(&mut message).await.ok()?;
    let length = u32::from_le_bytes([message[0], message[1], message[2], 0]);
    let mut body = vec![0; usize::try_from(length).ok()?];
    client.read_exact(&mut body).await.ok()?;
    message.append(&mut body);
    Some(message)
}

/// Corrects the length of a message whose text was replaced.
fn with_length(protocol: Protocol, mut message: Vec<u8>) -> Vec<u8> {
    match protocol {
        Protocol::Postgres => {
            let length = u32::try_from(message.len() - 1).expect("a short message");
            message[1..5].copy_from_slice(&length.to_be_bytes());
        }
        Protocol::MySql => {
            let length = u32::try_from(message.len() - 4).expect("a short message");
            message[..3].copy_from_slice(&length.to_le_bytes()[..3]);
        }
    }
    message
}
