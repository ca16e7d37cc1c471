//! Certification of real servers: the sheets are snapshots, and every planted lie is found.

mod sheets;
#[path = "../support/mod.rs"]
mod support;
