//! A proxy whose connections can be cut and silenced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// What happens to a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    /// Both ends are closed.
    Cut,
    /// Nothing is forwarded for this time, and then it is cut.
    Silent(Duration),
}

type Connections = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Trouble>>>>;

#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) url: String,
    connections: Connections,
}

impl Proxy {
    pub(crate) async fn to(url: &str) -> Result<Self> {
        let behind = url.rsplit_once('@').map_or(url, |(_, behind)| behind);
        let server = behind.split('/').next().unwrap_or_default().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let url = url.replace(&server, &address);
        let connections = Connections::default();
        tokio::spawn(accept(listener, server, connections.clone()));
        Ok(Self { url, connections })
    }

    /// Makes trouble for up to `count` connections, and returns for how many.
    pub(crate) fn trouble(&self, count: usize, trouble: Trouble, random: &mut StdRng) -> usize {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hit = 0;
        for _ in 0..count.min(connections.len()) {
            let number = connections.keys().nth(random.random_range(0..connections.len())).copied();
            if let Some(connection) = number.and_then(|number| connections.remove(&number)) {
                hit += usize::from(connection.send(trouble).is_ok());
            }
        }
        hit
    }
}

async fn accept(listener: TcpListener, server: String, connections: Connections) {
    let mut number = 0;
    while let Ok((client, _)) = listener.accept().await {
        number += 1;
        let (make, troubled) = oneshot::channel();
        connections.lock().unwrap_or_else(PoisonError::into_inner).insert(number, make);
        let (server, connections) = (server.clone(), connections.clone());
        tokio::spawn(async move {
            let _ = relay(client, server, troubled).await;
            connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        });
    }
}

async fn relay(
    mut client: TcpStream,
    server: String,
    troubled: oneshot::Receiver<Trouble>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    // Otherwise a response in two parts waits 40 ms for an acknowledgement.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let trouble = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return Ok(()),
        trouble = troubled => trouble,
    };
    if let Ok(Trouble::Silent(time)) = trouble {
        sleep(time).await;
    }
    Ok(())
}
