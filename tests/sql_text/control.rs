//! Statements that would end a unit's transaction are refused before they are sent.

use std::time::Duration;

use atomically::{Error, ErrorKind, Optimistic, Options, Pessimistic, TransactorExt as _, Tx};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySql, SqlSafeStr as _, SqlStr, Sqlite};

use crate::support::{TestBackend, TestPool};

fn text(sql: &str) -> SqlStr {
    AssertSqlSafe(sql.to_owned()).into_sql_str()
}

pub(crate) async fn counter<DB: TestBackend>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    for sql in [
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counter VALUES (1, 0), (2, 0), (3, 0)",
    ] {
        DB::pool_execute(&pool, text(sql), &[]).await.expect(sql);
    }
    pool
}

pub(crate) async fn value<DB: TestBackend>(pool: &TestPool<DB>, id: i64) -> i64 {
    let select = DB::sql("SELECT value FROM counter WHERE id = ?");
    DB::pool_fetch(pool, select, &[id]).await.expect("the value")
}

/// Runs a unit that sends this text between two updates and ignores its result.
async fn unit_with<DB: TestBackend>(pool: &TestPool<DB>, plain: bool, sql: &str) -> Result<(), Error> {
    let db = Optimistic::default().on(pool);
    db.run(async |tx: &mut Tx<DB>| {
        DB::execute(tx, text("UPDATE counter SET value = value + 1 WHERE id = 1"), &[]).await?;
        let _ = if plain {
            DB::plain(tx, text(sql)).await
        } else {
            DB::execute(tx, text(sql), &[]).await.map(drop)
        };
        let _ = DB::execute(tx, text("UPDATE counter SET value = value + 10 WHERE id = 1"), &[]).await;
        Ok::<_, Error>(())
    })
    .await
}

async fn is_refused<DB: TestBackend>(pool: &TestPool<DB>, plain: bool, sql: &str) {
    let error = unit_with(pool, plain, sql).await.expect_err(sql);
    assert_eq!(error.kind(), ErrorKind::Aborted, "{sql}: {error}");
    assert!(error.to_string().contains("was not sent"), "{sql}: {error}");
    assert_eq!(value(pool, 1).await, 0, "{sql}");
}

pub(crate) async fn a_commit_among_several_statements_is_refused<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    for sql in [
        "SELECT 1; COMMIT; BEGIN",
        "UPDATE counter SET value = 5 WHERE id = 1; COMMIT; BEGIN; SELECT 1",
        "SELECT 1; /* why */ ROLLBACK",
        "SELECT ';'; -- ;\n COMMIT",
        "/* why */ COMMIT",
    ] {
        is_refused(&pool, true, sql).await;
    }
    // A COMMIT in a literal or a comment is not one.
    unit_with(&pool, true, "SELECT 'COMMIT; BEGIN'; -- ; COMMIT").await.expect("a commit");
    assert_eq!(value(&pool, 1).await, 11);
}

pub(crate) async fn savepoints_of_the_crate_are_protected<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    for sql in [
        "SAVEPOINT atomically_guard",
        "RELEASE SAVEPOINT atomically_guard",
        "ROLLBACK TO SAVEPOINT atomically_1",
    ] {
        is_refused(&pool, true, sql).await;
        is_refused(&pool, false, sql).await;
    }
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        DB::execute(tx, text("SAVEPOINT mine"), &[]).await?;
        DB::execute(tx, text("UPDATE counter SET value = 7 WHERE id = 1"), &[]).await?;
        DB::execute(tx, text("ROLLBACK TO SAVEPOINT mine"), &[]).await?;
        DB::execute(tx, text("RELEASE SAVEPOINT mine"), &[]).await?;
        Ok::<_, Error>(())
    })
    .await
    .expect("savepoints of the caller are allowed");
    assert_eq!(value(&pool, 1).await, 0);
}

/// The driver runs all statements of a text, even if it is prepared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_refuses_a_commit_in_a_prepared_text() {
    let pool = counter::<Sqlite>(2).await;
    is_refused(&pool, false, "SELECT 1; COMMIT; BEGIN").await;
    is_refused(&pool, false, "UPDATE counter SET value = 5; END").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_allows_the_creation_of_a_trigger_in_a_unit() {
    let pool = counter::<Sqlite>(2).await;
    let trigger = "CREATE TRIGGER more AFTER UPDATE ON counter WHEN NEW.id = 1
                   BEGIN UPDATE counter SET value = value + 1 WHERE id = 2; SELECT 1; END";
    unit_with(&pool, false, trigger).await.expect("a commit");
    assert_eq!((value(&pool, 1).await, value(&pool, 2).await), (11, 1));
}

/// Statements that commit implicitly or change how transactions end, some of them disguised.
const REFUSED_BY_MYSQL: [&str; 34] = [
    "CREATE TABLE surprise (id INT)",
    "# why\nCREATE TABLE surprise (id INT)",
    "/*! CREATE TABLE surprise (id INT) */",
    "/*M! CREATE TABLE surprise (id INT) */",
    "CREATE OR REPLACE VIEW w AS SELECT 1 AS a",
    "CREATE INDEX surprise ON counter (value)",
    "ALTER TABLE counter COMMENT = 'a'",
    "DROP TABLE IF EXISTS surprise",
    "RENAME TABLE counter TO counter2",
    "TRUNCATE TABLE other",
    "GRANT SELECT ON *.* TO app@localhost",
    "LOCK TABLES counter WRITE",
    "UNLOCK TABLES",
    "ANALYZE TABLE counter",
    "CHECK TABLE counter",
    "OPTIMIZE TABLE counter",
    "REPAIR TABLE counter",
    "FLUSH TABLES",
    "FLUSH STATUS",
    "RESET QUERY CACHE",
    "CACHE INDEX other IN default",
    "LOAD INDEX INTO CACHE other",
    "SET PASSWORD = PASSWORD('app')",
    "SET STATEMENT max_statement_time = 10 FOR CREATE TABLE surprise (id INT)",
    "SET STATEMENT max_statement_time = 10 FOR COMMIT",
    "COMMIT",
    "# why\nCOMMIT",
    "--\tCOMMIT\nCOMMIT",
    "/*!50000 COMMIT */",
    "BEGIN NOT ATOMIC UPDATE counter SET value = 5; COMMIT; END",
    "XA START 'x'",
    "SET autocommit = 1",
    "SET @x = 1, @@session.autocommit = 1",
    "SET completion_type = 'CHAIN'",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_refuses_statements_that_commit_implicitly() {
    let pool = counter::<MySql>(2).await;
    sqlx::query("CREATE TABLE other (id INT) ENGINE = MyISAM").execute(&*pool).await.expect("a table");
    for sql in REFUSED_BY_MYSQL {
        is_refused(&pool, true, sql).await;
        is_refused(&pool, false, sql).await;
    }
    let error = unit_with(&pool, false, "CREATE TABLE surprise (id INT)").await.expect_err("DDL");
    assert!(error.to_string().contains("commits implicitly"), "{error}");
    let error = unit_with(&pool, true, "SELECT 1; CREATE TABLE surprise (id INT)").await.expect_err("DDL");
    assert!(error.to_string().contains("commits implicitly"), "{error}");
    assert_eq!(value(&pool, 1).await, 0);
}

/// Each of these statements leaves the transaction open on a real server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_admits_statements_that_do_not_commit() {
    let pool = counter::<MySql>(2).await;
    let mut session = sqlx::MySqlConnection::connect(&pool.url).await.expect("a connection");
    for sql in [
        "CREATE TEMPORARY TABLE temporary (id INT)",
        "CREATE OR REPLACE TEMPORARY TABLE temporary (id INT)",
        "DROP TEMPORARY TABLE temporary",
        "ANALYZE SELECT * FROM counter",
        "ANALYZE FORMAT = JSON SELECT * FROM counter",
        "SET STATEMENT max_statement_time = 10 FOR SELECT 1",
        "SHOW TABLES",
        "DESCRIBE counter",
        "EXPLAIN SELECT 1",
        "CHECKSUM TABLE counter",
        "PREPARE a FROM 'SELECT 1'",
        "DEALLOCATE PREPARE a",
        "DO SLEEP(0)",
        "SET @x = 1",
        "SET @autocommit = 1",
        "SET SESSION TRANSACTION READ WRITE",
        "HANDLER counter OPEN",
        "HANDLER counter CLOSE",
        "VALUES (1)",
        "(SELECT 1)",
        "HELP 'x'",
        "PURGE BINARY LOGS BEFORE '2000-01-01'",
        "FLUSH STATUS",
    ] {
        let mut refused = false;
        for statement in
            ["START TRANSACTION; UPDATE counter SET value = 1 WHERE id = 3; SAVEPOINT probe", sql]
        {
            refused = session.execute(sqlx::raw_sql(text(statement))).await.is_err();
        }
        let stays = session.execute(sqlx::raw_sql("RELEASE SAVEPOINT probe")).await.is_ok();
        session.execute(sqlx::raw_sql("ROLLBACK")).await.expect("a rollback");
        // FLUSH STATUS commits; it proves that the savepoint detects a commit.
        assert_eq!(stays, sql != "FLUSH STATUS", "{sql}");
        if stays && !refused {
            unit_with(&pool, true, sql).await.expect(sql);
        }
    }
}

/// The text contains the word NOWAIT in a comment, a string or a name only.
pub(crate) async fn a_lock_timeout_is_not_mistaken_for_nowait<DB: TestBackend>() {
    let pool = counter::<DB>(3).await;
    let create = "CREATE TABLE waiting (id BIGINT PRIMARY KEY, nowait BIGINT)";
    DB::pool_execute(&pool, text(create), &[]).await.expect("a table");
    DB::pool_execute(&pool, text("INSERT INTO waiting VALUES (1, 0)"), &[]).await.expect("a row");
    let others = DB::another(&pool.url).await;
    let (db, other) = (Pessimistic::default().on(&pool), Pessimistic::default().on(&others));
    let short = other.with(Options::new().attempts(1).lock_timeout(Duration::from_millis(50)));
    let unit = async |sql: &'static str| {
        let result = short
            .run(async |tx: &mut Tx<DB>| DB::fetch(tx, tx.for_update(sql), &[]).await.map_err(Error::from));
        result.await.expect_err("the row is locked")
    };
    db.run(async |tx: &mut Tx<DB>| {
        DB::fetch(tx, tx.for_update("SELECT id FROM waiting WHERE id = 1"), &[]).await?;
        for sql in [
            "SELECT id FROM waiting WHERE id = 1 /* NOWAIT */",
            "SELECT nowait FROM waiting WHERE id = 1",
            "SELECT id, 'FOR UPDATE NOWAIT' FROM waiting WHERE id = 1",
        ] {
            let error = unit(sql).await;
            assert!(error.is_lock_timeout(), "{sql}: {error:?}");
        }
        Ok::<_, Error>(())
    })
    .await
    .expect("a commit");
}
