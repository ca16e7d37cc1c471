//! The benchmarks of `atomically`: `cargo bench -p benches --bench NAME`.
//!
//! - `overhead`: the cost of a run compared with the same transaction in sqlx.
//! - `instructions`: the same in instructions of the client, which repeats on a busy machine.
//! - `contention`: the cost of contention for one row, with and without the gate.
//! - `hot_row`: `Deltas` and pgbench, on one row and on a thousand.
//! - `queue`: jobs per second.
//!
//! The comparison with other libraries, `versus`, is a workspace of its own.
