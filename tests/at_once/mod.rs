//! Calls that need one round trip: how PostgreSQL executes a batch of `Deltas` as a single statement.
//!
//! `conformance/coalescing.rs` tests the results, which are the same with and without the single statement.
//! Tests whose calls have to share a batch run on one thread: the task of the batch runs when all of them
//! have been made.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{DeltaOutcome, Deltas, ErrorKind, Event, Isolation, Key, Options, UnitEvent};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgPoolOptions, PgTypeInfo, PgValueRef};
use sqlx::{Connection as _, Decode, Encode, PgConnection, PgPool, Postgres, Type};

use crate::conformance::increments::{counter, value};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestPool, eventually};

use DeltaOutcome::{Applied, NotFound, Refused};

/// A part of the single statement that no other statement contains.
const SHORT: &str = "EXECUTE";

/// A table `counter` of two rows, and a pool of one connection that a proxy watches.
async fn watched() -> (TestPool<Postgres>, Proxy, PgPool) {
    let direct = counter::<Postgres>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
    let pool = pool.connect(&proxy.url(&direct.url)).await.expect("a pool through the proxy");
    (direct, proxy, pool)
}

fn counters(pool: &PgPool) -> Deltas<Postgres, i64> {
    Deltas::on(pool, "counter", "id", "value").options(Options::new().deadline(Duration::from_secs(240)))
}

#[tokio::test]
async fn a_batch_is_one_round_trip() {
    let (direct, proxy, pool) = watched().await;
    let stock = counters(&pool).at_least(0);
    // Makes the session prepare the statement.
    assert_eq!(stock.add(1, 10).await.expect("a commit"), Applied { value: 10 });
    eventually(1, async || pool.num_idle()).await;
    let before = proxy.requests();
    let answers =
        join_all([(1, -3), (2, 5), (1, -7), (2, -5), (2, 1)].map(|(id, delta)| stock.add(id, delta))).await;
    let values: Vec<_> = answers.into_iter().map(|answer| answer.expect("a commit")).collect();
    assert_eq!(values, [7, 5, 0, 0, 1].map(|value| Applied { value }));
    // The second request is the pool's, which tests the released connection.
    eventually(before + 2, async || proxy.requests()).await;
    assert_eq!(value(&direct).await, 0);
}

/// A call that exceeds the bound is decided alone, with the calls for the same row; the others are applied.
#[tokio::test]
async fn a_call_that_is_out_of_bounds_runs_in_a_transaction() {
    let (_direct, proxy, pool) = watched().await;
    let stock = counters(&pool).at_least(0);
    assert_eq!(stock.add(1, 5).await.expect("a commit"), Applied { value: 5 });
    let calls = [(1, -6), (2, 5), (1, 1), (7, 1)].map(|(id, delta)| stock.add(id, delta));
    let answers: Vec<_> = join_all(calls).await.into_iter().map(|answer| answer.expect("a commit")).collect();
    assert_eq!(answers, [Refused { value: 5 }, Applied { value: 5 }, Applied { value: 6 }, NotFound]);
    // Most calls had to be retried, so the next batches skip the single statement; later it is tried again.
    proxy.on(SHORT, Fault::CutBefore);
    assert_eq!(stock.add(1, 0).await.expect("by the other way"), Applied { value: 6 });
    assert_eq!(stock.add(2, 1).await.expect("by the other way"), Applied { value: 6 });
    proxy.heal();
    for n in 7..=40 {
        assert_eq!(stock.add(1, 1).await.expect("a commit"), Applied { value: n });
    }
    proxy.on("BEGIN", Fault::CutBefore);
    assert_eq!(stock.add(1, 1).await.expect("without a BEGIN"), Applied { value: 41 });
}

/// A statement that the database refuses is sent once as a single statement, and not for the next calls.
#[tokio::test]
async fn does_not_retry_a_refused_single_statement() {
    let (direct, proxy, pool) = watched().await;
    let check = "ALTER TABLE counter ADD CHECK (value < 10)";
    sqlx::raw_sql(check).execute(&*direct).await.expect("a constraint");
    let stock = counters(&pool);
    let error = stock.add(1, 10).await.expect_err("too much");
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error:?}");
    proxy.on(SHORT, Fault::CutBefore);
    assert_eq!(stock.add(1, 9).await.expect("by the other way"), Applied { value: 9 });
    assert_eq!(proxy.hits(), 0);
}

/// While the batch waits for a connection, its calls can still be cancelled.
#[tokio::test]
async fn a_call_dropped_before_it_is_sent_stores_nothing() {
    let (_direct, proxy, pool) = watched().await;
    let stock = counters(&pool);
    let held = pool.acquire().await.expect("the only connection");
    let (mut goes, mut stays) = (Box::pin(stock.add(1, 1)), Box::pin(stock.add(1, 10)));
    assert!((&mut goes).now_or_never().is_none() && (&mut stays).now_or_never().is_none());
    // The batch is closed with both calls in it.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(goes);
    proxy.on("BEGIN", Fault::CutBefore);
    drop(held);
    assert_eq!(stays.await.expect("without a BEGIN"), Applied { value: 10 });
}

/// The statement is the whole transaction: a caller that loses the connection cannot know its outcome.
#[tokio::test]
async fn a_lost_connection_is_unknown_to_every_caller() {
    for (fault, stored) in [(Fault::CutBefore, 0), (Fault::CutAfter, 6)] {
        let (direct, proxy, pool) = watched().await;
        let stock = counters(&pool);
        // Makes the session prepare the statement.
        assert_eq!(stock.add(2, 1).await.expect("a commit"), Applied { value: 1 });
        proxy.on(SHORT, fault);
        for answer in join_all([1, 2, 3].map(|delta| stock.add(1, delta))).await {
            let error = answer.expect_err("an unknown outcome");
            assert!(error.is_commit_unknown(), "{fault:?}: {error:?}");
        }
        assert_eq!(proxy.hits(), 1, "it was sent once");
        proxy.heal();
        eventually(stored, async || value(&direct).await).await;
    }
}

/// No statement that waits for a lock is in flight when a caller times out, so each caller knows that nothing
/// is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_outcome_is_unknown_while_the_table_is_locked() {
    let (direct, _proxy, pool) = watched().await;
    let mut blocker = PgConnection::connect(&direct.url).await.expect("a connection");
    sqlx::raw_sql("BEGIN; LOCK TABLE counter").execute(&mut blocker).await.expect("a lock");
    let stock = counters(&pool);
    let deadlines = [1, 4, 9, 1000, 2000].map(Duration::from_millis);
    let calls = deadlines.map(|deadline| stock.clone().options(Options::new().deadline(deadline)));
    for answer in join_all(calls.each_ref().map(|stock| stock.add(1, 1))).await {
        let error = answer.expect_err("the table is locked");
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    }
    // The same for calls that share a batch.
    let shared = counters(&pool).options(Options::new().deadline(Duration::from_secs(2)));
    let staggered = (0..40).map(async |n| {
        tokio::time::sleep(Duration::from_millis(50 * n)).await;
        shared.add(1, 1).await
    });
    for answer in join_all(staggered).await {
        let error = answer.expect_err("the table is locked");
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut blocker).await.expect("the lock is given back");
    assert_eq!(stock.add(1, 1).await.expect("a commit"), Applied { value: 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_a_statement_cannot_have_need_a_transaction() {
    let minute = Duration::from_secs(60);
    for options in [
        Options::new().isolation(Isolation::Serializable),
        Options::new().lock_timeout(minute),
        Options::new().statement_timeout(minute),
        Options::new().idle_timeout(minute),
    ] {
        let (_direct, proxy, pool) = watched().await;
        proxy.on(SHORT, Fault::CutBefore);
        let stock = counters(&pool).options(options);
        assert_eq!(stock.add(1, 1).await.expect("a commit"), Applied { value: 1 });
        assert_eq!(proxy.hits(), 0);
    }
}

/// Sixteen bytes that PostgreSQL knows as a `uuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Uuid([u8; 16]);

impl Type<Postgres> for Uuid {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(2950))
    }
}

impl Encode<'_, Postgres> for Uuid {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Uuid {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(value.as_bytes()?.try_into()?))
    }
}

/// Adds to each key in one batch, without a BEGIN. The counts show that each key was found.
async fn assert_found<K: Key<Postgres> + std::fmt::Debug>(kind: &str, keys: &[K]) {
    let (direct, proxy, pool) = watched().await;
    let create = format!("CREATE TABLE keyed (id {kind} PRIMARY KEY, value INTEGER NOT NULL)");
    sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&*direct).await.expect(kind);
    for key in keys {
        sqlx::query("INSERT INTO keyed VALUES ($1, 0)").bind(key).execute(&*direct).await.expect(kind);
    }
    proxy.on("BEGIN", Fault::CutBefore);
    let uses = Deltas::on(&pool, "keyed", "id", "value").at_least(0);
    for round in 1..=2 {
        for (key, answer) in keys.iter().zip(join_all(keys.iter().map(|key| uses.add(key.clone(), 1))).await)
        {
            assert_eq!(answer.expect("without a BEGIN"), Applied { value: round }, "{kind}: {key:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_usual_types_are_found() {
    assert_found::<i64>("BIGINT", &[i64::MIN, -1, 0, i64::MAX]).await;
    assert_found::<i32>("INTEGER", &[i32::MIN, -1, 0, i32::MAX]).await;
    assert_found::<i16>("SMALLINT", &[i16::MIN, -1, 0, i16::MAX]).await;
    assert_found::<Uuid>("UUID", &[Uuid([0; 16]), Uuid([0xAB; 16]), Uuid(std::array::from_fn(|i| i as u8))])
        .await;
    let texts = ["", "a", "A", "NULL", "null", "é", "it's", "a\\b", "\"", "{,}", " a ", "$1", "\n"];
    let texts = texts.map(str::to_owned);
    assert_found::<String>("TEXT", &texts).await;
    assert_found::<String>("VARCHAR(20)", &texts).await;
}

/// A trigger records the settings that apply to the statement: its time limits, and its isolation level,
/// which does not depend on that of the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_the_limits_and_the_isolation_level_to_the_server() {
    let (direct, proxy, _) = watched().await;
    let create = "CREATE TABLE seen (setting TEXT, value TEXT);
                  CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
                      INSERT INTO seen SELECT name, current_setting(name)
                      FROM unnest(
                          ARRAY[''statement_timeout'', ''lock_timeout'', ''transaction_isolation'']
                      ) AS name;
                      RETURN NULL;
                  END';
                  CREATE TRIGGER note BEFORE UPDATE ON counter EXECUTE FUNCTION note()";
    sqlx::raw_sql(create).execute(&*direct).await.expect("a trigger");
    let strict = PgPoolOptions::new().max_connections(1).after_connect(|connection, _| {
        Box::pin(async move {
            let setting = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE";
            sqlx::raw_sql(setting).execute(connection).await.map(drop)
        })
    });
    let pool = strict.connect(&proxy.url(&direct.url)).await.expect("a pool through the proxy");
    proxy.on("BEGIN", Fault::CutBefore);
    let stock = counters(&pool).options(Options::new().deadline(Duration::from_secs(60)));
    assert_eq!(stock.add(1, 1).await.expect("without a BEGIN"), Applied { value: 1 });
    let seen: Vec<(String, String)> = sqlx::query_as("SELECT setting, value FROM seen ORDER BY setting")
        .fetch_all(&*direct)
        .await
        .expect("notes");
    let [(_, lock), (_, statement), (_, level)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((lock.as_str(), level.as_str()), ("5ms", "read committed"));
    let statement: u32 = statement.trim_end_matches("ms").parse().expect("milliseconds");
    assert!((30_000..60_000).contains(&statement), "{statement}");
}

/// Fractional values are refused, even if they are within the bounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_not_change_a_number_with_a_fraction() {
    let (direct, _proxy, pool) = watched().await;
    let create = "CREATE TABLE priced (id BIGINT PRIMARY KEY, price NUMERIC NOT NULL);
                  INSERT INTO priced VALUES (1, 2.5), (2, 2)";
    sqlx::raw_sql(create).execute(&*direct).await.expect("a table");
    let prices = Deltas::on(&pool, "priced", "id", "price");
    assert_eq!(prices.add(2_i64, 1).await.expect("a commit"), Applied { value: 3 });
    let error = prices.add(1, 1).await.expect_err("it is no integer");
    assert!(error.to_string().contains("no integer"), "{error}");
    let left: bool = sqlx::query_scalar("SELECT price = 2.5 FROM priced WHERE id = 1")
        .fetch_one(&*direct)
        .await
        .expect("the price");
    assert!(left);
}

/// The driver does not decode a `BIGINT` as an `i32`, and the error does not depend on whether the value is
/// decoded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_type_are_an_error_each_time() {
    let (direct, _proxy, pool) = watched().await;
    let stock = Deltas::<Postgres, i32>::on(&pool, "counter", "id", "value");
    for _ in 0..40 {
        let error = stock.add(1, 1).await.expect_err("the column is a BIGINT");
        assert!(error.to_string().contains("INT8"), "{error}");
    }
    assert_eq!(value(&direct).await, 0);
}

/// The result is the same as without the single statement, whatever the database considers equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compares_text_keys_as_the_server_does() {
    let (direct, _proxy, pool) = watched().await;
    let create = "CREATE TABLE keyed (id CHAR(4) PRIMARY KEY, value BIGINT NOT NULL);
                  INSERT INTO keyed VALUES ('a', 0), ('abcd', 0)";
    sqlx::raw_sql(create).execute(&*direct).await.expect("a table");
    let short = Deltas::<Postgres, String>::on(&pool, "keyed", "id", "value");
    let long = short.clone().options(Options::new().lock_timeout(Duration::from_secs(60)));
    for key in ["a", "a ", "a   ", "abcd", "abcd ", "ABCD"] {
        let said = [&short, &long].map(|way| way.add(key.to_owned(), 1));
        let [short, long] = <[_; 2]>::try_from(join_all(said).await).expect("two answers");
        let [short, long] = [short, long].map(|answer| answer.expect("a commit"));
        assert_eq!(matches!(short, NotFound), matches!(long, NotFound), "{key:?}: {short:?} and {long:?}");
    }
}

/// Observers get the text of the statement without its values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observers_see_no_values() {
    let (direct, _proxy, pool) = watched().await;
    let create = "CREATE TABLE keyed (id TEXT PRIMARY KEY, value BIGINT NOT NULL);
                  INSERT INTO keyed VALUES ('secret', 0)";
    sqlx::raw_sql(create).execute(&*direct).await.expect("a table");
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let recorded = seen.clone();
    let watch = Options::new().observed_by(Arc::new(move |event: &Event<'_>| {
        if let Event::Unit { event: UnitEvent::Ended { .. } | UnitEvent::StatementDone { .. }, .. } = event {
            recorded.lock().expect("what was seen").push(format!("{event:?}"));
        }
    }));
    let uses = Deltas::on(&pool, "keyed", "id", "value").options(watch);
    assert_eq!(uses.add("secret".to_owned(), 4321).await.expect("a commit"), Applied { value: 4321 });
    let seen = seen.lock().expect("what was seen");
    assert!(seen.iter().any(|event| event.contains("Committed") && event.contains("deltas")), "{seen:?}");
    assert!(!seen.iter().any(|event| event.contains("secret") || event.contains("4321")), "{seen:?}");
}
