//! The program, over HTTP.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
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

/// A running program, which ends when this is dropped.
struct Api {
    child: Child,
    address: String,
    directory: TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    #[track_caller]
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers));
        value.to_str().expect("text")
    }

    /// The detail of a problem (RFC 9457) with this status.
    #[track_caller]
    fn problem(&self, status: StatusCode) -> String {
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
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(env!("CARGO_BIN_EXE_idempotent_api"))
            .args(["--listen", "127.0.0.1:0", "--deadline", "2000", "--database"])
            .arg(directory.path().join("orders.db"))
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

    /// Ends the program, and returns what it logged.
    fn log(mut self) -> String {
        self.child.kill().expect("the end");
        let mut log = String::new();
        self.child.stderr.take().expect("its log").read_to_string(&mut log).expect("text");
        log
    }

    fn file(&self) -> String {
        format!("sqlite://{}", self.directory.path().join("orders.db").display())
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
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

    async fn post(&self, key: &str, body: &str) -> Answer {
        self.send(Method::POST, "/orders", &[("Idempotency-Key", key)], body).await
    }

    async fn put(&self, tag: &str, body: &str) -> Answer {
        self.send(Method::PUT, "/orders/1", &[("If-Match", tag)], body).await
    }

    async fn orders(&self) -> i64 {
        self.count("SELECT COUNT(*) FROM orders").await
    }

    async fn count(&self, query: &'static str) -> i64 {
        let mut connection = SqliteConnection::connect(&self.file()).await.expect("the file");
        sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a count")
    }

    async fn change(&self, statement: &'static str) {
        let mut connection = SqliteConnection::connect(&self.file()).await.expect("the file");
        sqlx::query(statement).execute(&mut connection).await.expect(statement);
    }
}

/// Far more than anything takes that is waited for here.
const LIMIT: Duration = Duration::from_secs(60);

const TEA: &str = r#"{"item": "tea", "quantity": 2}"#;
const MORE_TEA: &str = r#"{"item": "tea", "quantity": 3}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_sent_again_is_placed_once() {
    let api = Api::start();
    // At once, and then once more.
    let answers = tokio::join!(api.post("k1", TEA), api.post("k1", TEA), api.post("k1", TEA));
    let answers = [answers.0, answers.1, answers.2, api.post("k1", TEA).await];
    for answer in &answers {
        assert_eq!(
            (answer.status, answer.header("Location")),
            (StatusCode::CREATED, "/orders/1"),
            "{}",
            answer.body
        );
        assert_eq!(answer.header("ETag"), "\"1\"");
        assert_eq!(answer.body, answers[0].body);
    }
    let fresh = answers.iter().filter(|answer| answer.header("Idempotency-Replayed") == "false").count();
    assert_eq!((fresh, api.orders().await), (1, 1));

    let mismatch = api.post("k1", MORE_TEA).await;
    assert_eq!(mismatch.status, StatusCode::UNPROCESSABLE_ENTITY);
    let other = api.post("k2", MORE_TEA).await;
    assert_eq!((other.status, other.header("Location")), (StatusCode::CREATED, "/orders/2"));
    assert_eq!(api.orders().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_with_the_reason() {
    let api = Api::start();
    let without = api.send(Method::POST, "/orders", &[], TEA).await;
    assert_eq!(without.problem(StatusCode::BAD_REQUEST), "an Idempotency-Key header is required");
    assert_eq!(api.post("", TEA).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(api.post(&"k".repeat(256), TEA).await.status, StatusCode::BAD_REQUEST);
    // A refused request leaves no key.
    assert_eq!(api.post("k", "tea, please").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(api.post("k", TEA).await.status, StatusCode::CREATED);
    assert_eq!(api.orders().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_being_served_is_a_conflict() {
    let api = Api::start();
    let mut other = SqliteConnection::connect(&api.file()).await.expect("the file");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("the right to write");
    let answer = api.post("k", TEA).await;
    assert_eq!((answer.status, answer.header("Retry-After")), (StatusCode::CONFLICT, "1"), "{}", answer.body);
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("rolled back");
    assert_eq!(api.post("k", TEA).await.status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_changed_once() {
    let api = Api::start();
    assert_eq!(api.put("\"1\"", TEA).await.status, StatusCode::NOT_FOUND);
    let tag = api.post("k", TEA).await.header("ETag").to_owned();
    let without = api.send(Method::PUT, "/orders/1", &[], MORE_TEA).await;
    assert_eq!(without.status, StatusCode::PRECONDITION_REQUIRED);

    // Two clients that have read the same version.
    let (one, other) = tokio::join!(api.put(&tag, MORE_TEA), api.put(&tag, MORE_TEA));
    let (changed, stale) = if one.status == StatusCode::OK { (one, other) } else { (other, one) };
    assert_eq!((changed.status, stale.status), (StatusCode::OK, StatusCode::PRECONDITION_FAILED));
    assert_eq!(changed.header("ETag"), "\"2\"");
    let shown = api.send(Method::GET, "/orders/1", &[], "").await;
    assert_eq!((shown.status, shown.header("ETag")), (StatusCode::OK, "\"2\""));
    assert_eq!(shown.body, changed.body);
    assert_eq!(api.put("\"2\"", TEA).await.header("ETag"), "\"3\"");
    assert_eq!(api.put("never", TEA).await.status, StatusCode::PRECONDITION_FAILED);

    // The kept response is the first one.
    let replayed = api.post("k", TEA).await;
    assert_eq!((replayed.header("ETag"), replayed.header("Idempotency-Replayed")), ("\"1\"", "true"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_keys_are_purged() {
    let api = Api::start_with(&["--keep", "1", "--purge-every", "1"]);
    assert_eq!(api.post("k", TEA).await.status, StatusCode::CREATED);
    let started = Instant::now();
    while api.count("SELECT COUNT(*) FROM atomically_key").await > 0 {
        assert!(started.elapsed() < LIMIT, "the key is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(api.orders().await, 1);
    assert!(api.log().contains("removed expired keys"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_errors_are_logged_and_not_sent_to_the_client() {
    let api = Api::start();
    assert_eq!(api.post("k1", TEA).await.status, StatusCode::CREATED);
    api.change("ALTER TABLE orders RENAME TO secret_orders").await;
    let answers = [api.post("k2", TEA).await, api.put("\"1\"", TEA).await];
    for answer in answers.iter().chain([&api.send(Method::GET, "/orders/1", &[], "").await]) {
        let detail = answer.problem(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(detail, "the request could not be served");
        for word in ["orders", "table", "SELECT", "sqlite"] {
            assert!(!answer.body.contains(word), "{word} is in {}", answer.body);
        }
    }
    let log = api.log();
    assert_eq!(log.matches("no such table: orders").count(), 3, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_database_is_a_temporary_error() {
    let api = Api::start();
    let tag = api.post("k", TEA).await.header("ETag").to_owned();
    let mut other = SqliteConnection::connect(&api.file()).await.expect("the file");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("the right to write");
    let answer = api.put(&tag, MORE_TEA).await;
    let detail = answer.problem(StatusCode::SERVICE_UNAVAILABLE);
    assert!(detail.contains("send the request again later"), "{detail}");
    assert_eq!(answer.header("Retry-After"), "1");
    assert!(!answer.body.contains("lock"), "{}", answer.body);
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("rolled back");
    assert_eq!(api.put(&tag, MORE_TEA).await.status, StatusCode::OK);
    assert!(api.log().contains("database error"));
}
