//! The program on PostgreSQL and MariaDB.

#[allow(dead_code, reason = "each test binary uses its part")]
mod program;

use hyper::StatusCode;
use program::Api;

const TEA: &str = r#"{"item": "tea", "quantity": 2}"#;
const MORE_TEA: &str = r#"{"item": "tea", "quantity": 3}"#;

/// Places an order, changes it, and waits until the key is purged.
async fn serves(url: &str) {
    // Both requests arrive before the key expires.
    let api = Api::start_on(url, &["--keep", "5", "--purge-every", "1"]);
    let answers = tokio::join!(api.post("k", TEA), api.post("k", TEA));
    for answer in [&answers.0, &answers.1] {
        assert_eq!((answer.status, answer.header("Location")), (StatusCode::CREATED, "/orders/1"));
        assert_eq!((answer.header("ETag"), &answer.body), ("\"1\"", &answers.0.body));
    }
    let changed = api.put("\"1\"", MORE_TEA).await;
    assert_eq!((changed.status, changed.header("ETag")), (StatusCode::OK, "\"2\""), "{}", changed.body);
    api.put("\"1\"", TEA).await.problem(StatusCode::PRECONDITION_FAILED);
    api.wait_for_log("removed expired keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_placed_once_on_postgres() {
    serves(&test_servers::postgres_url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_placed_once_on_mariadb() {
    serves(&test_servers::mysql_url()).await;
}
