//! Tests that need more than one process: they start their own executable again as the other processes.

mod gates;
mod holds;
mod leases;
mod servers;
mod storm;
#[path = "../support/mod.rs"]
mod support;
