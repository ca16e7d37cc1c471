//! Changes to a version that the client has read.

use axum::Router;
use axum::body::Body;
use axum::http::Request;

use crate::client::{Answer, send};
use crate::service::{Shop, tables};
use crate::support::TestBackend;

async fn put(shop: &Router, if_match: &str) -> Answer {
    let request = Request::put("/price").header("If-Match", if_match).body(Body::empty());
    send(shop, request.expect("a request")).await
}

pub(crate) async fn a_version_is_changed_once<DB: TestBackend>() {
    let pool = tables::<DB>(4).await;
    let shop = Shop::on(&pool).router();
    let without = send(&shop, Request::put("/price").body(Body::empty()).expect("a request")).await;
    assert!(without.problem(428).contains("If-Match header is required"), "{without:?}");

    // Clients that have read the same version, at once.
    let both = tokio::join!(put(&shop, "\"1\""), put(&shop, "\"1\""), put(&shop, "\"1\""));
    let mut statuses = [both.0.status.as_u16(), both.1.status.as_u16(), both.2.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412]);

    assert_eq!(put(&shop, "\"1\", \"2\"").await.header("etag"), Some("\"3\""));
    for stale in ["\"2\"", "W/\"3\"", "3"] {
        put(&shop, stale).await.problem(412);
    }
    assert_eq!(put(&shop, "*").await.header("etag"), Some("\"4\""));
}
