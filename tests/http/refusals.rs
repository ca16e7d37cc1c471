//! Requests that are refused, and errors.

use std::sync::Arc;
use std::time::Duration;

use atomically::Error;
use axum::body::Body;
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use tower::ServiceExt as _;

use crate::client::{order, send};
use crate::service::{MAX_BODY, Shop, Stop, effects, tables};
use crate::support::TestBackend;

const ORDER: &str = r#"{"k": 1}"#;

pub(crate) async fn requests_without_a_valid_key_are_refused<DB: TestBackend>() {
    let pool = tables::<DB>(2).await;
    let shop = Shop::on(&pool).router();
    let without = Request::post("/orders").header("Authorization", "ann").body(Body::from(ORDER));
    let without = send(&shop, without.expect("a request")).await;
    assert!(without.problem(400).contains("Idempotency-Key header is required"), "{without:?}");
    for key in ["", "\"\"", "a, b", &"k".repeat(256)] {
        let answer = send(&shop, order("ann", key, ORDER)).await;
        assert!(answer.problem(400).contains("Idempotency-Key"), "{key}: {answer:?}");
    }
    let not_json = send(&shop, order("ann", "key", "tea, please")).await;
    assert!(not_json.problem(400).contains("body of the request"), "{not_json:?}");
    let long = send(&shop, order("ann", "key", &" ".repeat(MAX_BODY + 1))).await;
    assert!(long.problem(413).contains("too long"), "{long:?}");
    // A request that is refused leaves no key.
    assert!(!send(&shop, order("ann", "key", ORDER)).await.is_replay());
    assert_eq!(effects(&pool, 1).await, 1);
}

/// Method, path, query, content type and body are compared; a prefix that the router removes is part of the
/// path.
pub(crate) async fn a_different_request_with_the_same_key_is_refused<DB: TestBackend>() {
    let pool = tables::<DB>(2).await;
    let shop = Shop::on(&pool).router();
    assert_eq!(send(&shop, order("ann", "key", ORDER)).await.status, 201);

    let changed = |change: fn(&mut Request<Body>)| {
        let mut request = order("ann", "key", ORDER);
        change(&mut request);
        request
    };
    let others = [
        changed(|request| *request.method_mut() = "PUT".parse().expect("a method")),
        changed(|request| *request.uri_mut() = "/v2/orders".parse().expect("a path")),
        changed(|request| *request.uri_mut() = "/orders?dry=1".parse().expect("a path")),
        changed(|request| {
            request.headers_mut().insert(CONTENT_TYPE, "text/plain".parse().expect("a type"));
        }),
        order("ann", "key", r#"{"k": 1 }"#),
    ];
    for other in others {
        let shown = format!("{} {}", other.method(), other.uri());
        let answer = send(&shop, other).await;
        assert!(answer.problem(422).contains("different request"), "{shown}: {answer:?}");
    }
    assert_eq!(effects(&pool, 1).await, 1);
}

pub(crate) async fn a_twin_of_a_request_in_progress_is_refused<DB: TestBackend>() {
    let pool = tables::<DB>(2).await;
    let stop = Stop::closed();
    let first = Shop { before_commit: stop.clone(), ..Shop::on(&pool) }.router();
    let first = tokio::spawn(async move { send(&first, order("ann", "key", ORDER)).await });
    stop.reached().await;

    // On SQLite, a twin waits as long as any other writer.
    let deadline = Duration::from_secs(if DB::NAME == "SQLite" { 2 } else { 60 });
    let mut twin = Shop::on(&pool);
    twin.wait = Duration::from_millis(50);
    twin.db = Arc::new(atomically::Pessimistic::default().on(&pool).deadline(deadline));
    let twin = send(&twin.router(), order("ann", "key", ORDER)).await;
    assert!(twin.problem(409).contains("is in progress"), "{twin:?}");
    assert_eq!(twin.header("retry-after"), Some("1"));

    stop.let_one_pass();
    assert_eq!(first.await.expect("a response").status, 201);
    let again = send(&Shop::on(&pool).router(), order("ann", "key", ORDER)).await;
    assert_eq!((again.status.as_u16(), again.is_replay()), (201, true));
    assert_eq!(effects(&pool, 1).await, 1);
}

pub(crate) async fn errors_do_not_show_the_database_to_the_client<DB: TestBackend>() {
    let pool = tables::<DB>(2).await;
    let shop = Shop::on(&pool).router();
    let request = || Request::post("/broken").body(Body::empty()).expect("a request");
    let answer = send(&shop, request()).await;
    assert_eq!(answer.problem(500), "the request could not be served");
    assert!(!String::from_utf8_lossy(&answer.body).contains("secret"), "{answer:?}");
    // A layer finds the error in the extensions of the response.
    let response = shop.oneshot(request()).await.expect("a response");
    let cause = response.extensions().get::<Arc<Error>>().expect("the error");
    assert!(cause.to_string().contains("secret_table"), "{cause}");
}
