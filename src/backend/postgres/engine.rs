//! Identifies PostgreSQL.

use sqlx::Postgres;
use sqlx::postgres::PgConnectOptions;

use crate::backend::engine::Product;

impl Product for Postgres {
    const SYSTEM: &'static str = "postgresql";

    const SESSION_ID_QUERY: Option<&'static str> = Some("SELECT pg_backend_pid()::bigint");

    fn address(options: &PgConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }
}
