//! Servers that are killed between the effect of a request and its response.

use std::process::Stdio;
use std::time::Duration;

use sqlx::{MySql, Postgres, Sqlite};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::client::{Answer, PATIENCE, send_to};
use crate::service::{Shop, Stop, effects, number, tables};
use crate::support::TestBackend;

/// The environment variables that make this executable a server.
const URL: &str = "ATOMICALLY_TEST_SHOP_URL";
const STOP: &str = "ATOMICALLY_TEST_SHOP_STOP";

const BEFORE_COMMIT: &str = "before the commit";
const BEFORE_RESPONSE: &str = "before the response";
const NOWHERE: &str = "nowhere";

/// The server as a process of its own: does nothing unless a test has started it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_process() {
    let (Ok(url), Ok(stop)) = (std::env::var(URL), std::env::var(STOP)) else { return };
    match url.split(':').next() {
        Some("sqlite") => serve::<Sqlite>(&url, &stop).await,
        Some("mysql") => serve::<MySql>(&url, &stop).await,
        _ => serve::<Postgres>(&url, &stop).await,
    }
}

async fn serve<DB: TestBackend>(url: &str, stop: &str) {
    let point = Stop::closed();
    let mut shop = Shop::on(&DB::another(url).await);
    match stop {
        BEFORE_COMMIT => shop.before_commit = point.clone(),
        BEFORE_RESPONSE => shop.before_response = point.clone(),
        _ => {}
    }
    tokio::spawn(async move {
        point.reached().await;
        println!("stopped");
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("listening on {}", listener.local_addr().expect("its address"));
    axum::serve(listener, shop.router()).await.expect("a server");
}

/// A server process, which is killed when this is dropped.
struct Server {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Server {
    async fn start(url: &str, stop: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["killed::server_process", "--exact", "--nocapture"])
            .env(URL, url)
            .env(STOP, stop)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start the server");
        let output = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut server = Self { child, output, address: String::new() };
        server.address = server.line_after("listening on ").await;
        server
    }

    /// Waits for a line with this text, and returns what follows it.
    async fn line_after(&mut self, text: &str) -> String {
        let search = async {
            while let Some(line) = self.output.next_line().await.expect("text") {
                if let Some((_, rest)) = line.split_once(text) {
                    return rest.to_owned();
                }
            }
            panic!("the server has ended before it printed {text:?}")
        };
        timeout(PATIENCE, search).await.expect("a line in time")
    }

    /// Sends the request, kills the server when it has reached its stop, and returns the response, if there
    /// was one.
    async fn kill_while_serving(mut self, path: &'static str) -> Option<Answer> {
        let address = self.address.clone();
        let request = tokio::spawn(async move { send_to(&address, path, "ann", "1", ORDER).await });
        self.line_after("stopped").await;
        self.child.kill().await.expect("killed");
        request.await.expect("the client lives")
    }
}

const ORDER: &str = r#"{"k": 1}"#;

/// Sends the request to a new server until it is carried out: the transaction of the dead one may be open for
/// a moment.
async fn send_again(url: &str, path: &str) -> Answer {
    let server = Server::start(url, NOWHERE).await;
    for _ in 0..600 {
        let answer = send_to(&server.address, path, "ann", "1", ORDER).await.expect("a response");
        if answer.status == 201 {
            return answer;
        }
        assert_eq!(answer.status, 409, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the dead server keeps its key")
}

pub(crate) async fn a_server_that_dies_before_the_commit_leaves_nothing<DB: TestBackend>() {
    let pool = tables::<DB>(1).await;
    let server = Server::start(&pool.url, BEFORE_COMMIT).await;
    assert_eq!(server.kill_while_serving("/orders").await, None);
    assert_eq!(effects(&pool, 1).await, 0);
    let answer = send_again(&pool.url, "/orders").await;
    assert!(!answer.is_replay(), "{answer:?}");
    assert_eq!(effects(&pool, 1).await, 1);
}

pub(crate) async fn a_server_that_dies_before_the_response_has_stored_it<DB: TestBackend>() {
    let pool = tables::<DB>(1).await;
    let server = Server::start(&pool.url, BEFORE_RESPONSE).await;
    assert_eq!(server.kill_while_serving("/orders").await, None);
    assert_eq!(effects(&pool, 1).await, 1);
    let answer = send_again(&pool.url, "/orders").await;
    assert!(answer.is_replay(), "{answer:?}");
    assert_eq!(answer.body, format!("{{\"number\":{}}}", number(&pool, 1).await).into_bytes());
}

/// The same death with a key outside of the transaction: the effect happens twice. Otherwise the tests above
/// would show nothing.
pub(crate) async fn a_key_that_is_stored_after_the_effect_does_not_prevent_a_second_one<DB: TestBackend>() {
    let pool = tables::<DB>(1).await;
    let server = Server::start(&pool.url, BEFORE_RESPONSE).await;
    assert_eq!(server.kill_while_serving("/unsafe_orders").await, None);
    assert_eq!(effects(&pool, 1).await, 1);
    send_again(&pool.url, "/unsafe_orders").await;
    assert_eq!(effects(&pool, 1).await, 2);
}
