//! Requests that are sent again.

use crate::client::{order, send};
use crate::service::{MAX_BODY, Shop, effects, number, tables};
use crate::support::TestBackend;

const ORDER: &str = r#"{"k": 1}"#;

pub(crate) async fn repetitions_get_the_same_response<DB: TestBackend>() {
    let pool = tables::<DB>(4).await;
    let shop = Shop::on(&pool).router();
    let first = send(&shop, order("ann", "\"key\"", ORDER)).await;
    assert_eq!((first.status.as_u16(), first.is_replay()), (201, false), "{first:?}");
    let number = number(&pool, 1).await;
    assert_eq!(first.body, format!("{{\"number\":{number}}}").into_bytes());
    assert_eq!(first.header("location"), Some(&*format!("/orders/{number}")));

    // At once, and without the quotes.
    let again = tokio::join!(
        send(&shop, order("ann", "\"key\"", ORDER)),
        send(&shop, order("ann", "key", ORDER)),
        send(&shop, order("ann", "key", ORDER)),
    );
    for again in [again.0, again.1, again.2] {
        assert!(again.is_replay(), "{again:?}");
        assert_eq!(again.kept(), first.kept());
    }
    assert_eq!(effects(&pool, 1).await, 1);
}

pub(crate) async fn callers_do_not_share_keys<DB: TestBackend>() {
    let pool = tables::<DB>(2).await;
    let shop = Shop::on(&pool).router();
    let ann = send(&shop, order("ann", "key", ORDER)).await;
    let bob = send(&shop, order("bob", "key", ORDER)).await;
    assert!(!ann.is_replay() && !bob.is_replay(), "{ann:?} {bob:?}");
    assert_ne!(ann.body, bob.body);
    assert_eq!(effects(&pool, 1).await, 2);
}

/// A 4xx that the unit returns as its response is final.
pub(crate) async fn a_final_refusal_is_replayed<DB: TestBackend>() {
    let pool = tables::<DB>(2).await;
    let shop = Shop::on(&pool).router();
    let declined = r#"{"k": 1, "then": "decline"}"#;
    let first = send(&shop, order("ann", "key", declined)).await;
    let again = send(&shop, order("ann", "key", declined)).await;
    assert_eq!((first.status.as_u16(), &*first.body), (402, &b"\"declined\""[..]));
    assert_eq!((first.is_replay(), again.is_replay()), (false, true));
    assert_eq!(again.kept(), first.kept());
}

pub(crate) async fn a_temporary_response_is_not_stored<DB: TestBackend>() {
    let pool = tables::<DB>(2).await;
    let shop = Shop::on(&pool).router();
    let busy = send(&shop, order("ann", "key", r#"{"k": 1, "then": "be busy"}"#)).await;
    assert_eq!((busy.status.as_u16(), &*busy.body), (503, &b"busy"[..]));
    assert_eq!(busy.header("idempotency-replayed"), None);
    assert_eq!(effects(&pool, 1).await, 0);
    // Not even the key: it is still free.
    let next = send(&shop, order("ann", "key", ORDER)).await;
    assert_eq!((next.status.as_u16(), next.is_replay()), (201, false));
    assert_eq!(effects(&pool, 1).await, 1);
}

pub(crate) async fn headers_that_are_not_kept_are_sent_once<DB: TestBackend>() {
    let pool = tables::<DB>(2).await;
    let mut traces = Vec::new();
    for (keeps_trace, key) in [(false, "one"), (true, "two")] {
        let router = Shop { keeps_trace, ..Shop::on(&pool) }.router();
        for _ in 0..2 {
            let answer = send(&router, order("ann", key, ORDER)).await;
            traces.push(answer.header("x-trace").is_some());
        }
    }
    assert_eq!(traces, [true, false, true, true]);
}

pub(crate) async fn a_response_that_is_too_long_is_not_stored<DB: TestBackend>() {
    let pool = tables::<DB>(2).await;
    let shop = Shop::on(&pool).router();
    let long = send(&shop, order("ann", "key", r#"{"k": 1, "then": "say much"}"#)).await;
    assert_eq!(long.problem(500), "the request could not be served", "more than {MAX_BODY}");
    assert_eq!(effects(&pool, 1).await, 0);
}
