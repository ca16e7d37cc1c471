//! The strategies that come with the crate.
//!
//! | strategy | opens with | rows read for update | a conflict is | fits |
//! |---|---|---|---|---|
//! | [`Pessimistic`] | READ COMMITTED | are locked | a deadlock, a lock timeout | many conflicts, short units |
//! | [`Optimistic`] | READ COMMITTED | are not locked | a stale version | few conflicts, long units |
//! | [`Atomic`] | READ COMMITTED; a single statement without a transaction | are not locked | a deadlock | counters, stock, balances |
//! | [`Serializable`] | SERIALIZABLE | are not locked | a serialization failure | invariants over many rows |
//! | [`Adaptive`] | READ COMMITTED | are locked once their key is hot | all of the above | load that changes |
//!
//! A strategy is a plain value. A new one takes a file here, or an implementation of
//! [`Strategy`](crate::Strategy) in any crate.

mod adaptive;
mod atomic;
mod optimistic;
mod pessimistic;
mod serializable;

pub use adaptive::Adaptive;
pub use atomic::Atomic;
pub use optimistic::Optimistic;
pub use pessimistic::Pessimistic;
pub use serializable::Serializable;
