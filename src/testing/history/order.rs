//! The orders of transactions that a check takes into account.

/// The order of transactions that a check takes into account, besides the one that their data show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// No other order. The isolation levels promise nothing beyond this by themselves.
    #[default]
    Data,
    /// The transactions of a session follow each other: each sees those that committed before it.
    ///
    /// A transaction with an unknown outcome may be committed after the session has gone on, so later ones
    /// need not see it.
    Session,
    /// A transaction follows all those that ended before it began.
    ///
    /// With SERIALIZABLE this is strict serializability, which a single server provides and a stale replica
    /// does not.
    RealTime,
}
