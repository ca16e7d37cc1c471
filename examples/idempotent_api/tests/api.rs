//! The program on SQLite, over HTTP.

#[allow(dead_code, reason = "each test binary uses its part")]
mod program;

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use program::Api;
use sqlx::{Connection as _, SqliteConnection};

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
    let api = Api::start_impatient();
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
    // The program says so after the commit.
    api.wait_for_log("removed expired keys");
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
    let api = Api::start_impatient();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn customers_do_not_share_keys() {
    let api = Api::start();
    for (customer, location) in [("ann", "/orders/1"), ("bob", "/orders/2"), ("ann", "/orders/1")] {
        let headers = [("Authorization", customer), ("Idempotency-Key", "k")];
        let answer = api.send(Method::POST, "/orders", &headers, TEA).await;
        assert_eq!((answer.status, answer.header("Location")), (StatusCode::CREATED, location), "{customer}");
    }
    assert_eq!(api.orders().await, 2);
}
