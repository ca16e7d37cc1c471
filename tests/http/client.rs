//! Sends requests: into a router, or over a connection that may be cut.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{HeaderMap, HeaderName};
use axum::http::{HeaderValue, Request, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::ServiceExt as _;

/// Longer than any response takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    pub(crate) fn is_replay(&self) -> bool {
        match self.header("idempotency-replayed") {
            Some("true") => true,
            Some("false") => false,
            other => panic!("Idempotency-Replayed is {other:?}"),
        }
    }

    /// The parts that each repetition of a request must get alike.
    pub(crate) fn kept(&self) -> (StatusCode, Vec<Option<&HeaderValue>>, &[u8]) {
        let kept = ["content-type", "etag", "location"].map(|name| self.headers.get(name));
        (self.status, kept.to_vec(), &self.body)
    }

    /// The detail of a problem with this status.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["title"].as_str(), self.status.canonical_reason());
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// A request for an order, with a key, by a user.
pub(crate) fn order(user: &str, key: &str, body: &str) -> Request<Body> {
    let request = Request::post("/orders").header("Authorization", user).header("Idempotency-Key", key);
    request.header("Content-Type", "application/json").body(body.to_owned().into()).expect("a request")
}

pub(crate) async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = timeout(PATIENCE, router.clone().oneshot(request)).await.expect("a response in time");
    let (head, body) = response.expect("a response").into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("the body").to_vec();
    Answer { status: head.status, headers: head.headers, body }
}

/// Sends a request over a connection of its own. Returns nothing if the response does not arrive completely.
pub(crate) async fn send_to(address: &str, path: &str, user: &str, key: &str, body: &str) -> Option<Answer> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nAuthorization: {user}\r\n\
         Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut connection = TcpStream::connect(address).await.ok()?;
        connection.write_all(request.as_bytes()).await.ok()?;
        let mut response = Vec::new();
        connection.read_to_end(&mut response).await.ok()?;
        parsed(&response)
    };
    timeout(PATIENCE, exchange).await.expect("a response or the end of the connection")
}

fn parsed(response: &[u8]) -> Option<Answer> {
    let end = response.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (str::from_utf8(&response[..end]).ok()?, &response[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value.trim()).ok()?);
    }
    let length: usize = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    (body.len() == length).then(|| Answer { status, headers, body: body.to_vec() })
}
