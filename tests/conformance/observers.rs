//! Observers that panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::{Atomic, Error, Event, Observer, Pessimistic, TransactorExt as _, Tx};

use super::increments::{counter, increment, patient, value};
use crate::support::{TestBackend, eventually};

/// Counts the events, and panics at each of them.
#[derive(Debug, Clone, Default)]
struct PanickingObserver(Arc<AtomicU32>);

impl Observer for PanickingObserver {
    fn observe(&self, event: &Event<'_>) {
        self.0.fetch_add(1, SeqCst);
        panic!("an observer panics at {event:?}");
    }

    fn wants_sessions(&self) -> bool {
        panic!("an observer panics");
    }
}

/// The unit commits, and the other observers receive every event.
pub(crate) async fn an_observer_panic_does_not_affect_the_run<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let (panics, others) = (PanickingObserver::default(), Arc::new(AtomicU32::new(0)));
    let events = others.clone();
    let db = patient(Pessimistic::default(), &pool).observed_by(panics.clone()).observed_by(
        move |_: &Event<'_>| {
            events.fetch_add(1, SeqCst);
        },
    );
    let conflicts_once = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        if tx.attempt() == 1 { tx.expect_one(0) } else { Ok(()) }
    };
    db.run(conflicts_once).await.expect("a commit");
    assert_eq!(value(&pool).await, 1);
    let events = others.load(SeqCst);
    assert!(events > 5 && panics.0.load(SeqCst) == events, "{panics:?} of {events}");
    eventually(0, async || DB::open_transactions(&pool).await).await;

    let apply = Atomic::default().on(&pool).observed_by(panics);
    let update = DB::sql("UPDATE counter SET value = value + 1 WHERE id = ?");
    assert_eq!(DB::apply(&apply, update, &[1]).await.expect("a commit"), 1);
}

/// The caller receives the panic of the unit, and the process continues. The same holds for a unit that is
/// dropped.
pub(crate) async fn an_observer_panic_during_unwinding_does_not_abort_the_process<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let panics = PanickingObserver::default();
    let db = patient(Pessimistic::default(), &pool).observed_by(panics.clone());
    let run = tokio::spawn({
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
    let panic = run.await.expect_err("a panic").into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the unit's own panic"));

    let never_returns = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        std::future::pending::<Result<(), Error>>().await
    };
    tokio::time::timeout(Duration::from_millis(100), db.run(never_returns))
        .await
        .expect_err("the unit never returns");
    eventually(0, async || DB::open_transactions(&pool).await).await;
    assert_eq!(value(&pool).await, 0);
}
