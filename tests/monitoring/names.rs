//! The names of metrics and the values of their labels: exported ones, and those in queries and in the guide.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atomically::holds::{HoldOutcome, Holds};
use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
use atomically::lease::Lease;
use atomically::queue::{Claim, NewJob, Queue, Worker};
use atomically::{Error, Metrics, Pessimistic, Purge, Tx};
use metrics_exporter_prometheus::PrometheusBuilder;
use sqlx::Sqlite;
use tokio::sync::Notify;

use crate::files::{guide, metric_names, promtool, queried_values, read, rules};
use crate::scrape::{Exporter, Sample, Scrape};
use crate::support::TestBackend as _;

/// A unit, a request with a key, a purge, a lease, a hold and a job, all of which succeed.
async fn everything(exporter: &Exporter) {
    let pool = Sqlite::pool(2).await;
    let db = Pessimistic::default().on(&pool);
    db.create_key_table().await.expect("the table of keys");
    let queue = Queue::new("jobs", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    let db = db.observed_by(exporter.metrics.clone());
    let key = IdempotencyKey::new("names", "a").expect("a key");
    let outcome = db
        .once(&key)
        .run(async |tx: &mut Tx<Sqlite>| {
            let _ = queue.enqueue(tx, NewJob::new(&1)?).await?;
            Ok::<_, Error>(1)
        })
        .await;
    assert_eq!(outcome.expect("a commit"), Outcome::Fresh(1));
    let purge = Purge::new(&pool.pool).keys().dead_jobs(&queue, Duration::ZERO);
    let purge = purge.observed_by(exporter.metrics.clone());
    purge.once().await.expect("purged");
    let lease = Lease::new("report", &pool).observed_by(exporter.metrics.clone());
    lease.create_tables().await.expect("the tables of leases");
    let held = lease.try_acquire().await.expect("an answer").expect("it is free");
    held.release().await.expect("released");
    sqlx::query("CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT)")
        .execute(&pool.pool)
        .await
        .expect("a table");
    let holds = Holds::<Sqlite, i64>::on(&pool, "event", "id", "seats").observed_by(exporter.metrics.clone());
    holds.create_tables().await.expect("the table of holds");
    sqlx::query("INSERT INTO event VALUES (1, 1)").execute(&pool.pool).await.expect("a row");
    let held = holds.hold(1, 1, Duration::from_secs(60)).await.expect("an answer");
    assert!(matches!(held, HoldOutcome::Held(_)), "{held:?}");
    let done = Arc::new(Notify::new());
    let completes = done.clone();
    Worker::new(&queue)
        .observed_by(exporter.metrics.clone())
        .run(done.notified(), move |claim: Arc<Claim<Sqlite>>| {
            let completes = completes.clone();
            async move {
                claim.complete().await?;
                completes.notify_one();
                Ok(())
            }
        })
        .await;
}

/// The table of the guide: kind and labels by name.
fn explained() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let guide = guide();
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `atomically_"));
    rows.map(|row| {
        let columns: Vec<_> = row.split('|').map(str::trim).collect();
        let name = format!("atomically_{}", columns[0].trim_end_matches('`'));
        let labels = columns[2].split(',').map(|label| label.trim().trim_matches('`').to_owned());
        (name, (columns[1].to_owned(), labels.collect()))
    })
    .collect()
}

fn sent(scrape: &Scrape) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let labels = |name: &str| {
        let is_of = |sample: &&Sample| {
            let rest = sample.name.strip_prefix(name);
            rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        let all = scrape.samples.iter().filter(is_of).flat_map(|sample| sample.labels.keys());
        all.filter(|label| *label != "le").cloned().collect::<BTreeSet<_>>()
    };
    scrape.types.iter().map(|(name, kind)| (name.clone(), (kind.clone(), labels(name)))).collect()
}

/// Every metric is exported as soon as there is a subject for it, with all values of its labels; and the
/// guide lists each of them as it is exported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_exactly_the_metrics_of_the_guide() {
    let exporter = Exporter::new();
    everything(&exporter).await;
    assert_eq!(sent(&exporter.scrape()), explained());
}

/// promtool checks the conventions for names and help texts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_accepts_the_exported_metrics() {
    let exporter = Exporter::new();
    everything(&exporter).await;
    let text = exporter.render();
    for name in exporter.scrape().types.keys() {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} says nothing");
    }
    if let Err(said) = promtool(&["check", "metrics"], &text) {
        panic!("{said}");
    }
}

/// The names already conform where an exporter is configured to correct them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exporters_do_not_change_metric_names() {
    let (plain, mended) =
        (Exporter::new(), Exporter::of(PrometheusBuilder::new().with_recommended_naming(true)));
    everything(&plain).await;
    everything(&mended).await;
    assert_eq!(sent(&mended.scrape()), sent(&plain.scrape()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_queried_metric_is_exported() {
    let exporter = Exporter::new();
    everything(&exporter).await;
    let scrape = exporter.scrape();
    let recorded = rules("record");
    let mut series: BTreeSet<_> = scrape.samples.iter().map(|sample| sample.name.as_str()).collect();
    series.extend(recorded.iter().map(String::as_str));
    // Prose mentions a histogram by its base name.
    let mut metrics: BTreeSet<_> = scrape.types.keys().map(String::as_str).collect();
    metrics.extend(series.iter().copied());
    let dashboard = read("monitoring/dashboard.json").replace("\\\"", "\"");
    let files = [
        ("alerts.yml", read("monitoring/alerts.yml"), &series),
        ("alerts.test.yml", read("monitoring/alerts.test.yml"), &series),
        ("dashboard.json", dashboard, &series),
        ("the guide", guide(), &metrics),
    ];
    for (file, text, known) in files {
        let names = metric_names(&text);
        assert!(names.len() > 10, "{file} was not understood: {names:?}");
        for name in names {
            assert!(known.contains(name), "{file}: there is no {name}");
        }
        for label in ["outcome", "kind", "event"] {
            for value in queried_values(&text, label).into_iter().flatten() {
                assert!(scrape.values(label).contains(value.as_str()), "{file}: no {label} is {value}");
            }
        }
    }
}

/// Buckets are offered for every histogram, and for no other metric.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_histogram_has_buckets() {
    let exporter = Exporter::new();
    everything(&exporter).await;
    let types = exporter.scrape().types;
    let histograms: BTreeSet<_> =
        types.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name.as_str()).collect();
    assert_eq!(Metrics::buckets().map(|(name, _)| name).collect::<BTreeSet<_>>(), histograms);
    assert!(!types.values().any(|kind| kind == "summary"), "{types:?}");
    assert!(Metrics::buckets().all(|(_, bounds)| bounds.is_sorted()));
}

/// Each series is kept, and costs memory, for as long as the process lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_states_the_number_of_series() {
    let exporter = Exporter::new();
    everything(&exporter).await;
    let scrape = exporter.scrape();
    let count = |label: &str| {
        let is_key = |sample: &&Sample| sample.name.starts_with("atomically_idempotency");
        let samples = scrape.samples.iter().filter(|sample| !is_key(sample));
        samples.filter(|sample| sample.labels.contains_key(label)).count()
    };
    let is_of_unit = |sample: &&Sample| sample.labels.get("unit").is_some_and(|unit| unit == "unnamed");
    let of_unit = scrape.samples.iter().filter(is_of_unit);
    let units = of_unit.filter(|sample| !sample.name.starts_with("atomically_idempotency")).count();
    let workers = count("worker");
    let queues = count("queue") - workers;
    // However the lines of the guide are broken.
    let guide = guide().split_whitespace().collect::<Vec<_>>().join(" ");
    let said = format!("Each pair of a unit and a strategy is {units} of them");
    assert!(guide.contains(&said), "{units} for each unit");
    let (leases, columns) = (count("lease"), count("column"));
    let said = format!("a lease {leases}, and a column with holds {columns}");
    assert!(guide.contains(&said), "{said}");
    let said = format!("A queue is {queues}, and each of its workers one");
    assert!(workers == 1 && guide.contains(&said), "{queues} for each queue, {workers} for each worker");
}

/// A histogram with buckets that no alert and no panel queries would cost many series without a use.
#[test]
fn only_queried_histograms_have_buckets() {
    let texts = read("monitoring/alerts.yml") + &read("monitoring/dashboard.json");
    for (name, bounds) in Metrics::buckets() {
        let is_queried = texts.contains(&format!("{name}_bucket"));
        assert!(is_queried || bounds.len() == 1, "{name} has {} buckets without a query", bounds.len());
    }
}
