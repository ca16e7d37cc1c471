//! Names and observers of everything that runs transactions, given in the same way.

use std::sync::Arc;
use std::time::Duration;

use atomically::queue::{NewJob, Queue};
use atomically::{
    DeltaOutcome, Deltas, Error, Event, Observer, Options, Pessimistic, Purge, TransactorExt as _, Tx,
};

use crate::scrape::Exporter;
use crate::storms::{counter, patient};
use crate::support::TestBackend;

pub(crate) async fn deltas_and_queues_are_named_and_observed_like_transactors<DB>()
where
    DB: TestBackend,
    i64: atomically::Key<DB>,
{
    let pool = counter::<DB>(4).await;
    let exporter = Exporter::new();
    let runs = |unit: &str| {
        let labels = [("unit", unit), ("outcome", "committed")];
        exporter.scrape().sum("atomically_units_total", &labels)
    };
    let seconds = |seconds| Options::new().deadline(Duration::from_secs(seconds));

    let db = Pessimistic::default().on(&pool).options(seconds(20)).observed_by(exporter.metrics.clone());
    db.named("unit").run(async |_: &mut Tx<DB>| Ok::<_, Error>(())).await.expect("a commit");
    assert_eq!(runs("unit"), 1.0);

    let stock = Deltas::on(&pool, "counter", "id", "value").options(seconds(20));
    let stock = stock.named("stock").observed_by(exporter.metrics.clone());
    assert!(matches!(stock.add(1_i64, 2).await.expect("added"), DeltaOutcome::Applied { .. }));
    assert_eq!(runs("stock"), 1.0);

    let queue = Queue::new("jobs", &pool).expect("a name").options(seconds(20));
    let queue = queue.named("mail").observed_by(exporter.metrics.clone());
    queue.create_tables().await.expect("the tables");
    let _ = queue.enqueue_alone(NewJob::new(&1).expect("a payload")).await.expect("a job");
    let before = runs("mail");
    assert_eq!(queue.claim(1).await.expect("a claim").len(), 1);
    assert_eq!(runs("mail") - before, 1.0);
    let scrape = exporter.scrape();
    let units: Vec<_> = scrape.values("unit").into_iter().collect();
    assert_eq!(units, ["mail", "stock", "unit"], "no default names");
}

/// By value, as an `Arc` of its type, and as an `Arc` of the trait. The same observer observes once.
pub(crate) async fn observers_are_given_by_value_or_as_an_arc<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let exporter = Exporter::new();
    let by_value = exporter.metrics.clone();
    let shared = Arc::new(exporter.metrics.clone());
    let dynamic: Arc<dyn Observer> = shared.clone();
    let runs = || exporter.scrape().sum("atomically_units_total", &[("unit", "unit")]);

    let mut expected = 0.0;
    for (options, times) in [
        (Options::new().observed_by(by_value.clone()), 1.0),
        (Options::new().observed_by(shared.clone()).observed_by(shared.clone()), 1.0),
        (Options::new().observed_by(dynamic.clone()).observed_by(shared.clone()), 1.0),
        (Options::new().observed_by(by_value.clone()).observed_by(dynamic.clone()), 2.0),
        (Options::new().observed_by(|_: &Event<'_>| ()), 0.0),
    ] {
        let db = patient(Pessimistic::default(), &pool).options(options);
        db.named("unit").run(async |_: &mut Tx<DB>| Ok::<_, Error>(())).await.expect("a commit");
        expected += times;
        assert_eq!(runs(), expected);
    }
    let db = patient(Pessimistic::default(), &pool).observed_by(dynamic.clone()).observed_by(shared.clone());
    db.with(Options::new().observed_by(dynamic.clone()).named("unit"))
        .run(async |_: &mut Tx<DB>| Ok::<_, Error>(()))
        .await
        .expect("a commit");
    assert_eq!(runs(), expected + 1.0);
    let _ = Purge::new(&pool.pool).observed_by(shared).observed_by(dynamic).observed_by(by_value);
}
