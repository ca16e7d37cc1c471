//! The recorder that metrics go to.

use atomically::{Error, Metrics, Pessimistic, TransactorExt as _, Tx};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use sqlx::Sqlite;

use crate::scrape::{Exporter, Scrape};
use crate::support::TestBackend as _;

fn committed(handle: &PrometheusHandle) -> f64 {
    Scrape::of(&handle.render()).sum("atomically_units_total", &[("outcome", "committed")])
}

/// Metrics go to the recorder that is current when an event happens, even if there was another one or none
/// before.
#[tokio::test]
async fn metrics_go_to_the_current_recorder() {
    let pool = Sqlite::pool(1).await;
    let db = Pessimistic::default().on(&pool).observed_by(Metrics::new());
    let run = async || {
        db.run(async |_: &mut Tx<Sqlite>| Ok::<_, Error>(())).await.expect("a commit");
    };
    run().await; // no recorder

    let first = PrometheusBuilder::new().build_recorder();
    let second = PrometheusBuilder::new().build_recorder();
    {
        let _guard = metrics::set_default_local_recorder(&first);
        run().await;
        {
            let _guard = metrics::set_default_local_recorder(&second);
            run().await;
            run().await;
        }
        run().await;
    }
    run().await; // no recorder again
    assert_eq!((committed(&first.handle()), committed(&second.handle())), (2.0, 2.0));
}

/// An explicit recorder gets the metrics of all clones, whatever recorder is installed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_recorder_gets_every_metric() {
    let pool = Sqlite::pool(2).await;
    let exporter = Exporter::new();
    for _ in 0..2 {
        let db = Pessimistic::default().on(&pool).observed_by(exporter.metrics.clone());
        let unit = async move { db.run(async |_: &mut Tx<Sqlite>| Ok::<_, Error>(())).await };
        tokio::spawn(unit).await.expect("no panic").expect("a commit");
    }
    let labels = [("unit", "unnamed"), ("strategy", "pessimistic")];
    assert_eq!(exporter.scrape().sum("atomically_units_total", &labels), 2.0);
}
