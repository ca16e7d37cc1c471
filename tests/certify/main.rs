//! Certification of real servers: their sheets are snapshots, every planted lie is found, and nothing is left
//! behind.

mod guide;
mod liar;
mod lies;
mod remains;
mod sheets;
#[path = "../support/mod.rs"]
mod support;

use tokio::sync::{Mutex, MutexGuard};

/// Certifications of MariaDB create databases of their own, so those that look for remains take turns.
async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
