//! Counts the connections that each pool is opening, as far as waits for them show it.
//!
//! sqlx's pool counts a connection that it is opening like one that is in use. If the server cannot be
//! reached, the pool therefore looks as if its users kept all connections.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

static OPENING: LazyLock<Mutex<HashMap<usize, usize>>> = LazyLock::new(Mutex::default);

/// A wait for a connection that its pool is opening, until this value is dropped.
pub(super) struct OpeningPermit(usize);

impl OpeningPermit {
    pub(super) fn new(pool: usize) -> Self {
        *OPENING.lock().unwrap_or_else(PoisonError::into_inner).entry(pool).or_default() += 1;
        Self(pool)
    }
}

impl Drop for OpeningPermit {
    fn drop(&mut self) {
        let mut opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = opening.get_mut(&self.0) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                opening.remove(&self.0);
            }
        }
    }
}

/// Returns whether the pool with this identity is opening a connection.
pub(crate) fn is_opening(pool: usize) -> bool {
    OPENING.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&pool)
}
