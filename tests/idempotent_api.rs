//! The example `idempotent_api`, over HTTP.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use sqlx::{Connection as _, SqliteConnection};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// The example at work, which ends with this.
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
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Api {
    /// Cargo has built it next to this test, if not told to build this test alone.
    fn start() -> Self {
        let test = std::env::current_exe().expect("the path of this test");
        let profile = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
        let example =
            profile.join("examples").join(format!("idempotent_api{}", std::env::consts::EXE_SUFFIX));
        assert!(example.exists(), "{} is not there: run `cargo build --examples` first", example.display());
        let directory = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(example)
            .args(["--listen", "127.0.0.1:0", "--deadline", "2000", "--database"])
            .arg(directory.path().join("orders.db"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the example");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("its first line");
        let address = line.trim().strip_prefix("listening on http://").expect("an address").to_owned();
        Self { child, address, directory }
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
        let mut connection = SqliteConnection::connect(&self.file()).await.expect("the file");
        sqlx::query_scalar("SELECT COUNT(*) FROM orders").fetch_one(&mut connection).await.expect("a count")
    }
}

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
async fn bad_requests_are_told_so() {
    let api = Api::start();
    let without = api.send(Method::POST, "/orders", &[], TEA).await;
    assert_eq!((without.status, &*without.body), (StatusCode::BAD_REQUEST, "an Idempotency-Key is required"));
    assert_eq!(api.post("", TEA).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(api.post(&"k".repeat(256), TEA).await.status, StatusCode::BAD_REQUEST);
    // What was refused leaves no key.
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

    // Two who have seen the same version.
    let (one, other) = tokio::join!(api.put(&tag, MORE_TEA), api.put(&tag, MORE_TEA));
    let (changed, stale) = if one.status == StatusCode::OK { (one, other) } else { (other, one) };
    assert_eq!((changed.status, stale.status), (StatusCode::OK, StatusCode::PRECONDITION_FAILED));
    assert_eq!(changed.header("ETag"), "\"2\"");
    let shown = api.send(Method::GET, "/orders/1", &[], "").await;
    assert_eq!((shown.status, shown.header("ETag")), (StatusCode::OK, "\"2\""));
    assert_eq!(shown.body, changed.body);
    assert_eq!(api.put("\"2\"", TEA).await.header("ETag"), "\"3\"");
    assert_eq!(api.put("never", TEA).await.status, StatusCode::PRECONDITION_FAILED);

    // An answer that is kept is the one that was given.
    let replayed = api.post("k", TEA).await;
    assert_eq!((replayed.header("ETag"), replayed.header("Idempotency-Replayed")), ("\"1\"", "true"));
}
