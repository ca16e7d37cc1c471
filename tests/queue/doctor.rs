//! The doctor finds problems that cause no errors.

use std::time::Duration;

use atomically::Schema;
use atomically::queue::{FindingKind, Queue};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::{MySql, Postgres, Sqlite};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;

use crate::queue;
use crate::support::servers::Server;
use crate::support::{TestBackend, eventually};

async fn findings<DB: TestBackend>(queue: &Queue<DB>) -> Vec<(FindingKind, String)> {
    let findings = queue.doctor().await.expect("an answer");
    findings.into_iter().map(|finding| (finding.kind, finding.message)).collect()
}

pub(crate) async fn a_sound_database_has_no_findings<DB: TestBackend>() {
    let (_pool, queue) = queue::<DB>(2).await;
    queue.create_tables().await.expect("they are there already");
    assert_eq!(findings(&queue).await, []);
}

pub(crate) async fn missing_tables_are_found<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let queue = Queue::new("jobs", &pool).expect("a name");
    let found = findings(&queue).await;
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(
        found.contains(&(FindingKind::Missing, "there is no table atomically_job".to_owned())),
        "{found:?}"
    );
}

/// Makes a change, and asserts that the doctor finds one problem of this kind whose message contains a word.
async fn finds<DB: TestBackend>(
    queue: &Queue<DB>,
    pool: &sqlx::Pool<DB>,
    change: &str,
    kind: FindingKind,
    word: &str,
) {
    for change in change.split(';') {
        DB::pool_execute(pool, DB::sql(change), &[]).await.expect("a change");
    }
    let found = findings(queue).await;
    assert!(
        matches!(&found[..], [(found, message)] if *found == kind && message.contains(word)),
        "{change}: {found:?}"
    );
}

pub(crate) async fn a_missing_index_is_found<DB: TestBackend>() {
    for (index, word) in [
        ("atomically_job_claim", "due_at"),
        ("atomically_job_unique", "unique"),
        ("atomically_job_waiting", "next job of a key"),
    ] {
        let (pool, queue) = queue::<DB>(2).await;
        let on = if pool.url.starts_with("mysql") { " ON atomically_job" } else { "" };
        finds(&queue, &pool, &format!("DROP INDEX {index}{on}"), FindingKind::Index, word).await;
    }
}

/// The table is of an earlier version.
pub(crate) async fn a_missing_column_is_found<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let change = "ALTER TABLE atomically_job DROP COLUMN unique_until_claimed";
    finds(&queue, &pool, change, FindingKind::Missing, "ALTER TABLE atomically_job ADD COLUMN").await;
    // The statement in the message repairs the table.
    let (_, message) = findings(&queue).await.remove(0);
    let (_, remedy) = message.split_once(": ").expect("a remedy");
    DB::pool_execute(&pool, DB::sql(remedy), &[]).await.expect("a change");
    assert_eq!(findings(&queue).await, []);
    crate::enqueue(&pool, &queue, crate::job(1)).await;
    crate::claim_one(&queue).await.complete().await.expect("complete");
}

#[tokio::test]
async fn mariadb_with_another_engine_is_found() {
    let (pool, queue) = queue::<MySql>(2).await;
    finds(&queue, &pool, "ALTER TABLE atomically_job ENGINE = MyISAM", FindingKind::Engine, "MyISAM").await;
}

#[tokio::test]
async fn mariadb_with_another_collation_is_found() {
    let (pool, queue) = queue::<MySql>(2).await;
    let change = "ALTER TABLE atomically_job MODIFY queue VARCHAR(100) CHARACTER SET utf8mb4 NOT NULL";
    finds(&queue, &pool, change, FindingKind::Collation, "queue").await;
}

#[tokio::test]
async fn mariadb_with_an_index_in_another_order_is_found() {
    let (pool, queue) = queue::<MySql>(2).await;
    let change = "DROP INDEX atomically_job_claim ON atomically_job;
        CREATE INDEX atomically_job_claim ON atomically_job (queue, due_at, priority, id)";
    finds(&queue, &pool, change, FindingKind::Index, "queue,priority,due_at,id").await;
}

#[tokio::test]
async fn postgres_that_does_not_log_is_found() {
    let (pool, queue) = queue::<Postgres>(2).await;
    finds(&queue, &pool, "ALTER TABLE atomically_job SET UNLOGGED", FindingKind::Engine, "not logged").await;
}

#[tokio::test]
async fn postgres_with_another_collation_is_found() {
    let (pool, queue) = queue::<Postgres>(2).await;
    let change = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        ALTER TABLE atomically_job ALTER unique_key TYPE TEXT COLLATE loose";
    finds(&queue, &pool, change, FindingKind::Collation, "unique_key").await;
}

#[tokio::test]
async fn sqlite_without_wal_is_found() {
    let (pool, _) = queue::<Sqlite>(1).await;
    let change = "PRAGMA journal_mode = DELETE";
    sqlx::query(change).execute(&pool.pool).await.expect("a change");
    let queue = Queue::new("jobs", &pool).expect("a name");
    assert_eq!(findings(&queue).await.first().map(|(kind, _)| *kind), Some(FindingKind::Journal));
}

#[tokio::test]
async fn sqlite_that_reuses_ids_is_found() {
    let pool = Sqlite::pool(1).await;
    let queue = Queue::new("jobs", &pool).expect("a name");
    let schema = Schema::new().sql::<Sqlite>();
    let changed =
        schema.replace(" AUTOINCREMENT", "").replace("unique_key TEXT", "unique_key TEXT COLLATE NOCASE");
    assert_ne!(changed, schema);
    sqlx::raw_sql(sqlx::AssertSqlSafe(changed)).execute(&pool.pool).await.expect("the tables");
    let found: Vec<_> = findings(&queue).await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(found, [FindingKind::Engine, FindingKind::Collation]);
}

#[tokio::test]
async fn postgres_with_an_index_that_is_not_valid_is_found() {
    let (pool, queue) = queue::<Postgres>(2).await;
    let change = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'atomically_job_claim'::regclass";
    finds(&queue, &pool, change, FindingKind::Index, "queue,priority,due_at,id").await;
}

#[tokio::test]
async fn read_only_postgres_is_found() {
    let (pool, _) = queue::<Postgres>(2).await;
    let change = "DO $$BEGIN EXECUTE format(
        'ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END$$";
    sqlx::raw_sql(change).execute(&pool.pool).await.expect("a change");
    let queue = Queue::new("jobs", &Postgres::another(&pool.url).await).expect("a name");
    let found = findings(&queue).await;
    assert!(
        matches!(&found[..], [(FindingKind::ReadOnly, message)] if message.contains("default_transaction")),
        "{found:?}"
    );
}

/// A view makes the open transaction look ten minutes older; the transaction itself is real.
#[tokio::test]
async fn postgres_whose_vacuum_is_held_back_is_found() {
    let (pool, _) = queue::<Postgres>(2).await;
    let later = "CREATE VIEW pg_stat_activity AS SELECT pid, datname, backend_xmin,
            xact_start - interval '11 minutes' AS xact_start FROM pg_catalog.pg_stat_activity
            WHERE backend_type = 'client backend';
        DO $$BEGIN EXECUTE format(
            'ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END$$";
    sqlx::raw_sql(later).execute(&pool.pool).await.expect("time passes");
    let queue = Queue::new("jobs", &Postgres::another(&pool.url).await).expect("a name");
    assert_eq!(findings(&queue).await, [], "its own session does not count");
    let mut session = pool.acquire().await.expect("a connection");
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .execute(&mut *session)
        .await
        .expect("a snapshot");
    let found = findings(&queue).await;
    assert!(
        matches!(&found[..], [(FindingKind::Vacuum, message)] if message.contains("00:11:")),
        "{found:?}"
    );
    sqlx::raw_sql("ROLLBACK").execute(&mut *session).await.expect("its end");
    assert_eq!(findings(&queue).await, []);
}

/// A proxy replaces the isolation level, as a server or a pooler might.
#[tokio::test]
async fn postgres_that_gives_another_isolation_level_is_found() {
    let (pool, _) = queue::<Postgres>(2).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let address = pool.url.rsplit_once('@').expect("a user").1.split('/').next().expect("a host").to_owned();
    let url = pool.url.replace(&address, &format!("127.0.0.1:{port}"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&address).await.expect("the server");
            client.set_nodelay(true).expect("an open socket");
            server.set_nodelay(true).expect("an open socket");
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    // The replacement has the same length, because the protocol sends it.
                    let (requested, given) = (b"READ COMMITTED", b"SERIALIZABLE  ");
                    if let Some(at) =
                        buffer[..read].windows(requested.len()).position(|window| window == requested)
                    {
                        buffer[at..at + given.len()].copy_from_slice(given);
                    }
                    to_server.write_all(&buffer[..read]).await.expect("the server is there");
                }
            });
        }
    });
    let other = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("a pool");
    let queue = Queue::new("jobs", &other).expect("a name");
    let found = findings(&queue).await;
    assert!(
        matches!(&found[..], [(FindingKind::Isolation, message)] if message.contains("SERIALIZABLE")),
        "{found:?}"
    );
}

/// The clock of the doctor's session is ahead; the open transaction is real.
#[tokio::test]
async fn mariadb_whose_purge_is_held_back_is_found() {
    let server = spawn_blocking(Server::mariadb).await.expect("a server");
    let one = || MySqlPoolOptions::new().max_connections(1).connect(server.url());
    let (pool, other) = (one().await.expect("a pool"), one().await.expect("a pool"));
    let queue = Queue::new("jobs", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    sqlx::raw_sql("SET timestamp = UNIX_TIMESTAMP() + 660").execute(&pool).await.expect("time passes");
    // Its own session does not count. The server may still have transactions of its own that do.
    eventually(vec![], async || findings(&queue).await).await;
    let mut session = other.acquire().await.expect("a connection");
    sqlx::raw_sql("START TRANSACTION; SELECT * FROM atomically_job")
        .execute(&mut *session)
        .await
        .expect("a snapshot");
    // InnoDB refreshes its list of transactions only if it was not read for a tenth of a second.
    let kinds = async || -> Vec<FindingKind> {
        tokio::time::sleep(Duration::from_millis(150)).await;
        findings(&queue).await.into_iter().map(|(kind, _)| kind).collect()
    };
    eventually(vec![FindingKind::Vacuum], kinds).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut *session).await.expect("its end");
    sqlx::raw_sql("SET GLOBAL read_only = 1").execute(&mut *session).await.expect("a change");
    eventually(vec![FindingKind::ReadOnly], kinds).await;
    // Without the privilege to see other transactions, the other checks still run.
    sqlx::raw_sql(
        "SET GLOBAL read_only = 0; CREATE USER few@'%'; CREATE USER few@localhost;
         GRANT ALL ON test.* TO few@'%'; GRANT ALL ON test.* TO few@localhost",
    )
    .execute(&mut *session)
    .await
    .expect("an account");
    let (_, host) = server.url().rsplit_once('@').expect("a user");
    let few = MySqlPoolOptions::new()
        .max_connections(1)
        .connect(&format!("mysql://few@{host}"))
        .await
        .expect("a pool");
    let queue = Queue::new("jobs", &few).expect("a name");
    assert_eq!(findings(&queue).await, []);
}

#[tokio::test]
async fn sqlite_that_takes_no_writes_is_found() {
    let (pool, queue) = queue::<Sqlite>(1).await;
    let change = "PRAGMA query_only = 1";
    finds(&queue, &pool, change, FindingKind::ReadOnly, "readonly").await;
}

#[tokio::test]
async fn sqlite_with_an_index_in_another_order_is_found() {
    let (pool, queue) = queue::<Sqlite>(1).await;
    let change = "DROP INDEX atomically_job_claim;
        CREATE INDEX atomically_job_claim ON atomically_job (queue, due_at, priority, id)";
    finds(&queue, &pool, change, FindingKind::Index, "queue,priority,due_at,id").await;
}
