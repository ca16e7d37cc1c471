//! The strategies that come with the crate.
//!
//! | strategy | isolation | `for_update` locks | a conflict is | fits |
//! |---|---|---|---|---|
//! | [`Pessimistic`] | READ COMMITTED | yes | a deadlock, a lock timeout | many conflicts, short units |
//! | [`Optimistic`] | READ COMMITTED | no | a stale version | few conflicts, long units |
//! | [`Atomic`] | READ COMMITTED | no | a deadlock | counters, stock, balances |
//! | [`Serializable`] | SERIALIZABLE | no | a serialization failure | invariants over many rows |
//! | [`Adaptive`] | READ COMMITTED | once the key is hot | all of the above | load that changes |
//!
//! [`Atomic`] also runs single statements without a transaction around them.
//!
//! A strategy is a plain value that implements [`Strategy`](crate::Strategy). Other crates can implement
//! their own.

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
