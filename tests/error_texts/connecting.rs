//! Runs without a connection.

use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey};
use atomically::{Atomic, Deltas, Error, Key, Options, Pessimistic, TransactorExt as _, Tx};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Pool, Postgres, Sqlite};

use crate::support::proxy::closed_port;
use crate::support::servers::Server;
use crate::support::{TestBackend, in_one_of};
use crate::table::{Table, checkout};

const SOON: Duration = Duration::from_millis(700);

pub(crate) async fn nothing<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM (SELECT 1) AS one"), &[]).await?;
    Ok(())
}

/// Each round has a pool of its own, because later runs on a pool know why its earlier connections failed.
async fn run<DB: TestBackend>(table: &mut Table, what: &str, pool: impl Fn() -> Pool<DB>) {
    let run = async || {
        let db = Pessimistic::default().on(&pool()).deadline(SOON);
        checkout(&db).run(nothing::<DB>).await
    };
    table.record_in_time(what, run).await;
}

fn changed_url(url: &str, change: impl Fn(&url::Url) -> url::Url) -> String {
    change(&url::Url::parse(url).expect("a URL")).to_string()
}

fn lazy<DB: TestBackend>(url: &str) -> Pool<DB> {
    PoolOptions::<DB>::new().max_connections(3).connect_lazy(url).expect("a URL")
}

pub(crate) async fn to_a_server<DB: TestBackend>(table: &mut Table) {
    let pool = DB::pool(1).await;
    let bad = Pool::<DB>::connect_lazy("no URL at all").map(drop).map_err(Error::from);
    table.record("bad URL", async { bad }).await;

    let (_reserved, closed) = closed_port();
    let url = changed_url(&pool.url, |url| {
        let mut url = url.clone();
        url.set_port(Some(closed)).expect("a port");
        url
    });
    run(table, "server down", || lazy::<DB>(&url)).await;
    let apply = async || {
        let db = Atomic::default().on(&lazy::<DB>(&url)).deadline(SOON);
        checkout(&db).apply(sqlx::raw_sql(DB::sql("UPDATE counter SET value = 1"))).await
    };
    table.record_in_time("server down, a lone statement", apply).await;
    let impatient = PoolOptions::<DB>::new().acquire_timeout(Duration::from_millis(400));
    let run_once = async || {
        let pool = impatient.clone().connect_lazy(&url).expect("a URL");
        let db = Pessimistic::default().on(&pool).attempts(1);
        checkout(&db).run(nothing::<DB>).await
    };
    table.record_in_time("server down, acquire_timeout", run_once).await;

    let url = changed_url(&pool.url, |url| {
        let mut url = url.clone();
        url.set_path("/no_such_database");
        url
    });
    run(table, "database missing", || lazy::<DB>(&url)).await;

    let url = changed_url(&pool.url, |url| {
        let mut url = url.clone();
        url.set_host(Some("no-such-host.invalid")).expect("a host");
        url.set_port(Some(5432)).expect("a port");
        url
    });
    run(table, "host unknown", || lazy::<DB>(&url)).await;
}

/// Pools of one connection: one that is being opened must not look like one that is kept.
pub(crate) async fn to_a_server_that_does_not_answer<DB: TestBackend>(table: &mut Table)
where
    i64: Key<DB>,
{
    let pool = DB::pool(1).await;
    let at = |port| {
        let url = changed_url(&pool.url, |url| {
            let mut url = url.clone();
            url.set_port(Some(port)).expect("a port");
            url
        });
        PoolOptions::<DB>::new().max_connections(1).connect_lazy(&url).expect("a URL")
    };
    let fails = PoolOptions::<DB>::new()
        .max_connections(1)
        .after_connect(|_, _| Box::pin(async { Err(sqlx::Error::RowNotFound) }));
    run(table, "after_connect fails", || fails.clone().connect_lazy(&pool.url).expect("a URL")).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = listener.local_addr().expect("it").port();
    run(table, "server silent", || at(silent)).await;
    // Two runs, of which one waits behind the other.
    let second = async || {
        let db = Pessimistic::default().on(&at(silent)).deadline(SOON);
        // It waits until the test is over, so that its end is not recorded.
        let first = db.clone().deadline(Duration::from_secs(3600));
        tokio::spawn(async move { first.run(nothing::<DB>).await });
        checkout(&db).run(nothing::<DB>).await
    };
    table.record_in_time("server silent, the second of two runs", second).await;
    let (_reserved, closed) = closed_port();
    let run_once = async || {
        let db = Pessimistic::default().on(&at(closed)).deadline(Duration::from_millis(100));
        checkout(&db).run(nothing::<DB>).await
    };
    table.record_in_time("server down, before a second attempt to connect", run_once).await;

    let key = IdempotencyKey::new("", "1").expect("a key");
    let run_once = async || {
        let db = Pessimistic::default().on(&at(closed)).deadline(SOON);
        checkout(&db).once(&key).run(nothing::<DB>).await
    };
    table.record_in_time("server down, an idempotency key", run_once).await;
    let add = async || {
        let limited = Options::new().deadline(SOON);
        Deltas::on(&at(closed), "counter", "id", "value").options(limited).add(1_i64, 1).await
    };
    table.record_in_time("server down, an addition", add).await;
}

/// With values of the URL's query that the server, or the system, cannot satisfy.
pub(crate) async fn with_parameters<DB: TestBackend>(table: &mut Table, tls: &str, socket: &str) {
    let pool = DB::pool(1).await;
    run(table, "TLS required", || lazy::<DB>(&format!("{}?{tls}", pool.url))).await;
    run(table, "socket missing", || lazy::<DB>(&format!("{}?{socket}", pool.url))).await;
}

/// The server has no room for another session of this user.
async fn as_a_limited_user<DB: TestBackend>(table: &mut Table, create: [&str; 2], held: u32) {
    let pool = DB::pool(1).await;
    let database = pool.url.rsplit_once('/').expect("a database").1;
    for sql in create {
        let sql = sql.replace("DATABASE", database);
        DB::pool_execute(&pool, DB::sql(&sql), &[]).await.expect("a user");
    }
    let url = changed_url(&pool.url, |url| {
        let mut url = url.clone();
        url.set_username(database).expect("a user");
        url.set_password(None).expect("no password");
        url
    });
    let holder = lazy::<DB>(&url);
    let mut connections = Vec::new();
    for _ in 0..held {
        connections.push(holder.acquire().await.expect("within the limit"));
    }
    run(table, "too many connections", || lazy::<DB>(&url)).await;
}

pub(crate) async fn to_a_full_postgres(table: &mut Table) {
    let create = ["CREATE ROLE DATABASE LOGIN CONNECTION LIMIT 0", "SELECT 1"];
    as_a_limited_user::<Postgres>(table, create, 0).await;
}

pub(crate) async fn to_a_full_mariadb(table: &mut Table) {
    let create =
        ["CREATE USER DATABASE@'%' WITH MAX_USER_CONNECTIONS 1", "GRANT ALL ON DATABASE.* TO DATABASE@'%'"];
    as_a_limited_user::<MySql>(table, create, 1).await;
}

fn with_password(url: &str) -> String {
    changed_url(url, |url| {
        let mut url = url.clone();
        url.set_password(Some("wrong")).expect("a password");
        url
    })
}

pub(crate) async fn with_a_wrong_password_on_mariadb(table: &mut Table) {
    let pool = MySql::pool(1).await;
    run(table, "wrong password", || lazy::<MySql>(&with_password(&pool.url))).await;
}

pub(crate) async fn with_a_wrong_password_on_postgres(table: &mut Table) {
    let server = tokio::task::spawn_blocking(|| {
        let mut server = Server::postgres();
        server.write("data/pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n");
        server.restart();
        server
    });
    let server = server.await.expect("a server that requires a password");
    run(table, "wrong password", || lazy::<Postgres>(&with_password(server.url()))).await;
}

pub(crate) async fn without_a_server(table: &mut Table) {
    let bad = Pool::<Sqlite>::connect_lazy("sqlite://x?mode=nonsense").map(drop).map_err(Error::from);
    table.record("bad URL", async { bad }).await;
    run(table, "database missing", || lazy::<Sqlite>("sqlite:///no/such/directory/test.db")).await;
}

pub(crate) async fn with_an_exhausted_pool<DB: TestBackend>(table: &mut Table) {
    let pool = DB::pool(1).await;
    let held = pool.acquire().await.expect("the only connection");
    run(table, "pool exhausted until the deadline", || pool.pool.clone()).await;
    let options = pool.options().clone().acquire_timeout(Duration::from_secs(1));
    let impatient = options.connect_lazy(&pool.url).expect("a pool");
    let other = in_one_of(20, async || impatient.acquire().await).await;
    let db = Pessimistic::default().on(&impatient).attempts(2);
    table.record("pool exhausted, acquire_timeout", checkout(&db).run(nothing::<DB>)).await;
    drop((held, other));
    impatient.close().await;
    run(table, "pool closed", || impatient.clone()).await;
}
