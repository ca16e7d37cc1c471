//! Behind a pgbouncer that hands out server connections for one transaction at a time.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey};
use atomically::queue::{Claim, NewJob, Queue, Retry};
use atomically::{
    Atomic, DeltaOutcome, Deltas, Error, Options, Pessimistic, PoolTransactor, Resolve, TransactorExt as _,
    Tx,
};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Postgres, Row as _};
use support::TestBackend as _;
use support::servers::Server;
use tokio::task::{JoinSet, spawn_blocking};

const TASKS: u32 = 16;
const ROUNDS: i64 = 40;
/// As many as pgbouncer is told to open.
const SERVER_CONNECTIONS: u32 = 4;

/// A pooler and the server behind it, in the order in which they are to go.
struct Pooled {
    pooler: Server,
    server: Server,
}

impl Pooled {
    /// With a table `counter` and a table of operations.
    async fn start(prepared_statements: bool) -> Self {
        let start = move || {
            let server = Server::postgres();
            Self { pooler: server.pgbouncer(prepared_statements), server }
        };
        let pooled = spawn_blocking(start).await.expect("a pooler and a server");
        let direct = pooled.direct().await;
        let create = "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL);
                      CREATE TABLE tried (k BIGINT);
                      INSERT INTO counter VALUES (1, 0), (2, 0)";
        sqlx::raw_sql(create).execute(&direct).await.expect("the tables");
        Pessimistic::default().on(&direct).create_operation_table().await.expect("the table of operations");
        pooled
    }

    async fn direct(&self) -> PgPool {
        PgPoolOptions::new().max_connections(1).connect(self.server.url()).await.expect("a direct pool")
    }

    async fn clients(&self, most: u32) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(most).connect(self.pooler.url()).await;
        pool.expect("a pool by way of pgbouncer")
    }

    async fn sum(&self) -> i64 {
        let sum = sqlx::query_scalar("SELECT CAST(sum(value) AS BIGINT) FROM counter");
        sum.fetch_one(&self.direct().await).await.expect("the sum of the counters")
    }
}

#[derive(Debug)]
enum Own {
    GaveUp,
    Transaction(Error),
}

impl From<Error> for Own {
    fn from(error: Error) -> Self {
        Self::Transaction(error)
    }
}

impl From<sqlx::Error> for Own {
    fn from(error: sqlx::Error) -> Self {
        Self::Transaction(error.into())
    }
}

/// Uses whatever the crate sends by itself.
async fn unit(tx: &mut Tx<Postgres>, round: i64) -> Result<(), Own> {
    tx.advisory_lock(("round", round % 7)).await?;
    let missing = tx.lock_rows("counter", "id", &[2_i64, 1, 3]).await?;
    assert_eq!(missing, [3]);
    let undone: Result<(), Own> = tx
        .savepoint(async |tx: &mut Tx<Postgres>| {
            let insert = sqlx::query("INSERT INTO tried VALUES ($1)").bind(round);
            insert.persistent(false).execute(&mut *tx).await?;
            Err(Own::GaveUp)
        })
        .await;
    assert!(matches!(undone, Err(Own::GaveUp)), "{undone:?}");
    let select = tx.for_update("SELECT value FROM counter WHERE id = 1");
    let value: i64 = sqlx::query_scalar(select).persistent(false).fetch_one(&mut *tx).await?;
    let update = sqlx::query("UPDATE counter SET value = $1 WHERE id = 1");
    let done = update.bind(value + 1).persistent(false).execute(&mut *tx).await?;
    tx.expect_one(done.rows_affected())?;
    if round % 5 == 4 { Err(Own::GaveUp) } else { Ok(()) }
}

async fn sends_work(prepared_statements: bool) {
    let pooled = Pooled::start(prepared_statements).await;
    let second = Duration::from_secs(1);
    let options = Options::new()
        .resolve_commits(Resolve::Operation)
        .deadline(60 * second)
        .lock_timeout(50 * second)
        .statement_timeout(55 * second)
        .idle_timeout(58 * second);
    let db = Pessimistic::default().on(&pooled.clients(TASKS).await).options(options);
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let db = db.clone();
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                match db.run(async |tx: &mut Tx<Postgres>| unit(tx, round).await).await {
                    Ok(()) => assert!(round % 5 != 4),
                    Err(Own::GaveUp) => assert!(round % 5 == 4),
                    Err(Own::Transaction(error)) => panic!("{error:?}"),
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("every unit ends as it wished");
    }

    let committed = i64::from(TASKS) * ROUNDS / 5 * 4;
    assert_eq!(pooled.sum().await, committed);
    let direct = pooled.direct().await;
    for (count, expected) in [
        ("SELECT count(*) FROM atomically_operation", committed),
        ("SELECT count(*) FROM tried", 0),
        ("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", 0),
    ] {
        let counted: i64 = sqlx::query_scalar(count).fetch_one(&direct).await.expect(count);
        assert_eq!(counted, expected, "{count}");
    }
    assert_eq!(Postgres::open_transactions(&direct).await, 0);
    no_setting_is_left_behind(&pooled).await;
}

/// Asks on all connections that the pooler has to the server, held at the same time, and by other clients than before.
async fn no_setting_is_left_behind(pooled: &Pooled) {
    let (pool, mut held, mut servers) =
        (pooled.clients(SERVER_CONNECTIONS).await, Vec::new(), BTreeSet::new());
    for _ in 0..SERVER_CONNECTIONS {
        let mut client = pool.acquire().await.expect("a client");
        for ask in
            ["BEGIN; SHOW lock_timeout", "SHOW statement_timeout", "SHOW idle_in_transaction_session_timeout"]
        {
            let answer = sqlx::raw_sql(ask).fetch_one(&mut *client).await.expect(ask);
            assert_eq!(answer.get::<String, _>(0), "0", "{ask}");
        }
        let server = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(&mut *client).await.expect("its pid");
        servers.insert(server.get::<i32, _>(0));
        held.push(client);
    }
    assert_eq!(servers.len(), SERVER_CONNECTIONS as usize, "not all connections were asked");
}

/// Without and, where the installed pgbouncer can, with it keeping track of prepared statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_crate_sends_works() {
    sends_work(false).await;
    if Server::pgbouncer_prepares() {
        sends_work(true).await;
    }
}

/// pgbouncer without a server refuses with an error of its own, and goes on once the server is back. So do the units.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_behind_the_pooler_is_waited_for() {
    let Pooled { pooler, mut server } = Pooled::start(false).await;
    let pool = PgPoolOptions::new().max_connections(8).connect(pooler.url()).await.expect("a pool");
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(60)).attempts(10_000);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (db, stopped) = (db.clone(), stopped.clone());
        tasks.spawn(async move {
            let (mut done, mut unknown, mut retried) = (0, 0, 0);
            while !*stopped.borrow() {
                let unit = db.run(async |tx: &mut Tx<Postgres>| {
                    change(tx, "UPDATE counter SET value = value + $1 WHERE id = 1", 1, false).await?;
                    Ok::<_, Error>(tx.attempt())
                });
                match unit.await {
                    Ok(attempt) => {
                        done += 1;
                        retried += i64::from(attempt > 1);
                    }
                    Err(error) if error.is_commit_unknown() => unknown += 1,
                    Err(error) => panic!("an outage is no end: {error:?}"),
                }
            }
            (done, unknown, retried)
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server = spawn_blocking(move || {
            server.kill();
            std::thread::sleep(Duration::from_millis(300));
            server.restart();
            server
        })
        .await
        .expect("the server is back");
    }
    stop.send_replace(true);
    let (mut done, mut unknown, mut retried) = (0, 0, 0);
    while let Some(task) = tasks.join_next().await {
        let counts = task.expect("no unit ends otherwise");
        (done, unknown, retried) = (done + counts.0, unknown + counts.1, retried + counts.2);
    }
    assert!(retried > 0, "no unit noticed");
    let value = Pooled { pooler, server }.sum().await;
    assert!((done..=done + unknown).contains(&value), "{done} done, {unknown} unknown, {value} stored");
}

/// Adds to the counter, or subtracts, in a statement that the driver keeps or does not keep.
async fn change(tx: &mut Tx<Postgres>, sql: &'static str, by: i64, keep: bool) -> Result<(), Error> {
    let done = sqlx::query(sql).bind(by).persistent(keep).execute(&mut *tx).await?;
    tx.expect_one(done.rows_affected())
}

/// What two clients whose first statements differ make of the counters: one adds 1 ten times, the other one subtracts 100
/// ten times, and all of it is said to be done.
async fn added_and_subtracted(keep: bool) -> i64 {
    const ADD: &str = "UPDATE counter SET value = value + $1 WHERE id = 1";
    const SUBTRACT: &str = "UPDATE counter SET value = value - $1 WHERE id = 2";
    let pooled = Pooled::start(false).await;
    let adding = Atomic::default().on(&pooled.clients(1).await);
    let subtracting = Atomic::default().on(&pooled.clients(1).await);
    let inner = subtracting.clone();
    // At the same time, so that each has a server connection of its own.
    let both = adding.run(async |tx: &mut Tx<Postgres>| {
        change(tx, ADD, 0, keep).await?;
        inner.run(async |tx: &mut Tx<Postgres>| change(tx, SUBTRACT, 0, keep).await).await
    });
    both.await.expect("two units at a time");
    for _ in 0..10 {
        for (client, sql, by) in [(&adding, ADD, 1), (&subtracting, SUBTRACT, 100)] {
            // The pool still has a word with the server when a unit is done, on whichever connection is free.
            tokio::time::sleep(Duration::from_millis(10)).await;
            let alone = client.run(async |tx: &mut Tx<Postgres>| change(tx, sql, by, keep).await);
            alone.await.expect("a unit by itself");
        }
    }
    pooled.sum().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_are_not_kept_are_the_right_ones() {
    assert_eq!(added_and_subtracted(false).await, 10 - 1000);
}

/// Why that is not optional. The driver numbers the statements that it keeps, connection by connection, and the pooler
/// lets one client run what another one prepared under the same number. Nobody on the client's side can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_are_kept_without_support_may_be_others() {
    let sum = added_and_subtracted(true).await;
    assert_ne!(sum, 10 - 1000, "every statement was the right one");
}

/// Everything that a queue and the keys of requests send. Each client knows what it has prepared on one server connection,
/// and finds itself on another one.
async fn queue_works(prepared_statements: bool) {
    const JOBS: i64 = 240;
    let pooled = Pooled::start(prepared_statements).await;
    let direct = pooled.direct().await;
    let ledger = "CREATE TABLE ledger (job BIGINT NOT NULL, attempt BIGINT NOT NULL)";
    sqlx::raw_sql(ledger).execute(&direct).await.expect("a table");
    let pool = pooled.clients(TASKS).await;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(60));
    let queue = Queue::new("jobs", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    db.create_key_table().await.expect("the table of keys");
    let job = |n: i64| NewJob::new(&n).expect("a payload");
    let jobs: Vec<_> = (0..JOBS / 2).map(job).collect();
    let added = db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    assert_eq!(added, jobs.len() as u64);
    for n in JOBS / 2..JOBS {
        let _ = queue.enqueue_alone(job(n)).await.expect("a commit");
    }
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (db, queue) = (db.clone(), queue.clone());
        tasks.spawn(async move {
            loop {
                let claims = queue.claim(3).await.expect("a claim");
                if claims.is_empty() && queue.counts().await.expect("the counts").due == 0 {
                    return;
                }
                for claim in claims {
                    work(&db, &claim).await;
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a worker");
    }
    for (count, expected) in [
        ("SELECT count(*) FROM atomically_job", 0),
        ("SELECT count(*) FROM ledger", JOBS),
        ("SELECT count(DISTINCT job) FROM ledger", JOBS),
        ("SELECT count(*) FROM ledger WHERE attempt = 2", JOBS / 4),
    ] {
        let counted: i64 = sqlx::query_scalar(count).fetch_one(&direct).await.expect(count);
        assert_eq!(counted, expected, "{count}");
    }
    requests_have_one_effect(&db).await;
    let counted: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tried").fetch_one(&direct).await.expect("a count");
    assert_eq!(counted, i64::from(TASKS));
    assert_eq!(Postgres::open_transactions(&direct).await, 0);
    no_setting_is_left_behind(&pooled).await;
}

/// Calls that share a round trip, whose statement each session learns once, on whichever connection they meet it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_calls_are_counted_once() {
    for prepared_statements in [false, true] {
        if prepared_statements && !Server::pgbouncer_prepares() {
            continue;
        }
        let pooled = Pooled::start(prepared_statements).await;
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS / 4 {
            // As if these were processes.
            let pool = pooled.clients(2).await;
            let counters = Deltas::on(&pool, "counter", "id", "value").persistent(false);
            for caller in 0..4_i64 {
                let counters = counters.clone();
                tasks.spawn(async move {
                    for _ in 0..ROUNDS {
                        let outcome = counters.add(1 + caller % 2, 1).await.expect("a commit");
                        assert!(matches!(outcome, DeltaOutcome::Applied { .. }), "{outcome:?}");
                    }
                });
            }
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("a caller");
        }
        assert_eq!(pooled.sum().await, i64::from(TASKS) * ROUNDS);
        no_setting_is_left_behind(&pooled).await;
    }
}

/// One job in four fails at first, one is given back, and one is prolonged.
async fn work(db: &PoolTransactor<Postgres, Pessimistic>, claim: &Claim<Postgres>) {
    let number: i64 = claim.payload().expect("the payload");
    match number % 4 {
        0 if claim.attempt() == 1 => {
            claim.fail("not yet", Retry::After(Duration::ZERO)).await.expect("given back");
            return;
        }
        1 if claim.token() == 1 => return claim.release().await.expect("given back"),
        2 => claim.extend().await.expect("prolonged"),
        _ => {}
    }
    let attempt = i64::from(claim.attempt());
    let done = db.run(async |tx: &mut Tx<Postgres>| {
        let effect = sqlx::query("INSERT INTO ledger VALUES ($1, $2)").bind(number).bind(attempt);
        effect.persistent(false).execute(&mut *tx).await?;
        claim.complete_in(tx).await
    });
    done.await.expect("done once");
    assert!(claim.complete().await.expect_err("it is done").is_stale_claim());
}

/// Each request is sent by four clients at the same time.
async fn requests_have_one_effect(db: &PoolTransactor<Postgres, Pessimistic>) {
    let mut tasks = JoinSet::new();
    for request in (0..TASKS).flat_map(|request| [request; 4]) {
        let db = db.clone();
        tasks.spawn(async move {
            let key = IdempotencyKey::new("a client", format!("request {request}"))
                .expect("a key")
                .request("a body");
            let effect = async |tx: &mut Tx<Postgres>| {
                let insert = sqlx::query("INSERT INTO tried VALUES ($1)").bind(i64::from(request));
                insert.persistent(false).execute(&mut *tx).await?;
                Ok::<_, Error>(request)
            };
            let outcome = db.once(&key).run(effect).await.expect("an outcome");
            assert_eq!(outcome.response(), Some(request));
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a client");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_and_keys_work() {
    queue_works(false).await;
    if Server::pgbouncer_prepares() {
        queue_works(true).await;
    }
}
