//! What a customer does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use atomically::holds::{Confirmation, Hold, HoldKey, HoldOutcome};
use atomically::{Error, TransactorExt as _, Tx};
use tokio::time::sleep;

use crate::shop::{Database, EVENT, Shop};

/// How long a seat is held. A real shop gives its customers minutes.
const TTL: Duration = Duration::from_millis(500);

/// How long the bank takes for most customers, and for those with bad luck.
const PAYMENT: Duration = Duration::from_millis(50);
const SLOW_PAYMENT: Duration = Duration::from_millis(800);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Customer {
    id: i64,
}

/// How a visit to the shop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The customer has an order, and has paid for it.
    Seated,
    /// The customer never paid.
    Left,
    /// The payment took longer than the hold, and was voided.
    TooLate,
    SoldOut,
}

impl Customer {
    pub(crate) fn new(id: i64) -> Self {
        Self { id }
    }

    fn never_pays(self) -> bool {
        self.id % 10 < 3
    }

    fn is_slow(self) -> bool {
        self.id % 10 == 3
    }

    pub(crate) async fn visit<DB: Database>(self, shop: Arc<Shop<DB>>) -> anyhow::Result<End>
    where
        i64: HoldKey<DB>,
    {
        loop {
            let hold = match shop.seats.hold(EVENT, 1, TTL).await? {
                HoldOutcome::Held(hold) => hold,
                HoldOutcome::Refused { .. } if shop.is_sold_out().await? => return Ok(End::SoldOut),
                HoldOutcome::Refused { .. } => {
                    // Some seats are only held. They may come back.
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
                HoldOutcome::NotFound => bail!("there is no such event"),
            };
            if self.never_pays() {
                return Ok(End::Left);
            }
            // The money is reserved, and not taken yet.
            let payment = hold.id();
            shop.bank.authorize(payment, if self.is_slow() { SLOW_PAYMENT } else { PAYMENT }).await;
            match self.order(&shop, &hold).await {
                Ok(_) => {
                    shop.bank.capture(payment);
                    return Ok(End::Seated);
                }
                Err(error) if error.is_stale_claim() => shop.bank.void(payment),
                Err(error) => return Err(error.into()),
            }
            if self.is_slow() {
                return Ok(End::TooLate);
            }
        }
    }

    /// Stores the order and confirms the hold: both, or neither if the hold has expired.
    async fn order<DB: Database>(self, shop: &Shop<DB>, hold: &Hold<DB, i64>) -> Result<Confirmation, Error>
    where
        i64: HoldKey<DB>,
    {
        shop.db
            .run(async |tx: &mut Tx<DB>| {
                let confirmation = hold.confirm_in(tx).await?;
                if confirmation == Confirmation::Confirmed {
                    DB::store_order(tx, hold.id(), self.id).await?;
                }
                Ok(confirmation)
            })
            .await
    }
}
