//! How runs end, and what they spend their time on.

use std::sync::Arc;
use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
use atomically::testing::{Fault, Faults, Moment};
use atomically::{
    Backoff, Error, Event, Gate, Options, Pessimistic, RetryBudget, RunOutcome, TransactorExt as _, Tx,
    UnitEvent,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::scrape::Exporter;
use crate::storms::{add, counter, patient};
use crate::support::{TestBackend, eventually};

struct Own;

impl From<Error> for Own {
    fn from(_: Error) -> Self {
        Self
    }
}

/// A unit for each outcome, named after it, that ends with this outcome and no other.
pub(crate) async fn each_unit_outcome_is_counted<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let exporter = Exporter::new();
    let db = patient(Pessimistic::default(), &pool).observed_by(exporter.metrics.clone());
    let conflict = async |tx: &mut Tx<DB>| tx.expect_one(0);

    db.named("committed").run(async |tx: &mut Tx<DB>| add(tx, 1).await).await.expect("a commit");
    let own = db.named("rolled_back").run(async |_: &mut Tx<DB>| Err::<(), _>(Own)).await;
    assert!(own.is_err());

    db.create_key_table().await.expect("the table of keys");
    let key = IdempotencyKey::new("monitoring", "a").expect("a key");
    let answer = async |_: &mut Tx<DB>| Ok::<_, Error>(1);
    for (name, outcome) in [("first", Outcome::Fresh(1)), ("replayed", Outcome::Replayed(1))] {
        assert_eq!(db.named(name).once(&key).run(answer).await.expect("an outcome"), outcome);
    }

    let few = db.with(Options::new().attempts(3).backoff(Backoff::none()).named("exhausted"));
    few.run(conflict).await.expect_err("always a conflict");

    let broke = RetryBudget::new().reserve(0);
    let broke = db.with(Options::new().retry_budget(&broke).named("budget_spent"));
    broke.run(conflict).await.expect_err("no budget");

    let short = db.with(Options::new().deadline(Duration::from_millis(50)).named("deadline_exceeded"));
    let waits = async |_: &mut Tx<DB>| std::future::pending::<Result<(), Error>>().await;
    short.run(waits).await.expect_err("no time");

    let failed = async |tx: &mut Tx<DB>| tx.expect_one(2);
    db.named("failed").run(failed).await.expect_err("more rows than one");

    let unheard = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    let unknown = db.with(Options::new().named("commit_unknown"));
    unheard.on(&unknown).run(async |tx: &mut Tx<DB>| add(tx, 1).await).await.expect_err("no answer");

    // Three units hold permits of the gate, and no unit may wait for another permit.
    let gate = Gate::new().queue(0);
    let crowded = db.clone().gate(&gate);
    let mut stay = JoinSet::new();
    for places in 1..=3 {
        let crowded = crowded.clone();
        stay.spawn(async move {
            let stays = async |_: &mut Tx<DB>| std::future::pending::<Result<(), Error>>().await;
            crowded.with(Options::new().named("dropped")).on_key("hot").run(stays).await
        });
        eventually(places, async || gate.at("hot")).await;
    }
    let refused = crowded.with(Options::new().named("overloaded"));
    refused.on_key("hot").run(async |_: &mut Tx<DB>| Ok::<_, Error>(())).await.expect_err("no place");
    stay.shutdown().await;

    let scrape = exporter.scrape();
    for unit in RunOutcome::ALL.map(RunOutcome::as_str) {
        let runs = if unit == "dropped" { 3.0 } else { 1.0 };
        assert_eq!(
            scrape.sum("atomically_units_total", &[("unit", unit), ("outcome", unit)]),
            runs,
            "{unit}"
        );
        assert_eq!(
            scrape.sum("atomically_units_total", &[("unit", unit)]),
            runs,
            "{unit} and something else"
        );
        assert_eq!(scrape.sum("atomically_units_in_flight", &[("unit", unit)]), 0.0, "{unit}");
    }
    let failures = |unit, kind| scrape.sum("atomically_failures_total", &[("unit", unit), ("kind", kind)]);
    assert_eq!(failures("exhausted", "stale_version"), 3.0);
    assert_eq!(failures("commit_unknown", "commit_unknown"), 1.0);
    assert_eq!(scrape.sum("atomically_attempts_total", &[("unit", "exhausted")]), 3.0);
    assert!(scrape.sum("atomically_unit_duration_seconds_sum", &[("unit", "deadline_exceeded")]) >= 0.05);
}

pub(crate) async fn runs_in_flight_are_counted<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let exporter = Exporter::new();
    let db = patient(Pessimistic::default(), &pool).observed_by(exporter.metrics.clone());
    let slow = db.named("slow");
    let in_flight = || exporter.scrape().sum("atomically_units_in_flight", &[("unit", "slow")]);
    let seen = slow.run(async |_: &mut Tx<DB>| Ok::<_, Error>(in_flight())).await.expect("a commit");
    assert_eq!((seen, in_flight()), (1.0, 0.0));
}

/// The observer releases the unit that waits for it.
pub(crate) async fn pauses_are_counted<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let exporter = Exporter::new();
    let idle = Arc::new(Notify::new());
    let notify = idle.clone();
    let db = patient(Pessimistic::default(), &pool)
        .options(Options::new().idle_warning(Duration::from_millis(20)))
        .observed_by(exporter.metrics.clone())
        .observed_by(move |event: &Event<'_>| {
            if let Event::Unit { event: UnitEvent::Idle { .. }, .. } = event {
                notify.notify_one();
            }
        });
    let pauses = db.named("pauses");
    pauses
        .run(async |tx: &mut Tx<DB>| {
            for _ in 0..2 {
                add(tx, 1).await?;
                idle.notified().await;
            }
            Ok::<_, Error>(())
        })
        .await
        .expect("a commit");
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum("atomically_idle_warnings_total", &[("unit", "pauses")]), 2.0);
    assert!(scrape.sum("atomically_idle_in_transaction_seconds_sum", &[("unit", "pauses")]) >= 0.04);
}
