//! Observers that panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::{Atomic, Error, Event, Observer, Pessimistic, TransactorExt as _, Tx};

use super::increments::{counter, increment, patient, value};
use crate::support::{TestBackend, eventually};

/// Panics at every event, and counts them.
#[derive(Debug, Clone, Default)]
struct Panics(Arc<AtomicU32>);

impl Observer for Panics {
    fn observe(&self, event: &Event<'_>) {
        self.0.fetch_add(1, SeqCst);
        panic!("an observer's panic at {event:?}");
    }

    fn wants_sessions(&self) -> bool {
        panic!("an observer's panic");
    }
}

/// The unit ends as it would, and the other observers are told of every step.
pub(crate) async fn a_panic_of_an_observer_changes_nothing<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let (panics, others) = (Panics::default(), Arc::new(AtomicU32::new(0)));
    let told = others.clone();
    let db = patient(Pessimistic::default(), &pool).observed_by(panics.clone()).observed_by(
        move |_: &Event<'_>| {
            told.fetch_add(1, SeqCst);
        },
    );
    let twice = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        if tx.attempt() == 1 { tx.expect_one(0) } else { Ok(()) }
    };
    db.run(twice).await.expect("a commit");
    assert_eq!(value(&pool).await, 1);
    let told = others.load(SeqCst);
    assert!(told > 5 && panics.0.load(SeqCst) == told, "{panics:?} of {told}");
    assert_eq!(DB::open_transactions(&pool).await, 0);

    let apply = Atomic::default().on(&pool).observed_by(panics);
    let update = DB::sql("UPDATE counter SET value = value + 1 WHERE id = ?");
    assert_eq!(DB::apply(&apply, update, &[1]).await.expect("a commit"), 1);
}

/// The panic of the unit is the one that its caller sees, and the process lives. So it is with a unit that is
/// dropped.
pub(crate) async fn an_observer_may_panic_while_its_unit_unwinds<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let panics = Panics::default();
    let db = patient(Pessimistic::default(), &pool).observed_by(panics.clone());
    let unwinds = tokio::spawn({
        let db = db.clone();
        async move {
            db.run(async |tx: &mut Tx<DB>| {
                increment(tx).await?;
                if tx.attempt() == 1 {
                    panic!("the unit's own panic");
                }
                Ok::<_, Error>(())
            })
            .await
        }
    });
    let panic = unwinds.await.expect_err("a panic").into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the unit's own panic"));

    let stays = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        std::future::pending::<Result<(), Error>>().await
    };
    tokio::time::timeout(Duration::from_millis(100), db.run(stays)).await.expect_err("it was dropped");
    eventually(0, async || DB::open_transactions(&pool).await).await;
    assert_eq!(value(&pool).await, 0);
}
