//! The rush: all buyers enter the shop at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum as _;
use example_database::within;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use sqlx::Pool;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::report::{Offer, Outcome};
use crate::shop::{Answer, Approach, Counter, Shop};

/// How long a buyer waits at most. It grows with the number of buyers, because the last one waits for all
/// others.
pub(crate) fn patience(offer: Offer) -> Duration {
    Duration::from_secs(60) + Duration::from_millis(offer.buyers.saturating_mul(20))
}

/// Creates the tables anew, lets all buyers in at once, and reads the tables afterwards.
pub(crate) async fn hold<DB: Shop>(
    approach: Approach,
    offer: Offer,
    pool: &Pool<DB>,
    bars: &MultiProgress,
) -> anyhow::Result<Outcome> {
    let name = approach.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    within(DB::open(pool, offer.seats.try_into()?)).await.context("cannot create the tables of the sale")?;

    let shop = Arc::new(Rush {
        counter: Counter::new(approach, pool, patience(offer)),
        sold: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        patience: patience(offer),
    });
    let bar = bars.add(ProgressBar::new(offer.buyers));
    bar.set_style(style(shop.clone())?);
    bar.set_prefix(name.clone());
    bar.enable_steady_tick(Duration::from_millis(100));

    let doors = Arc::new(Barrier::new(usize::try_from(offer.buyers)? + 1));
    let mut buyers = JoinSet::new();
    for buyer in 0..offer.buyers {
        let (shop, doors, bar, buyer) = (shop.clone(), doors.clone(), bar.clone(), i64::try_from(buyer)?);
        buyers.spawn(async move {
            doors.wait().await;
            let visit = shop.visit(buyer).await;
            bar.inc(1);
            visit
        });
    }
    doors.wait().await;
    let opened = Instant::now();
    let (mut waits, mut first_error) = (Vec::new(), None);
    while let Some(visit) = buyers.join_next().await {
        let error = match visit {
            Ok((wait, error)) => {
                waits.push(wait);
                error
            }
            Err(panic) => Some(panic.to_string()),
        };
        first_error = first_error.or(error);
    }
    let elapsed = opened.elapsed();
    bar.finish();

    waits.sort_unstable();
    let books = within(DB::books(pool)).await.context("cannot read the tables of the sale")?;
    Ok(Outcome {
        name,
        is_strategy: approach.is_strategy(),
        told_sold: shop.sold.load(Ordering::Relaxed),
        told_sold_out: shop.refused.load(Ordering::Relaxed),
        first_error,
        attempts: shop.counter.attempts.load(Ordering::Relaxed),
        seats_left: books.seats_left,
        tickets: books.tickets.try_into()?,
        elapsed,
        waits,
    })
}

/// The shop, and the responses that its buyers got.
struct Rush<DB: Shop> {
    counter: Counter<DB>,
    sold: AtomicU64,
    refused: AtomicU64,
    patience: Duration,
}

impl<DB: Shop> Rush<DB> {
    /// Returns how long the buyer waited, and the error if the purchase failed.
    async fn visit(&self, buyer: i64) -> (Duration, Option<String>) {
        let entered = Instant::now();
        // The crate enforces its own deadline; the cautionary tales have none.
        let limit = self.patience + Duration::from_secs(5);
        let error = match timeout(limit, self.counter.serve(buyer)).await {
            Ok(Ok(Answer::Sold)) => {
                self.sold.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok(Ok(Answer::SoldOut)) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {limit:.0?}")),
        };
        (entered.elapsed(), error)
    }
}

fn style<DB: Shop>(shop: Arc<Rush<DB>>) -> anyhow::Result<ProgressStyle> {
    let tally = move |_: &ProgressState, line: &mut dyn std::fmt::Write| {
        let [sold, refused, attempts] =
            [&shop.sold, &shop.refused, &shop.counter.attempts].map(|number| number.load(Ordering::Relaxed));
        let _ = write!(line, "{sold} sold, {refused} refused, {attempts} attempts");
    };
    let style = ProgressStyle::with_template("{prefix:>12} [{bar:30}] {pos}/{len}  {tally}")?;
    Ok(style.progress_chars("=> ").with_key("tally", tally))
}
