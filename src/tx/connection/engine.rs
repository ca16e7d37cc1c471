//! What is known of the server behind a pool.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Engine;

/// For how long an answer is believed.
///
/// # Why not for ever?
///
/// The address of a pool may come to lead to another server: a standalone one is replaced by a cluster. One
/// question in five seconds costs nothing.
const BELIEVED: Duration = Duration::from_secs(5);

/// The engine that has answered last, shared by all clones of a transactor.
#[derive(Clone, Default)]
pub(super) struct KnownEngine(Arc<Mutex<Option<(Instant, Engine)>>>);

impl KnownEngine {
    pub(super) fn get(&self) -> Option<Engine> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(since, _)| since.elapsed() < BELIEVED).map(|(_, engine)| engine)
    }

    pub(super) fn set(&self, engine: Engine) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), engine));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_believed_for_five_seconds() {
        let known = KnownEngine::default();
        assert_eq!(known.get(), None);
        let galera = Engine { is_mariadb: true, is_galera: true, ..Engine::default() };
        known.set(galera);
        tokio::time::advance(BELIEVED - Duration::from_millis(1)).await;
        assert_eq!(known.clone().get(), Some(galera));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(known.get(), None);
    }
}
