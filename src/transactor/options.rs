//! What a run is granted.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::backoff::Backoff;

/// The limits of a run.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) attempts: u32,
    pub(super) deadline: Duration,
    pub(super) backoff: Backoff,
    pub(super) seed: Option<u64>,
    pub(super) before_acquire: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            attempts: 50,
            deadline: Duration::from_secs(10),
            backoff: Backoff::default(),
            seed: None,
            before_acquire: false,
        }
    }
}

impl Options {
    /// The delays between attempts, without end.
    pub(super) fn delays(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let chance = match self.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        self.backoff.delays(chance)
    }
}
