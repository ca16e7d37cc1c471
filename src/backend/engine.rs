//! The product that runs on a server, and its properties.

use sqlx::{Connection, Database};

/// Identifies the product, the server and the session that a connection belongs to.
#[doc(hidden)]
pub trait Product: Database {
    /// The name by which [OpenTelemetry](https://opentelemetry.io/docs/specs/semconv/database/) knows the
    /// database.
    const SYSTEM: &'static str;

    /// The query for the server's [`Engine`]; `None` if no SQL of the database depends on it.
    const ENGINE_QUERY: Option<EngineQuery> = None;

    /// The query for the server's id of the session; `None` if there is no server.
    const SESSION_ID_QUERY: Option<&'static str>;

    /// Returns what these options connect to, without secrets: `127.0.0.1:5432`.
    fn address(options: &ConnectOptions<Self>) -> String;

    /// Whether closing the last connection loses the data, as it does for SQLite in memory.
    fn lives_in_its_connection(_options: &ConnectOptions<Self>) -> bool {
        false
    }
}

type ConnectOptions<DB> = <<DB as Database>::Connection as Connection>::Options;

/// The properties of a server that decide which SQL it is sent.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Engine {
    /// Whether the product is MariaDB and not MySQL.
    pub is_mariadb: bool,
    /// Whether the server is a node of a Galera cluster, which detects conflicts with other nodes at the
    /// commit.
    ///
    /// # Why does it matter?
    ///
    /// A node that aborts a transaction in favour of one from another node reports this in its next response.
    /// If several statements share a packet, the statement after the aborted one still runs, outside of the
    /// transaction, and appears to succeed: 145 of 3 775 acknowledged commits were not stored. Within a
    /// transaction, each statement therefore needs a packet of its own.
    pub is_galera: bool,
    /// Whether the server ends sessions that stay idle in a transaction for too long.
    pub limits_idling: bool,
    /// The size of the largest statement that the server accepts, in bytes; 0 if unknown.
    pub max_packet: usize,
}

/// Queries a server for its [`Engine`], outside of any transaction.
#[doc(hidden)]
#[derive(Debug)]
pub struct EngineQuery {
    /// One or more statements, sent as one text.
    pub sql: &'static str,
    /// Reads the last column of each row.
    pub read: fn(&[String]) -> Engine,
}
