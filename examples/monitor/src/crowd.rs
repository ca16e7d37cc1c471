//! The buyers, each of whom buys one seat after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::books::Books;
use crate::settings::{BUYERS, Settings};
use crate::shop::{Counter, EVENTS, Shop};

/// How long a buyer pauses after an error, so that a database that is down is not flooded when it is back.
const PAUSE: Duration = Duration::from_millis(200);

/// Spawns all buyers. Dropping the set stops them.
pub(crate) fn gather<DB: Shop>(
    counter: Counter<DB>,
    settings: &Receiver<Settings>,
    books: &Arc<Books>,
) -> JoinSet<()> {
    let counter = Arc::new(counter);
    let most = BUYERS.into_iter().max().unwrap_or_default();
    (0..most).map(|number| buyer(number, counter.clone(), settings.clone(), books.clone())).collect()
}

async fn buyer<DB: Shop>(
    number: usize,
    counter: Arc<Counter<DB>>,
    mut settings: Receiver<Settings>,
    books: Arc<Books>,
) {
    loop {
        let now = *settings.borrow_and_update();
        if number >= now.buyers {
            if settings.changed().await.is_err() {
                return;
            }
            continue;
        }
        let wants_the_hot_one = rand::random_range(0..100) < now.hot;
        let event = if wants_the_hot_one { 1 } else { rand::random_range(2..=EVENTS) };
        books.begun();
        let sold = counter.sell(now.way(), event).await;
        books.record(&sold);
        if sold.is_err() {
            sleep(PAUSE).await;
        }
    }
}
