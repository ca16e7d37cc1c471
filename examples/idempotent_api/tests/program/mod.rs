//! Starts the program, and sends requests to it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// The deadline of a request, in milliseconds: longer than one takes on a busy machine.
const PATIENT: &str = "20000";
const IMPATIENT: &str = "2000";

/// A running program, which ends when this is dropped.
pub(crate) struct Api {
    child: Child,
    address: String,
    directory: TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers));
        value.to_str().expect("text")
    }

    /// The detail of a problem (RFC 9457) with this status.
    #[track_caller]
    pub(crate) fn problem(&self, status: StatusCode) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("Content-Type"), "application/problem+json");
        let problem: Value = serde_json::from_str(&self.body).expect("JSON");
        assert_eq!(problem["status"], status.as_u16());
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Api {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// On a SQLite file of its own.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_on_file(PATIENT, arguments)
    }

    /// With requests that soon give up.
    pub(crate) fn start_impatient() -> Self {
        Self::start_on_file(IMPATIENT, &[])
    }

    fn start_on_file(deadline: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("orders.db");
        let arguments = [&["--database", file.to_str().expect("text")], arguments].concat();
        Self::start_in(directory, deadline, &arguments)
    }

    /// On the database of a server.
    pub(crate) fn start_on(url: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::start_in(directory, PATIENT, &[&["--database-url", url], arguments].concat())
    }

    fn start_in(directory: TempDir, deadline: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_idempotent_api"))
            .args(["--listen", "127.0.0.1:0", "--deadline", deadline])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the program");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("its first line");
        let address = line.trim().strip_prefix("listening on http://").expect("an address").to_owned();
        Self { child, address, directory }
    }

    /// Reads the log until a line contains this text.
    pub(crate) fn wait_for_log(mut self, text: &str) {
        let log = BufReader::new(self.child.stderr.take().expect("its log"));
        let (lines, line) = mpsc::channel();
        // Ends with the program.
        std::thread::spawn(move || log.lines().try_for_each(|line| lines.send(line.expect("text"))));
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = line.recv_timeout(left).unwrap_or_else(|error| panic!("no {text:?}: {error}"));
            if line.contains(text) {
                return;
            }
        }
    }

    /// Ends the program, and returns what it logged.
    pub(crate) fn log(mut self) -> String {
        self.child.kill().expect("the end");
        let mut log = String::new();
        self.child.stderr.take().expect("its log").read_to_string(&mut log).expect("text");
        log
    }

    pub(crate) fn file(&self) -> String {
        format!("sqlite://{}", self.directory.path().join("orders.db").display())
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let send = async {
            let stream = TcpStream::connect(&self.address).await.expect("a connection");
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
            tokio::spawn(connection);
            let mut request = Request::builder().method(method).uri(path).header(HOST, &self.address);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request");
            let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
            let body = body.collect().await.expect("all of it").to_bytes();
            Answer {
                status: head.status,
                headers: head.headers,
                body: String::from_utf8(body.into()).expect("text"),
            }
        };
        tokio::time::timeout(Duration::from_secs(30), send).await.expect("an answer in time")
    }

    pub(crate) async fn post(&self, key: &str, body: &str) -> Answer {
        self.send(Method::POST, "/orders", &[("Idempotency-Key", key)], body).await
    }

    pub(crate) async fn put(&self, tag: &str, body: &str) -> Answer {
        self.send(Method::PUT, "/orders/1", &[("If-Match", tag)], body).await
    }

    pub(crate) async fn orders(&self) -> i64 {
        self.count("SELECT COUNT(*) FROM orders").await
    }

    pub(crate) async fn count(&self, query: &'static str) -> i64 {
        let mut connection = SqliteConnection::connect(&self.file()).await.expect("the file");
        sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a count")
    }

    pub(crate) async fn change(&self, statement: &'static str) {
        let mut connection = SqliteConnection::connect(&self.file()).await.expect("the file");
        sqlx::query(statement).execute(&mut connection).await.expect(statement);
    }
}
