//! The benchmarks of `atomically`: `cargo bench -p benches --bench NAME`.
//!
//! - `overhead`: what a run costs on top of the same transaction in sqlx.
//! - `contention`: what contention for one row costs, with the gate and without.
//! - `hot_row`: `Deltas` and pgbench, on one row and on a thousand.
//! - `queue`: jobs per second.
//!
//! `versus`, with other libraries, is a workspace of its own.
