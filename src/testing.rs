//! For tests of what runs under concurrency, on your own database and pool.

pub mod history;
