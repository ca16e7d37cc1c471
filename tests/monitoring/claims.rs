//! Leases and holds.

use std::time::Duration;

use atomically::holds::{HoldKey, HoldOutcome, Holds};
use atomically::lease::Lease;
use atomically::{Pessimistic, TransactorExt as _, Tx};

use crate::scrape::Exporter;
use crate::support::{TestBackend, eventually};

const LONG: Duration = Duration::from_secs(3600);

/// Long enough for a renewal before the lease expires on a busy machine.
const SHORT: Duration = Duration::from_secs(5);

pub(crate) async fn leases_are_counted_by_event<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let exporter = Exporter::new();
    let lease = Lease::new("report", &pool).ttl(LONG);
    let lease = lease.observed_by(exporter.metrics.clone());
    lease.create_tables().await.expect("the tables");
    let counted = || {
        let scrape = exporter.scrape();
        let events = ["acquired", "lost", "released"];
        let events = events.map(|event| {
            scrape.sum("atomically_lease_events_total", &[("lease", "report"), ("event", event)])
        });
        (events, scrape.sum("atomically_leases_held", &[("lease", "report")]))
    };
    let held = lease.try_acquire().await.expect("the database is there").expect("it is free");
    assert_eq!(counted(), ([1.0, 0.0, 0.0], 1.0));
    held.release().await.expect("released");
    assert_eq!(counted(), ([1.0, 0.0, 1.0], 0.0));
    let taken_over =
        lease.ttl(SHORT).try_acquire().await.expect("the database is there").expect("it is free");
    for table in ["atomically_lease", "atomically_lease_expiry"] {
        let sql = DB::sql(&format!("UPDATE {table} SET token = token + 1"));
        DB::pool_execute(&pool, sql, &[]).await.expect("another holder");
    }
    eventually(([2.0, 1.0, 1.0], 0.0), async || counted()).await;
    drop(taken_over);
    assert_eq!(counted(), ([2.0, 1.0, 1.0], 0.0), "what is lost is not released");
}

pub(crate) async fn renewals_that_fail_are_counted<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let exporter = Exporter::new();
    let counted = |event| exporter.scrape().sum("atomically_lease_events_total", &[("event", event)]);
    for lost in 1..=10 {
        let lease = Lease::new(&format!("report-{lost}"), &pool).ttl(SHORT);
        let lease = lease.observed_by(exporter.metrics.clone());
        lease.create_tables().await.expect("the tables");
        let held = lease.try_acquire().await.expect("the database is there").expect("it is free");
        DB::pool_execute(&pool, DB::sql("DROP TABLE atomically_lease_expiry"), &[]).await.expect("dropped");
        held.lost().await;
        eventually(f64::from(lost), async || counted("lost")).await;
        if counted("renewal_failed") >= 1.0 {
            return;
        }
    }
    panic!("the machine was too busy each time to renew the lease before it expired");
}

pub(crate) async fn holds_are_counted_by_event<DB: TestBackend>()
where
    i64: HoldKey<DB>,
{
    let pool = DB::pool(3).await;
    for sql in ["CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT)", "INSERT INTO event VALUES (1, 5)"]
    {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect(sql);
    }
    let exporter = Exporter::new();
    let holds = Holds::<DB, i64>::on(&pool, "event", "id", "seats").observed_by(exporter.metrics.clone());
    holds.create_tables().await.expect("the table");
    let db = Pessimistic::default().on(&pool);
    let hold = async |amount| match holds.hold(1, amount, LONG).await.expect("an answer") {
        HoldOutcome::Held(hold) => Some(hold),
        _ => None,
    };
    let (bought, released, late) = (hold(1).await, hold(1).await, hold(1).await);
    assert!(hold(9).await.is_none());
    let bought = bought.expect("held");
    let confirm = async |tx: &mut Tx<DB>| bought.confirm_in(tx).await;
    let _confirmation = db.run(confirm).await.expect("in time");
    assert!(released.expect("held").release().await.expect("released"));
    let sql = "UPDATE atomically_hold SET expires_at = 1 WHERE confirmed_at IS NULL";
    DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("it expires");
    let late = late.expect("held");
    let confirm = async |tx: &mut Tx<DB>| late.confirm_in(tx).await;
    db.run(confirm).await.expect_err("too late");
    assert_eq!(holds.sweep().await.expect("swept"), 1);
    let sweeper = holds.sweep_every(Duration::from_millis(20));
    DB::pool_execute(&pool, DB::sql("DROP TABLE atomically_hold"), &[]).await.expect("dropped");
    let counted = |event| {
        let labels = [("column", "event.id.seats"), ("event", event)];
        exporter.scrape().sum("atomically_hold_events_total", &labels)
    };
    eventually(true, async || counted("sweep_failed") >= 1.0).await;
    sweeper.shutdown().await;
    let events = ["held", "refused", "confirmed", "too_late", "released", "expired"];
    assert_eq!(events.map(counted), [3.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
}
