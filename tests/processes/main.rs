//! What takes more than one process: the tests start themselves again, as the others.

mod gates;
mod servers;
#[path = "../support/mod.rs"]
mod support;
