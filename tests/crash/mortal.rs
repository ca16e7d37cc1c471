//! Servers that are killed at critical moments.

use sqlx::{MySql, Pool, Postgres};

use crate::support::servers::Server;
use crate::support::{TestBackend, eventually};

/// A database whose server can be killed.
pub(crate) trait Mortal: TestBackend {
    fn server() -> Server;

    /// Returns when a commit waits for a response that cannot arrive while this server or this pool lives.
    async fn hold_a_commit(url: &str) -> Pool<Self>;
}

impl Mortal for Postgres {
    fn server() -> Server {
        Server::postgres()
    }

    /// Stored commits wait for a standby that does not exist. The setting is removed from the configuration
    /// file before the server is killed.
    async fn hold_a_commit(url: &str) -> Pool<Self> {
        let pool = Self::another(url).await;
        let execute = async |sql: &'static str| sqlx::query(sql).execute(&pool).await.expect(sql);
        execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
        execute("SELECT pg_reload_conf()").await;
        // The commits of autovacuum wait as well.
        let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity
            WHERE wait_event = 'SyncRep' AND backend_type = 'client backend')";
        eventually(true, async || sqlx::query_scalar(waiting).fetch_one(&pool).await.expect("an answer"))
            .await;
        execute("ALTER SYSTEM RESET synchronous_standby_names").await;
        pool
    }
}

impl Mortal for MySql {
    fn server() -> Server {
        Server::mariadb()
    }

    /// Commits wait for a backup, and are not stored.
    async fn hold_a_commit(url: &str) -> Pool<Self> {
        let pool = Self::another(url).await;
        let backup =
            "BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT";
        sqlx::raw_sql(backup).execute(&pool).await.expect(backup);
        let waiting = "SELECT EXISTS (SELECT * FROM information_schema.processlist WHERE info LIKE 'COMMIT%'
            AND state = 'Waiting for backup lock')";
        eventually(true, async || sqlx::query_scalar(waiting).fetch_one(&pool).await.expect("an answer"))
            .await;
        pool
    }
}
