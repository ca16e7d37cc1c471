//! A service whose requests have idempotency keys, in axum, on any database.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use atomically::http::{BufferedResponse, EntityTag, IfMatch, KeyedRequest, ProblemDetails, RespondExt as _};
use atomically::{Options, Pessimistic, Transactor, TransactorExt as _, Tx};
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, State};
use axum::http::header::{AUTHORIZATION, ETAG, HeaderName, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::routing::{post, put};
use serde_json::json;
use sqlx::Pool;
use tokio::sync::Semaphore;

use crate::support::{TestBackend, TestPool};

pub(crate) const MAX_BODY: usize = 1000;
pub(crate) const TRACE: HeaderName = HeaderName::from_static("x-trace");

/// The state of the service, and the points at which a test stops it.
pub(crate) struct Shop<DB: TestBackend> {
    pub(crate) db: Arc<dyn Transactor<DB>>,
    /// How long a request waits for its twin.
    pub(crate) wait: Duration,
    /// Keeps the header `x-trace`.
    pub(crate) keeps_trace: bool,
    /// Is called in the unit, after the effect.
    pub(crate) before_commit: Stop,
    /// Is called after the commit.
    pub(crate) before_response: Stop,
}

/// A point at which requests wait until a test opens it.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    reached: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

impl Stop {
    pub(crate) fn open() -> Self {
        Self { reached: Arc::new(Semaphore::new(0)), gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    pub(crate) fn closed() -> Self {
        Self { reached: Arc::new(Semaphore::new(0)), gate: Arc::new(Semaphore::new(0)) }
    }

    async fn pass(&self) {
        self.reached.add_permits(1);
        self.gate.acquire().await.expect("never closed").forget();
    }

    /// Waits until a request has reached this point.
    pub(crate) async fn reached(&self) {
        self.reached.acquire().await.expect("never closed").forget();
    }

    pub(crate) fn let_one_pass(&self) {
        self.gate.add_permits(1);
    }
}

impl<DB: TestBackend> Shop<DB> {
    pub(crate) fn on(pool: &Pool<DB>) -> Self {
        let options = Options::new().deadline(Duration::from_secs(60));
        Self {
            db: Arc::new(Pessimistic::default().on(pool).options(options)),
            wait: Duration::from_secs(20),
            keeps_trace: false,
            before_commit: Stop::open(),
            before_response: Stop::open(),
        }
    }

    pub(crate) fn router(self) -> Router {
        let orders = Router::new().route("/orders", post(place::<DB>).put(place::<DB>));
        Router::new()
            .nest("/v2", orders.clone())
            .merge(orders)
            .route("/unsafe_orders", post(place_with_a_key_of_its_own::<DB>))
            .route("/broken", post(fail::<DB>))
            .route("/price", put(change::<DB>))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(Arc::new(self))
    }
}

/// Creates the tables, and row 1 of `price` with version 1.
pub(crate) async fn tables<DB: TestBackend>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    for sql in [
        "CREATE TABLE ledger (k BIGINT NOT NULL, number BIGINT NOT NULL)",
        "CREATE TABLE done (k BIGINT NOT NULL)",
        "CREATE TABLE price (id BIGINT PRIMARY KEY, version BIGINT NOT NULL)",
        "INSERT INTO price VALUES (1, 1)",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect(sql);
    }
    Pessimistic::default().on(&pool).create_key_table().await.expect("the table of keys");
    pool
}

/// How often an order was placed.
pub(crate) async fn effects<DB: TestBackend>(pool: &Pool<DB>, k: i64) -> i64 {
    let count = DB::sql("SELECT COUNT(*) FROM ledger WHERE k = ?");
    DB::pool_fetch(pool, count, &[k]).await.expect("a count")
}

/// The number of an order that was placed once.
pub(crate) async fn number<DB: TestBackend>(pool: &Pool<DB>, k: i64) -> i64 {
    assert_eq!(effects(pool, k).await, 1, "order {k}");
    let number = DB::sql("SELECT number FROM ledger WHERE k = ?");
    DB::pool_fetch(pool, number, &[k]).await.expect("the number")
}

/// The user that the request authenticates as.
pub(crate) struct User(String);

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = StatusCode;

    async fn from_request_parts(head: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let user = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        user.map(|user| Self(user.to_owned())).ok_or(StatusCode::UNAUTHORIZED)
    }
}

/// Places the order whose number `k` is in the body: `{"k": 7, "then": "decline"}`.
async fn place<DB: TestBackend>(
    State(shop): State<Arc<Shop<DB>>>,
    User(user): User,
    request: KeyedRequest,
) -> Result<BufferedResponse, ProblemDetails> {
    let order: serde_json::Value = request.json()?;
    let k = order["k"].as_i64().unwrap_or_default();
    let then = order["then"].as_str();
    let mut once = shop.db.respond_once(&request.for_caller(user)?).wait(shop.wait).max_body_bytes(MAX_BODY);
    if shop.keeps_trace {
        once = once.keep_header(TRACE);
    }
    let response = once
        .run(async |tx: &mut Tx<DB>| -> Result<BufferedResponse, ProblemDetails> {
            if then == Some("decline") {
                return Ok(BufferedResponse::json(StatusCode::PAYMENT_REQUIRED, &"declined")?);
            }
            let number = effect(tx, k).await?;
            shop.before_commit.pass().await;
            match then {
                Some("be busy") => return Ok(BufferedResponse::new(StatusCode::SERVICE_UNAVAILABLE, "busy")),
                Some("say much") => {
                    return Ok(BufferedResponse::new(StatusCode::OK, "x".repeat(MAX_BODY + 1)));
                }
                _ => {}
            }
            let response = BufferedResponse::json(StatusCode::CREATED, &json!({ "number": number }))?;
            let response = response.header(LOCATION, format!("/orders/{number}"))?;
            let response = response.header(ETAG, EntityTag::of_version(1).header_value())?;
            Ok(response.header(TRACE, number)?)
        })
        .await?;
    shop.before_response.pass().await;
    Ok(response)
}

async fn effect<DB: TestBackend>(tx: &mut Tx<DB>, k: i64) -> Result<i64, sqlx::Error> {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    // Unique in all processes that serve the same database.
    let number = NEXT.fetch_add(1, Ordering::Relaxed) + 1_000_000 * i64::from(std::process::id());
    DB::execute(tx, DB::sql("INSERT INTO ledger VALUES (?, ?)"), &[k, number]).await?;
    Ok(number)
}

/// Places an order as services do that keep their keys apart from the effects: the key is checked first, and
/// stored in a second transaction once the effect has happened.
async fn place_with_a_key_of_its_own<DB: TestBackend>(
    State(shop): State<Arc<Shop<DB>>>,
    request: KeyedRequest,
) -> Result<BufferedResponse, ProblemDetails> {
    let k: i64 = request.key().parse().unwrap_or_default();
    let known = async |tx: &mut Tx<DB>| -> Result<i64, ProblemDetails> {
        Ok(DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM done WHERE k = ?"), &[k]).await?)
    };
    if shop.db.run(known).await? == 0 {
        let place = async |tx: &mut Tx<DB>| -> Result<i64, ProblemDetails> { Ok(effect(tx, k).await?) };
        shop.db.run(place).await?;
        shop.before_response.pass().await;
        let keep = async |tx: &mut Tx<DB>| -> Result<u64, ProblemDetails> {
            Ok(DB::execute(tx, DB::sql("INSERT INTO done VALUES (?)"), &[k]).await?)
        };
        shop.db.run(keep).await?;
    }
    Ok(BufferedResponse::new(StatusCode::CREATED, ""))
}

async fn fail<DB: TestBackend>(State(shop): State<Arc<Shop<DB>>>) -> Result<(), atomically::Error> {
    let select = async |tx: &mut Tx<DB>| -> Result<i64, atomically::Error> {
        Ok(DB::fetch(tx, DB::sql("SELECT secret_column FROM secret_table"), &[]).await?)
    };
    shop.db.run(select).await?;
    Ok(())
}

/// Changes the price if it still has the version that the client has read.
async fn change<DB: TestBackend>(
    State(shop): State<Arc<Shop<DB>>>,
    if_match: IfMatch,
) -> Result<[(HeaderName, HeaderValue); 1], ProblemDetails> {
    let change = async |tx: &mut Tx<DB>| -> Result<i64, ProblemDetails> {
        let select = tx.for_update(DB::sql("SELECT version FROM price WHERE id = 1"));
        let version = DB::fetch(tx, select, &[]).await?;
        if_match.check(version)?;
        let update = DB::sql("UPDATE price SET version = ? WHERE id = 1");
        let done = DB::execute(tx, update, &[version + 1]).await?;
        tx.expect_one(done)?;
        Ok(version + 1)
    };
    let version = shop.db.run(change).await?;
    Ok([(ETAG, EntityTag::of_version(version).header_value())])
}
