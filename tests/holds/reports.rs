//! What observers learn.

use std::sync::{Arc, Mutex};

use atomically::holds::HoldKey;
use atomically::{Event, HoldEvent, Pessimistic};

use crate::support::TestBackend;
use crate::{LONG, buy, events, expire, held};

pub(crate) async fn observers_learn_how_holds_end<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let (pool, holds) = events::<DB>(3, 5).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let holds = holds.observed_by(move |event: &Event<'_>| {
        if let Event::Hold { column, event } = event {
            assert_eq!(*column, "event.id.seats");
            log.lock().expect("unlocked").push(match event {
                HoldEvent::Held { holds } => format!("held {holds}"),
                HoldEvent::Refused { calls } => format!("refused {calls}"),
                HoldEvent::Expired { holds } => format!("expired {holds}"),
                HoldEvent::Confirmed { .. } => "confirmed".to_owned(),
                HoldEvent::TooLate { .. } => "too late".to_owned(),
                HoldEvent::Released { .. } => "released".to_owned(),
                other => format!("{other:?}"),
            });
        }
    });
    let db = Pessimistic::default().on(&pool);
    let hold = held(&holds, 1, 3).await;
    let _refused = holds.hold(1, 3, LONG).await.expect("an answer");
    let _confirmation = buy(&db, &hold).await.expect("in time");
    let _again = buy(&db, &hold).await.expect("told apart");
    assert!(held(&holds, 1, 1).await.release().await.expect("released"));
    let late = held(&holds, 1, 1).await;
    expire(&pool).await;
    buy(&db, &late).await.expect_err("too late");
    let _last = held(&holds, 1, 2).await;
    let seen = seen.lock().expect("unlocked").join(", ");
    assert_eq!(seen, "held 1, refused 1, confirmed, held 1, released, held 1, too late, expired 1, held 1");
}
