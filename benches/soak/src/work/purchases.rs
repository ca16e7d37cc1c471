//! Customers who hold seats, and then buy them, give them back, or never come back.

use std::time::Duration;

use anyhow::Result;
use atomically::holds::{Confirmation, Hold, HoldOutcome, Holds, Sweeper};
use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use rand::RngExt as _;
use rand::rngs::StdRng;
use sqlx::Pool;
use tokio::time::{Instant, sleep};

use crate::database::{EVENTS, SoakDatabase};

/// The connections of the sweeper.
pub(crate) const CONNECTIONS: u32 = 1;

const TTL: Duration = Duration::from_secs(2);

/// After the last fault, all holds have to be gone within this time.
const REST: Duration = Duration::from_secs(60);

pub(crate) struct Purchases<DB: SoakDatabase> {
    seats: Holds<DB, DB::Id>,
    db: PoolTransactor<DB, Pessimistic>,
    _sweeper: Sweeper,
}

impl<DB: SoakDatabase> Purchases<DB> {
    /// Calls take connections from the first pool, and the sweeper from the second one.
    pub(crate) fn start(callers: &Pool<DB>, others: &Pool<DB>) -> Self {
        let sweeper = seats(others).sweep_every(Duration::from_millis(500));
        Self { seats: seats(callers), db: Pessimistic::default().on(callers), _sweeper: sweeper }
    }

    /// Holds seats, and returns whether they were bought. One customer in ten never comes back, and one in
    /// ten gives them back.
    pub(crate) async fn run(&self, op: i64, random: &mut StdRng) -> Result<bool, Error> {
        let (event, amount) = (random.random_range(1..=EVENTS), random.random_range(1..=3));
        let held = self.seats.hold(event.into(), amount, TTL).await?;
        let HoldOutcome::Held(hold) = held else { return Ok(false) };
        match random.random_range(0..10) {
            0 => Ok(false),
            1 => hold.release().await.map(|_| false),
            _ => self.buy(&hold, [op, event, amount], random).await,
        }
    }

    /// Stores the order, and puts as many other seats on sale, so that the event is never sold out.
    async fn buy(
        &self,
        hold: &Hold<DB, DB::Id>,
        [op, event, amount]: [i64; 3],
        random: &mut StdRng,
    ) -> Result<bool, Error> {
        let order = async |tx: &mut Tx<DB>| {
            if hold.confirm_in(tx).await? == Confirmation::AlreadyConfirmed {
                return Ok(());
            }
            DB::execute(tx, DB::sql("INSERT INTO purchase VALUES (?)"), &[op]).await?;
            let restock = DB::sql("UPDATE event SET seats = seats + ? WHERE id = ?");
            DB::execute(tx, restock, &[amount, event]).await.map(drop).map_err(Error::from)
        };
        let mut bought = self.db.run(order).await;
        // Some customers click twice: the second click buys nothing, or what the first one did not.
        if random.random_bool(0.2) || matches!(&bought, Err(error) if error.is_commit_unknown()) {
            let again = self.db.run(order).await;
            bought = match (bought, again) {
                (Err(first), Err(second)) => Err(if first.is_commit_unknown() { first } else { second }),
                (Err(_), Ok(())) => Ok(()),
                (bought, _) => bought,
            };
        }
        bought.map(|()| true)
    }

    /// Waits until all holds are confirmed or have expired, and returns how long that took; `None` if some
    /// are left.
    pub(crate) async fn stop(&self) -> Option<Duration> {
        let (begun, pool) = (Instant::now(), self.db.pool());
        let active = "SELECT COUNT(*) FROM atomically_hold WHERE confirmed_at IS NULL";
        while begun.elapsed() < REST {
            if matches!(DB::integers(pool, active.to_owned()).await.as_deref(), Ok([0])) {
                return Some(begun.elapsed());
            }
            sleep(Duration::from_millis(50)).await;
        }
        None
    }
}

fn seats<DB: SoakDatabase>(pool: &Pool<DB>) -> Holds<DB, DB::Id> {
    Holds::on(pool, "event", "id", "seats")
}
