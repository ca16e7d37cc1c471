//! HTTP requests with idempotency keys and entity tags.
//!
//! A client that gets no response sends its request again with the same `Idempotency-Key`.
//! [`RespondExt::respond_once`] runs the unit of work of such a request at most once, stores the response in
//! the transaction of its effect, and sends the same response to each repetition:
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use atomically::http::{BufferedResponse, KeyedRequest, ProblemDetails, RespondExt as _};
//! use atomically::{Pessimistic, Tx};
//! use http::StatusCode;
//! use sqlx::Sqlite;
//!
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! # sqlx::query("CREATE TABLE payment (id INTEGER PRIMARY KEY, amount INTEGER)").execute(&pool).await?;
//! let db = Pessimistic::default().on(&pool);
//! db.create_key_table().await?;
//!
//! // The parts and the body of a request, from any framework.
//! let request = http::Request::post("/payments").header("Idempotency-Key", "\"8e03978e\"").body("500")?;
//! let (head, body) = request.into_parts();
//!
//! let request = KeyedRequest::new(&head, body, 64 * 1024)?;
//! let amount: i64 = request.json()?;
//! // The user that the service has authenticated.
//! let key = request.for_caller("user 7")?;
//! let pay = async |tx: &mut Tx<Sqlite>| -> Result<_, ProblemDetails> {
//!     let insert = "INSERT INTO payment (amount) VALUES ($1) RETURNING id";
//!     let id: i64 = sqlx::query_scalar(insert).bind(amount).fetch_one(&mut *tx).await?;
//!     Ok(BufferedResponse::json(StatusCode::CREATED, &id)?)
//! };
//! let first = db.respond_once(&key).run(pay).await?;
//! let second = db.respond_once(&key).run(pay).await?;
//! assert_eq!((second.status(), second.body()), (first.status(), first.body()));
//! assert_eq!(second.headers()["Idempotency-Replayed"], "true");
//! # Ok(()) }
//! # #[cfg(not(feature = "sqlite"))] fn main() {}
//! ```
//!
//! Everything is written on the types of the crate [`http`](https://docs.rs/http), for any framework. With
//! the feature `axum`, [`KeyedRequest`] and [`IfMatch`] are extractors, and [`BufferedResponse`],
//! [`Refusal`], [`ProblemDetails`] and [`Error`](crate::Error) are responses.
//!
//! For resources with a version column, [`EntityTag`] and [`IfMatch`] refuse changes to a version that the
//! client has not read. The [guide](crate::guide::idempotency) explains what a client can rely on.

#[cfg(feature = "axum")]
mod axum;
mod buffered_response;
mod entity_tag;
mod key_header;
mod keyed_request;
mod problem;
mod refusal;
mod respond;

pub use buffered_response::BufferedResponse;
pub use entity_tag::{EntityTag, IfMatch};
pub use keyed_request::{KeyedRequest, RequestKey};
pub use problem::ProblemDetails;
pub use refusal::Refusal;
pub use respond::{RespondExt, RespondOnce};
