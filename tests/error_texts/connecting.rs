//! Runs without a connection.

use std::time::Duration;

use atomically::{Atomic, Error, Pessimistic, TransactorExt as _, Tx};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Pool, Postgres, Sqlite};

use crate::support::TestBackend;
use crate::support::servers::Server;
use crate::table::{Table, checkout};

pub(crate) const SOON: Duration = Duration::from_millis(700);

pub(crate) async fn nothing<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM (SELECT 1) AS one"), &[]).await?;
    Ok(())
}

async fn run<DB: TestBackend>(table: &mut Table, what: &str, pool: &Pool<DB>) {
    let db = Pessimistic::default().on(pool).deadline(SOON);
    table.record(what, checkout(&db).run(nothing::<DB>)).await;
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

    // A port that was free a moment ago.
    let closed_port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    let url = changed_url(&pool.url, |url| {
        let mut url = url.clone();
        url.set_port(Some(closed_port)).expect("a port");
        url
    });
    let down = lazy::<DB>(&url);
    run(table, "server down", &down).await;
    let db = Atomic::default().on(&down).deadline(SOON);
    let lone = DB::sql("UPDATE counter SET value = 1");
    table.record("server down, a lone statement", checkout(&db).apply(sqlx::raw_sql(lone))).await;
    let impatient = PoolOptions::<DB>::new().acquire_timeout(Duration::from_millis(400)).connect_lazy(&url);
    let db = Pessimistic::default().on(&impatient.expect("a URL")).attempts(1);
    table.record("server down, acquire_timeout", checkout(&db).run(nothing::<DB>)).await;

    let url = changed_url(&pool.url, |url| {
        let mut url = url.clone();
        url.set_path("/no_such_database");
        url
    });
    run(table, "database missing", &lazy::<DB>(&url)).await;
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
    run(table, "wrong password", &lazy::<MySql>(&with_password(&pool.url))).await;
}

pub(crate) async fn with_a_wrong_password_on_postgres(table: &mut Table) {
    let server = tokio::task::spawn_blocking(|| {
        let mut server = Server::postgres();
        server.write("data/pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n");
        server.restart();
        server
    });
    let server = server.await.expect("a server that requires a password");
    run(table, "wrong password", &lazy::<Postgres>(&with_password(server.url()))).await;
}

pub(crate) async fn without_a_server(table: &mut Table) {
    let bad = Pool::<Sqlite>::connect_lazy("sqlite://x?mode=nonsense").map(drop).map_err(Error::from);
    table.record("bad URL", async { bad }).await;
    run(table, "database missing", &lazy::<Sqlite>("sqlite:///no/such/directory/test.db")).await;
}

pub(crate) async fn with_an_exhausted_pool<DB: TestBackend>(table: &mut Table) {
    let pool = DB::pool(1).await;
    let held = pool.acquire().await.expect("the only connection");
    run(table, "pool exhausted until the deadline", &pool).await;
    let options = pool.options().clone().acquire_timeout(Duration::from_millis(100));
    let impatient = options.connect(&pool.url).await.expect("a pool");
    let other = impatient.acquire().await.expect("the only connection");
    let db = Pessimistic::default().on(&impatient).attempts(2);
    table.record("pool exhausted, acquire_timeout", checkout(&db).run(nothing::<DB>)).await;
    drop((held, other));
    impatient.close().await;
    run(table, "pool closed", &impatient).await;
}
