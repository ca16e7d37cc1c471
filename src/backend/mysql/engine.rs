//! Identifies MySQL, MariaDB and Galera.

use sqlx::MySql;
use sqlx::mysql::MySqlConnectOptions;

use crate::backend::engine::{Engine, EngineQuery, Product};

impl Product for MySql {
    const SYSTEM: &'static str = "mysql";

    /// Uses `SHOW` and not `@@wsrep_on`, which servers without the variable refuse.
    const ENGINE_QUERY: Option<EngineQuery> = Some(EngineQuery {
        sql: "SELECT CONCAT_WS(' ', VERSION(), @@max_allowed_packet /*M! , @@idle_transaction_timeout*/); \
              SHOW VARIABLES LIKE 'wsrep_on'",
        read: engine,
    });

    const SESSION_ID_QUERY: Option<&'static str> = Some("SELECT CAST(CONNECTION_ID() AS SIGNED)");

    fn address(options: &MySqlConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }
}

fn engine(answers: &[String]) -> Engine {
    let mut server = answers.first().map_or("", String::as_str).split(' ');
    let version = server.next().unwrap_or_default();
    let max_packet = server.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    Engine {
        is_mariadb: version.contains("MariaDB"),
        is_galera: answers.get(1).is_some_and(|wsrep| wsrep == "ON"),
        limits_idling: server.next().is_some_and(|seconds| seconds != "0"),
        max_packet,
    }
}
