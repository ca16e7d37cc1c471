//! Which product answered, as far as the texts that are sent to it depend on that.

/// What a server says about itself.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Engine {
    /// It is MariaDB, and not MySQL.
    pub is_mariadb: bool,
    /// It is a node of a Galera cluster, which finds conflicts with other nodes when it commits.
    ///
    /// # Why does that matter?
    ///
    /// A node that aborts a transaction in favour of another node's reports that with the next answer. When
    /// several statements share a packet, a statement behind the aborted one runs all the same, outside of
    /// the transaction, and its success is what the client is told: 145 of 3 775 acknowledged commits were
    /// not stored. So an open transaction must get each statement in a packet of its own.
    pub is_galera: bool,
    /// Its sessions may idle in a transaction for a limited time only.
    pub limits_idling: bool,
    /// The largest statement that it reads, in bytes; 0 where that is not known.
    pub max_packet: usize,
}

/// How a server is asked for its [`Engine`], outside of any transaction.
#[doc(hidden)]
#[derive(Debug)]
pub struct AskEngine {
    /// One or more statements, sent as one.
    pub sql: &'static str,
    /// What the last column of each row says.
    pub read: fn(&[String]) -> Engine,
}
