//! The faults: one after the other, as the seed has it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::Pool;
use test_servers::Server;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::database::SoakDatabase;
use crate::proxy::{Proxy, Trouble};

/// How often each fault occurred.
pub(crate) type Counts = BTreeMap<&'static str, usize>;

#[derive(Debug, Clone, Copy)]
enum Fault {
    EndSessions(usize),
    Cut(usize),
    Silence(usize),
    /// SIGKILL and a restart.
    KillServer,
    /// SIGSTOP, and SIGCONT after this time.
    FreezeServer(Duration),
}

/// The faults of a run that is in progress.
pub(crate) struct Faults {
    stop: watch::Sender<bool>,
    running: JoinHandle<Result<(Counts, Option<Server>)>>,
}

impl Faults {
    pub(crate) fn start<DB: SoakDatabase>(
        seed: u64,
        server: Option<Server>,
        direct: Pool<DB>,
        proxy: Proxy,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let source = Source { random: StdRng::seed_from_u64(seed), server, direct, proxy };
        Self { stop, running: tokio::spawn(source.run(stopped)) }
    }

    /// Waits until the last fault is over. Returns how often each occurred, and the server, which ends when it
    /// is dropped.
    pub(crate) async fn stop(self) -> Result<(Counts, Option<Server>)> {
        self.stop.send_replace(true);
        self.running.await?
    }
}

struct Source<DB: SoakDatabase> {
    random: StdRng,
    server: Option<Server>,
    direct: Pool<DB>,
    proxy: Proxy,
}

impl<DB: SoakDatabase> Source<DB> {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Result<(Counts, Option<Server>)> {
        let mut counts = Counts::new();
        loop {
            let pause = Duration::from_millis(self.random.random_range(200..2_000));
            if timeout(pause, stopped.wait_for(|stopped| *stopped)).await.is_ok() {
                break;
            }
            let fault = self.next();
            let (name, times) = self.make(fault).await?;
            *counts.entry(name).or_default() += times;
        }
        Ok((counts, self.server))
    }

    fn next(&mut self) -> Fault {
        let several = self.random.random_range(1..6);
        match self.random.random_range(0..100) {
            0..40 => Fault::EndSessions(several),
            40..70 => Fault::Cut(several),
            70..92 => Fault::Silence(several),
            92..96 => Fault::KillServer,
            _ => Fault::FreezeServer(Duration::from_millis(self.random.random_range(200..3_000))),
        }
    }

    async fn make(&mut self, fault: Fault) -> Result<(&'static str, usize)> {
        Ok(match fault {
            Fault::EndSessions(count) => ("sessions ended", self.end_sessions(count).await),
            Fault::Cut(count) => {
                ("connections cut", self.proxy.trouble(count, Trouble::Cut, &mut self.random))
            }
            Fault::Silence(count) => {
                let time = Duration::from_millis(self.random.random_range(500..8_000));
                ("connections silenced", self.proxy.trouble(count, Trouble::Silent(time), &mut self.random))
            }
            Fault::KillServer => ("server killed", self.with_server(Server::kill_and_restart).await?),
            Fault::FreezeServer(time) => {
                let freeze = move |server: &mut Server| {
                    let frozen = server.freeze();
                    std::thread::sleep(time);
                    drop(frozen);
                };
                ("server frozen", self.with_server(freeze).await?)
            }
        })
    }

    /// Ends sessions at random, and returns how many.
    async fn end_sessions(&mut self, count: usize) -> usize {
        let Ok(sessions) = DB::integers(&self.direct, DB::SESSIONS.to_owned()).await else { return 0 };
        let mut ended = 0;
        for _ in 0..count.min(sessions.len()) {
            let session = sessions[self.random.random_range(0..sessions.len())];
            ended += usize::from(DB::raw(&self.direct, DB::end_session(session)).await.is_ok());
        }
        ended
    }

    /// Does something to the server, if it was started by this run. Returns how often: once, or not at all.
    async fn with_server(&mut self, act: impl FnOnce(&mut Server) + Send + 'static) -> Result<usize> {
        let Some(mut server) = self.server.take() else {
            sleep(Duration::from_millis(100)).await;
            return Ok(0);
        };
        let acted = spawn_blocking(move || {
            act(&mut server);
            server
        });
        self.server = Some(acted.await?);
        Ok(1)
    }
}

/// Adds what a fault does to a server.
trait Killed {
    fn kill_and_restart(&mut self);
}

impl Killed for Server {
    fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }
}
