//! A lock clause locks the rows that a query reads, or the query is refused.

use std::time::Duration;

use atomically::{
    Adaptive, Error, ErrorKind, Optimistic, Options, Pessimistic, PoolTransactor, RowLock, Serializable,
    Strategy, TransactorExt as _, Tx,
};
use sqlx::{AssertSqlSafe, Pool, SqlSafeStr as _, SqlStr};
use tokio::task::JoinSet;

use crate::support::{TestBackend, TestPool};
use crate::texts::{COMMON, Expected, MARIADB, MYSQL, NAMED, POSTGRES, SQLITE, TABLES};

fn text(sql: &str) -> SqlStr {
    AssertSqlSafe(sql.to_owned()).into_sql_str()
}

async fn tables<DB: TestBackend>() -> TestPool<DB> {
    let pool = DB::pool(3).await;
    for table in TABLES {
        DB::pool_execute(&pool, text(table), &[]).await.expect(table);
    }
    for id in 1..=4 {
        for table in ["t", "u"] {
            let insert = format!("INSERT INTO {table} VALUES ({id}, {id}, {id})");
            DB::pool_execute(&pool, text(&insert), &[]).await.expect("a row");
        }
    }
    DB::pool_execute(&pool, text("CREATE VIEW v AS SELECT * FROM t"), &[]).await.expect("a view");
    pool
}

/// Returns the rows of a table that another transaction has locked.
async fn locked<DB: TestBackend>(pool: &Pool<DB>, table: &str) -> Vec<i64> {
    let mut locked = Vec::new();
    for id in 1..=4 {
        let probe = format!("SELECT id FROM {table} WHERE id = {id} FOR UPDATE NOWAIT");
        match DB::pool_fetch(pool, text(&probe), &[]).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) => {
                assert!(["55P03", "HY000"].contains(&error.code().unwrap_or_default().as_ref()), "{error}");
                locked.push(id);
            }
            Err(error) => panic!("{probe}: {error}"),
        }
    }
    locked
}

async fn check<DB: TestBackend>(pool: &TestPool<DB>, lock: RowLock, sql: &str, expected: Expected) {
    let db = Pessimistic::with(lock).on(pool);
    let result = db
        .run(async |tx: &mut Tx<DB>| {
            let select = tx.for_update(text(sql));
            DB::execute(tx, select, &[]).await?;
            if DB::NAME == "SQLite" {
                return Ok((Vec::new(), Vec::new()));
            }
            Ok::<_, Error>((locked(&pool.pool, "t").await, locked(&pool.pool, "u").await))
        })
        .await;
    match (result, expected) {
        (Ok((t, u)), Expected::Locked(expected_t, expected_u)) => {
            // A server may also lock rows that it reads without returning them, depending on its version.
            let all = |locked: &[i64], expected: &[i64]| expected.iter().all(|id| locked.contains(id));
            assert!(all(&t, expected_t) && all(&u, expected_u), "{sql}: locked {t:?} of t and {u:?} of u");
        }
        (Err(error), Expected::Refused(why)) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{sql}: {error}");
            assert!(error.to_string().contains(why), "{sql}: {error}");
        }
        (result, expected) => panic!("{sql}: expected {expected:?}, got {result:?}"),
    }
}

pub(crate) async fn rows_are_locked_or_the_text_is_refused<DB: TestBackend>() {
    let pool = tables::<DB>().await;
    let update = RowLock::NO_KEY_UPDATE;
    match DB::NAME {
        "PostgreSQL" => {
            for (sql, expected) in COMMON.iter().chain(POSTGRES) {
                check(&pool, update, sql, *expected).await;
            }
            for (table, sql, expected) in NAMED {
                check(&pool, update.of(table), sql, *expected).await;
            }
        }
        "MySQL" => {
            for (sql, expected) in COMMON.iter().chain(MYSQL) {
                check(&pool, update, sql, *expected).await;
            }
            let version = DB::pool_fetch(&pool, text("SELECT version() LIKE '%MariaDB%'"), &[]).await;
            if version.expect("the version") == 1 {
                for sql in [
                    "CREATE SEQUENCE s",
                    "CREATE TABLE sv (id BIGINT PRIMARY KEY) WITH SYSTEM VERSIONING",
                    "CREATE TABLE p (id BIGINT PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 2",
                ] {
                    DB::pool_execute(&pool, text(sql), &[]).await.expect(sql);
                }
                for (sql, expected) in MARIADB {
                    check(&pool, update, sql, *expected).await;
                }
            }
        }
        _ => {
            for (sql, expected) in SQLITE {
                check(&pool, update, sql, *expected).await;
            }
        }
    }
}

/// Strategies that would not lock refuse it too, so that a unit does not begin to fail once its key is
/// contended.
pub(crate) async fn a_refused_text_ends_the_unit_under_every_strategy<DB: TestBackend>() {
    let pool = tables::<DB>().await;
    refused(&pool, Pessimistic::default(), Options::new()).await;
    refused(&pool, Optimistic::default(), Options::new()).await;
    refused(&pool, Optimistic::default(), Options::new().read_only()).await;
    refused(&pool, Serializable::default(), Options::new()).await;
    refused(&pool, Adaptive::default(), Options::new().on_key(1)).await;
}

async fn refused<DB: TestBackend, S: Strategy>(pool: &TestPool<DB>, strategy: S, options: Options) {
    let db = PoolTransactor::new(strategy, pool).options(options);
    let mut texts =
        vec!["SELECT id FROM t; SELECT id FROM u", "SELECT id FROM t FOR UPDATE", "UPDATE t SET n = 1"];
    if DB::NAME != "SQLite" {
        texts.extend([
            "WITH c AS (SELECT * FROM t) SELECT id FROM c",
            "SELECT id FROM t UNION SELECT id FROM u",
        ]);
    }
    for sql in texts {
        let error = db
            .run(async |tx: &mut Tx<DB>| {
                // The unit ignores the refusal and continues.
                let _ = DB::execute(tx, tx.for_update(text(sql)), &[]).await;
                let _ = DB::execute(tx, text("SELECT 1"), &[]).await;
                Ok::<_, Error>(())
            })
            .await
            .expect_err(sql);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{sql}: {error}");
        assert_eq!(error.attempts(), Some(1));
        assert!(error.to_string().contains("cannot lock the rows of this query"), "{error}");

        let locking = db.run(async |tx: &mut Tx<DB>| tx.locking(RowLock::SHARE, text(sql)).map(drop)).await;
        assert_eq!(locking.expect_err(sql).kind(), ErrorKind::Unsupported);
    }
}

/// Eight tasks increment one row that they read with a query that ends with a comment.
pub(crate) async fn no_increment_is_lost_if_the_select_ends_with_a_comment<DB: TestBackend>() {
    let pool = tables::<DB>().await;
    let db = Pessimistic::default().on(&pool).attempts(1000).deadline(Duration::from_secs(60));
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let db = db.clone();
        tasks.spawn(async move {
            for _ in 0..25 {
                db.run(async |tx: &mut Tx<DB>| {
                    let select = tx.for_update(match task % 4 {
                        0 => "SELECT n FROM t WHERE id = 1 -- hot\n",
                        1 => "SELECT n FROM t WHERE id = 1; -- hot",
                        2 => "SELECT n FROM t WHERE id = 1 /* hot */",
                        _ => "SELECT n FROM t WHERE id = 1 -- hot",
                    });
                    let n = DB::fetch(tx, select, &[]).await?;
                    DB::execute(tx, DB::sql("UPDATE t SET n = ? WHERE id = 1"), &[n + 1]).await?;
                    Ok::<_, Error>(())
                })
                .await
                .expect("an increment");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic");
    }
    let n = DB::pool_fetch(&pool, text("SELECT n FROM t WHERE id = 1"), &[]).await.expect("the number");
    assert_eq!(n, 1 + 8 * 25);
}
