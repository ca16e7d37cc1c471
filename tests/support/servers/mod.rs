//! Private, throwaway PostgreSQL and MariaDB servers, a Galera cluster of the latter, and the other programs
//! that the tests and benchmarks of this workspace need, on 127.0.0.1.
//!
//! MySQL is used instead of MariaDB if `ATOMICALLY_MYSQL_BIN` names the directory of its `mysqld`, or if only
//! MySQL is installed. In a Galera cluster it is always MariaDB.
//!
//! A server starts when the first test needs it, and is gone, with its directory, when the test process ends,
//! however it ends. Nothing that is installed or running on the machine is touched.

#![allow(
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    reason = "only tests call these functions"
)]

mod chromedriver;
mod find;
pub mod galera;
mod lifetime;
mod mariadb;
mod mysql;
mod pgbouncer;
mod postgres;
mod process;
pub mod program;

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::env;
use std::fmt::{Debug, Display};
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use lifetime::Home;
use process::{Process, wait_until};

/// Together with the limit for a server's death, shorter than the deadlines of units that wait for a
/// restart, so that a server that does not start fails the test by itself, with its log.
const START_LIMIT: Duration = Duration::from_secs(40);
const PORTS_TRIED: usize = 5;

/// The URL of the PostgreSQL server that all tests of this process share: `ATOMICALLY_POSTGRES_URL`, else our
/// own.
#[track_caller]
pub fn postgres_url() -> String {
    static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
    shared_url("ATOMICALLY_POSTGRES_URL", &SHARED, start_postgres)
}

/// The pgbench that belongs to the PostgreSQL that would be started.
#[track_caller]
pub fn pgbench() -> PathBuf {
    must(postgres::Postgres::find()).program("pgbench")
}

/// The URL of the MariaDB or MySQL server that all tests of this process share: `ATOMICALLY_MYSQL_URL`, else
/// our own.
#[track_caller]
pub fn mysql_url() -> String {
    static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
    shared_url("ATOMICALLY_MYSQL_URL", &SHARED, start_mariadb)
}

/// A failed start is cached as well, so that every test reports the same failure at once instead of trying
/// again.
#[track_caller]
fn shared_url(
    variable: &str,
    shared: &'static OnceLock<Result<Server, String>>,
    start: fn() -> Result<Server, String>,
) -> String {
    match env::var(variable) {
        Ok(url) if !url.is_empty() => url,
        _ => must(shared.get_or_init(start).as_ref().map(|server| server.url.clone())),
    }
}

/// A server of its own, for a test that kills or stops it; dropping it stops it and removes its directory.
#[derive(Debug)]
pub struct Server {
    engine: Box<dyn Engine>,
    port: u16,
    url: String,
    process: Option<Process>,
    home: Home,
}

impl Server {
    /// Starts a private PostgreSQL and waits until it accepts connections, whatever `ATOMICALLY_POSTGRES_URL`
    /// says.
    #[track_caller]
    pub fn postgres() -> Self {
        must(start_postgres())
    }

    /// The same, whose commits wait for the disk, as those of a server in use do.
    #[track_caller]
    pub fn durable_postgres() -> Self {
        must(postgres::Postgres::find().and_then(|engine| Self::start(Box::new(engine.durable()))))
    }

    /// Starts a private MariaDB, or MySQL where that is [used](self) instead, and waits until it accepts
    /// connections, whatever `ATOMICALLY_MYSQL_URL` says.
    #[track_caller]
    pub fn mariadb() -> Self {
        must(start_mariadb())
    }

    /// Starts a private PostgreSQL whose commits wait until a [standby](Self::standby) has received them.
    #[track_caller]
    pub fn primary() -> Self {
        must(postgres::Postgres::find().and_then(|engine| Self::start(Box::new(engine.primary()))))
    }

    /// Starts a PostgreSQL that copies this one and follows it, and accepts reads.
    #[track_caller]
    pub fn standby(&self) -> Self {
        let engine = postgres::Postgres::find().map(|engine| engine.standby_of(self.port));
        must(engine.and_then(|engine| Self::start(Box::new(engine))))
    }

    /// Leads this pgbouncer to another PostgreSQL: new transactions begin there, and open ones continue.
    #[track_caller]
    pub fn lead_to(&self, server: &Self) {
        self.write(pgbouncer::DATABASES, &pgbouncer::databases(server.port));
        must(process::reload(self.pid()));
    }

    /// Starts a pgbouncer in front of this PostgreSQL, which must outlive it, with or without its support for
    /// prepared statements. Versions without that support ignore the argument.
    #[track_caller]
    pub fn pgbouncer(&self, prepared_statements: bool) -> Self {
        let found = pgbouncer::Pgbouncer::find(self.port, prepared_statements);
        must(found.and_then(|pooler| Self::start(Box::new(pooler))))
    }

    /// Whether the pgbouncer that would be started supports prepared statements.
    #[track_caller]
    pub fn pgbouncer_prepares() -> bool {
        must(pgbouncer::Pgbouncer::find(0, true).and_then(|pooler| pooler.can_prepare()))
    }

    /// Starts a chromedriver, which starts browsers; and the browser that it is to start.
    #[track_caller]
    pub fn chromedriver() -> (Self, PathBuf) {
        let driver = must(chromedriver::Chromedriver::find());
        let browser = driver.browser();
        (must(Self::start(Box::new(driver))), browser)
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its database `test`, with the user `app`, which has all privileges. It stays the same
    /// after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its private directory, which is removed with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.home.directory()
    }

    /// The process id of the running server (the postmaster, for PostgreSQL); panics between `kill` and
    /// `restart`.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        must(self.process.as_ref().map(Process::pid).ok_or("the server was killed and has no pid"))
    }

    /// Kills the server with SIGKILL and returns once all of its processes are dead; its data directory
    /// stays.
    ///
    /// PostgreSQL's own children see the death of the postmaster and follow it by themselves, so a statement
    /// that was running may still get its commit in before this returns, but none can afterwards.
    #[track_caller]
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            must(self.home.kill(process));
        }
    }

    /// Stops all processes of the server (SIGSTOP) until the guard is dropped, like a machine that hangs:
    /// connections stay open, the kernel accepts new ones, and no request gets a response.
    #[track_caller]
    pub fn freeze(&self) -> Frozen {
        let frozen = Frozen(self.pid());
        must(process::stop(frozen.0));
        frozen
    }

    /// Starts the server again on the same data and port and waits until it accepts connections (crash
    /// recovery).
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.process = Some(must(launch(&*self.engine, &self.home, self.port)));
    }

    /// Writes a file into its directory, for its next start.
    #[track_caller]
    pub fn write(&self, name: &str, text: &str) {
        must(self.home.write(name, text));
    }

    #[expect(clippy::print_stderr, reason = "the output of a failing test")]
    fn print_logs(&self) {
        let state = if self.process.is_some() { "not killed" } else { "killed, and not started again" };
        eprintln!("{:?} on port {} ({state}):\n{}", self.engine, self.port, self.home.log_tails());
    }

    fn start(engine: Box<dyn Engine>) -> Result<Self, String> {
        let home = Home::new(engine.users())?;
        engine.install(&home)?;
        home.write("installed", "")?;
        let mut tried = 0;
        loop {
            let port = free_port()?;
            tried += 1;
            match launch(&*engine, &home, port) {
                Ok(process) => {
                    let user = engine.credentials();
                    let url = format!("{}://{user}@127.0.0.1:{port}/test", engine.scheme());
                    return Ok(Self { engine, port, url, process: Some(process), home });
                }
                // Another program took the port before the server bound it.
                Err(reason) if reason.contains("Address already in use") && tried < PORTS_TRIED => {}
                Err(reason) => return Err(reason),
            }
        }
    }
}

/// A stopped server, which continues when this is dropped.
#[derive(Debug)]
pub struct Frozen(u32);

impl Drop for Frozen {
    fn drop(&mut self) {
        _ = process::go_on(self.0);
    }
}

impl Drop for Server {
    /// Prints the end of the server's log if the test is failing, because the directory is about to be
    /// removed.
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_logs();
        }
        self.home.release();
        if let Some(process) = &mut self.process {
            process.await_end();
        }
    }
}

/// The differences between the database engines.
trait Engine: Debug + Send + Sync {
    fn scheme(&self) -> &'static str;

    /// The user that has all privileges, and its password.
    fn credentials(&self) -> &'static str {
        "app:app"
    }

    /// The system users that root may run it as, in order of preference.
    fn users(&self) -> &'static [&'static str];

    /// Creates the data directory.
    fn install(&self, home: &Home) -> Result<(), String>;

    /// The command that serves the data directory, in the foreground.
    fn serve(&self, home: &Home, port: u16) -> Result<Command, String>;

    /// Whether the server with this process id accepts connections.
    fn is_ready(&self, home: &Home, pid: u32) -> bool;
}

fn start_postgres() -> Result<Server, String> {
    Server::start(Box::new(postgres::Postgres::find()?))
}

/// MySQL takes the place of MariaDB where `ATOMICALLY_MYSQL_BIN` names its directory, or where only MySQL is
/// installed.
fn start_mariadb() -> Result<Server, String> {
    if env::var_os("ATOMICALLY_MYSQL_BIN").is_some_and(|path| !path.is_empty()) {
        return Server::start(Box::new(mysql::Mysql::find().ok_or(mysql::MISSING)?));
    }
    match (mariadb::Mariadb::find(), mysql::Mysql::find()) {
        (Ok(mariadb), _) => Server::start(Box::new(mariadb)),
        (Err(_), Some(mysql)) => Server::start(Box::new(mysql)),
        (Err(reason), None) => Err(reason),
    }
}

fn launch(engine: &dyn Engine, home: &Home, port: u16) -> Result<Process, String> {
    let mut process = home.start(&mut engine.serve(home, port)?)?;
    let (mut ready, mut ended) = (false, false);
    wait_until(START_LIMIT, || {
        ended = process.has_ended();
        ready = engine.is_ready(home, process.pid());
        ready || ended
    });
    if ready && !ended {
        return Ok(process);
    }
    home.kill(process)?;
    let what = if ended {
        "ended while it started".to_owned()
    } else {
        format!("was not ready within {START_LIMIT:?}")
    };
    Err(format!("the {} server on port {port} {what}:\n{}", engine.scheme(), home.log_tails()))
}

/// A port below those that systems give to outgoing connections (from 32768 on Linux, 49152 elsewhere).
///
/// A port of that range, as binding port 0 yields, cannot be relied upon while its server is dead: a client
/// that keeps dialling it may be given that very port for its own end, be connected to itself, and keep it
/// occupied.
///
/// Each port is returned once per process, so that no server takes the port of another one that a test has
/// killed and is about to restart.
fn free_port() -> Result<u16, String> {
    static RETURNED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut returned = RETURNED.lock().unwrap_or_else(PoisonError::into_inner);
    let start = RandomState::new().hash_one(0) % 22_000;
    (0..1_000)
        .filter_map(|step| u16::try_from(10_000 + (start + step) % 22_000).ok())
        .find(|port| !returned.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .inspect(|port| _ = returned.insert(*port))
        .ok_or_else(|| "found no free port on 127.0.0.1".to_owned())
}

#[track_caller]
#[expect(clippy::panic, reason = "a test without its server has failed")]
fn must<T>(result: Result<T, impl Display>) -> T {
    match result {
        Ok(value) => value,
        Err(reason) => panic!("{reason}"),
    }
}
