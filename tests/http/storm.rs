//! Many clients over a network that cuts responses.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::client::{Answer, send_to};
use crate::service::{Shop, number, tables};
use crate::support::TestBackend;
use crate::support::proxy::{Fault, Proxy, address};

const CLIENTS: i64 = 200;
const SENDERS: usize = 3;

/// Serves the router and returns its address.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Sends the request of a client until there is a response. Returns it, and how often it was sent.
async fn send_until_answered(server: &str, client: i64) -> (Answer, u32) {
    let (user, key, body) =
        (format!("user {client}"), format!("\"{client}\""), format!("{{\"k\":{client}}}"));
    for sent in 1..=500 {
        match send_to(server, "/orders", &user, &key, &body).await {
            Some(answer) if answer.status == 201 => return (answer, sent),
            // What a client does that is refused with `Retry-After`, only faster.
            Some(answer) => {
                assert!(matches!(answer.status.as_u16(), 409 | 503), "client {client}: {answer:?}");
                assert!(answer.header("retry-after").is_some(), "client {client}: {answer:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            None => {}
        }
    }
    panic!("client {client} got no response")
}

/// Each client sends its request three times at once, and again until all three are answered, while the
/// network cuts connections before the request arrives and after the server has responded.
pub(crate) async fn clients_that_send_at_once_and_again_get_one_response<DB: TestBackend>() {
    let pool = tables::<DB>(8).await;
    // Proxies take URLs with a user.
    let url = format!("http://client@{}/", serve(Shop::on(&pool).router()).await);
    let proxy = Proxy::to(&url).await;
    let server = address(&proxy.url(&url)).to_owned();
    let (before, after) = (Some(Fault::CutBefore), Some(Fault::CutAfter));
    proxy.cycle("POST /orders", &[None, after, None, before, after, None, after]);

    let mut senders = JoinSet::new();
    for client in 0..CLIENTS {
        let together = Arc::new(Barrier::new(SENDERS));
        for _ in 0..SENDERS {
            let (server, together) = (server.clone(), together.clone());
            senders.spawn(async move {
                together.wait().await;
                (client, send_until_answered(&server, client).await)
            });
        }
    }
    let mut answers = vec![Vec::new(); CLIENTS as usize];
    let mut sent_again = 0;
    while let Some(sender) = senders.join_next().await {
        let (client, (answer, sent)) = sender.expect("no sender dies");
        sent_again += sent - 1;
        answers[client as usize].push(answer);
    }
    assert!(proxy.hits() > 200, "the network was almost well: {} cuts", proxy.hits());

    let mut without_fresh = 0;
    for (client, answers) in (0..).zip(answers) {
        assert_eq!(answers.len(), SENDERS);
        let body = format!("{{\"number\":{}}}", number(&pool, client).await);
        for answer in &answers {
            assert_eq!(answer.body, body.as_bytes(), "client {client}");
            assert_eq!(answer.kept(), answers[0].kept(), "client {client}");
        }
        match answers.iter().filter(|answer| !answer.is_replay()).count() {
            0 => without_fresh += 1,
            1 => {}
            more => panic!("client {client}: {more} responses are fresh"),
        }
    }
    println!("{}: {} cuts, {sent_again} sent again, {without_fresh} lost", DB::NAME, proxy.hits());
    assert!(without_fresh > 0, "no response was cut between its effect and its client");
}
