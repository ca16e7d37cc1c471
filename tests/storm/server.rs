//! The servers under the storm, and how their sessions are counted.

use sqlx::{MySql, Postgres};

use crate::support::TestBackend;
use crate::support::servers::Server;

/// A database with a server of its own. Callers, workers and the watch connect as different users, so that
/// their sessions can be distinguished.
pub(crate) trait StormServer: TestBackend {
    const TITLE: &'static str;

    /// The tables, and a trigger that writes each change of a hot row to `ledger`, so that each commit counts
    /// once there, whichever call made it.
    const SETUP: &'static [&'static str];

    fn server() -> Server;

    /// The statement that counts the sessions of a user.
    fn sessions(user: &str) -> String;
}

/// The URL for another user.
pub(crate) fn user_url(url: &str, user: &str) -> String {
    url.replace("app:app@", &format!("{user}:app@"))
}

impl StormServer for Postgres {
    const TITLE: &'static str = "PostgreSQL";

    const SETUP: &'static [&'static str] = &[
        "CREATE ROLE jobs SUPERUSER LOGIN PASSWORD 'app'",
        "CREATE ROLE watch SUPERUSER LOGIN PASSWORD 'app'",
        "CREATE TABLE hot (id BIGINT PRIMARY KEY, value BIGINT NOT NULL, op BIGINT NOT NULL)",
        "CREATE TABLE ledger (op BIGINT PRIMARY KEY, hot BIGINT NOT NULL)",
        "CREATE TABLE effect (job BIGINT NOT NULL)",
        "CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO ledger VALUES (NEW.op, NEW.id); RETURN NULL; END'",
        "CREATE TRIGGER log AFTER UPDATE ON hot FOR EACH ROW EXECUTE FUNCTION log()",
    ];

    fn server() -> Server {
        Server::postgres()
    }

    fn sessions(user: &str) -> String {
        format!("SELECT COUNT(*) FROM pg_stat_activity WHERE usename = '{user}'")
    }
}

impl StormServer for MySql {
    const TITLE: &'static str = "MariaDB";

    const SETUP: &'static [&'static str] = &[
        "CREATE USER jobs@'%' IDENTIFIED BY 'app'",
        "GRANT ALL PRIVILEGES ON *.* TO jobs@'%'",
        "CREATE USER watch@'%' IDENTIFIED BY 'app'",
        "GRANT ALL PRIVILEGES ON *.* TO watch@'%'",
        "CREATE TABLE hot (id BIGINT PRIMARY KEY, value BIGINT NOT NULL, op BIGINT NOT NULL)",
        "CREATE TABLE ledger (op BIGINT PRIMARY KEY, hot BIGINT NOT NULL)",
        "CREATE TABLE effect (job BIGINT NOT NULL)",
        "CREATE TRIGGER log AFTER UPDATE ON hot FOR EACH ROW INSERT INTO ledger VALUES (NEW.op, NEW.id)",
    ];

    fn server() -> Server {
        Server::mariadb()
    }

    fn sessions(user: &str) -> String {
        format!("SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{user}'")
    }
}
