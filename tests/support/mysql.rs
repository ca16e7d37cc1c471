//! MariaDB under test; or MySQL, if `ATOMICALLY_MYSQL_URL` names such a server.

use atomically::{Atomic, Error, PoolTransactor, Tx};
use sqlx::{AssertSqlSafe, Connection, Executor, MySql, Pool, Row, SqlStr};

use super::statements::statements;
use super::{
    BoxFuture, BoxStream, ServerBackend, TestBackend, TestPool, as_written, fresh_name, servers,
    with_database,
};

impl TestBackend for MySql {
    const TWO_AND_THREE_SECONDS: &'static str = "2 3";
    const TOTAL: &'static str = "SELECT CAST(SUM(balance) AS SIGNED) FROM account";
    const LEVEL_INSIDE: &'static str = "SELECT trx_isolation_level FROM information_schema.innodb_trx
         WHERE trx_mysql_thread_id = connection_id()";
    const LEVEL: &'static str = "SELECT /*M! @@tx_isolation*/ /*!50720 @@transaction_isolation*/";
    const COMMIT: &'static str = "; COMMIT";
    const LIMITS: &'static str = "SELECT CONCAT_WS(' ', @@innodb_lock_wait_timeout
         /*M! , @@max_statement_time*/ /*!50708 , @@max_execution_time*/,
         @@lock_wait_timeout)";

    fn pool(connections: u32) -> BoxFuture<'static, TestPool<Self>> {
        Box::pin(async move {
            let (server, name) = (servers::mysql_url(), fresh_name());
            let mut admin = sqlx::MySqlConnection::connect(&server).await.expect("connect to MariaDB");
            admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("create a database");
            let url = with_database(&server, &name);
            let pool = sqlx::mysql::MySqlPoolOptions::new()
                .max_connections(connections)
                .connect(&url)
                .await
                .expect("connect to MariaDB");
            TestPool { pool, url, _directory: None }
        })
    }

    /// `information_schema.innodb_trx` would be easier to read, but InnoDB refreshes it only when it
    /// has not been read for a while.
    fn open_transactions(pool: &Pool<Self>) -> BoxFuture<'_, i64> {
        Box::pin(async move {
            let sessions: Vec<i64> = sqlx::query_scalar(
                "SELECT CAST(id AS SIGNED) FROM information_schema.processlist
                 WHERE db = database() AND id <> connection_id()",
            )
            .fetch_all(pool)
            .await
            .expect("the sessions");
            let status: String = sqlx::query("SHOW ENGINE INNODB STATUS")
                .fetch_one(pool)
                .await
                .expect("the status")
                .get("Status");
            let in_transaction = |entry: &&str| {
                let thread = entry.split_once("thread id ").and_then(|(_, rest)| rest.split(',').next());
                let session = thread.and_then(|id| id.trim().parse().ok());
                entry.contains(", ACTIVE") && session.is_some_and(|session| sessions.contains(&session))
            };
            status.split("---TRANSACTION").filter(in_transaction).count() as i64
        })
    }

    statements!();

    fn sql(text: &str) -> SqlStr {
        as_written(text)
    }
}

impl ServerBackend for MySql {
    const SHORT_LOCK_TIMEOUT: &'static str = "SET innodb_lock_wait_timeout = 1";

    const SESSION: &'static str = "SELECT CAST(connection_id() AS SIGNED)";
    const NEXT_SESSION: &'static str =
        "SELECT CAST(COALESCE(MIN(id), 0) AS SIGNED) FROM information_schema.processlist
         WHERE db = database() AND id <> connection_id() AND id > ?";
    const KILL: &'static str = "KILL ?";
}
