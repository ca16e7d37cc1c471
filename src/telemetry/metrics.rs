//! Metrics, recorded through the crate `metrics`.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::ptr;
use std::sync::{Arc, PoisonError, RwLock};

use ::metrics::Recorder;

use crate::events::{Event, JobEvent, Observer, PurgeEvent, PurgedTable, Run, UnitEvent};

mod claims;
mod handles;
mod names;

use claims::{HoldHandles, LeaseHandles};
use handles::{KeyHandles, PurgeHandles, QueueHandles, UnitHandles, WorkerHandles};

/// An observer that reports units of work, queues, leases, holds and idempotency keys through the crate
/// [`metrics`](https://docs.rs/metrics), to any of its exporters.
///
/// ```
/// # use atomically::{Metrics, Pessimistic, TransactorExt as _};
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
///
/// let mut exporter = PrometheusBuilder::new();
/// for (name, bounds) in Metrics::buckets() {
///     exporter = exporter.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)?;
/// }
/// exporter.install_recorder()?;
///
/// let db = Pessimistic::default().on(&pool).observed_by(Metrics::new());
/// let checkout = db.named("checkout");
/// # Ok(()) }
/// ```
///
/// The [guide](crate::guide::monitoring) has a table of all metrics, alert rules and a dashboard. The
/// exporter receives the unit and the description of each metric before its first value.
///
/// # Upkeep of the exporter
///
/// `install_recorder` of metrics-exporter-prometheus returns a handle and starts no task. Histograms then
/// keep every recorded value in memory until the metrics are rendered or `run_upkeep` of the handle is
/// called: call it every few seconds, for example from a task of its own. `PrometheusBuilder::install` does
/// that by itself, because it serves the metrics in a task that it starts.
///
/// ```
/// # use std::time::Duration;
/// # async fn example(exporter: metrics_exporter_prometheus::PrometheusHandle) {
/// tokio::spawn(async move {
///     loop {
///         tokio::time::sleep(Duration::from_secs(5)).await;
///         exporter.run_upkeep();
///     }
/// });
/// # }
/// ```
///
/// # Labels
///
/// The labels are the names of the unit and its strategy, the names of the queue, of the lease, and of the
/// column with holds, and labels with a fixed set of values. Their number does not grow with users, rows or
/// keys, as long as the names of units do not. All counters of a unit and its strategy are registered at zero
/// with its first run, so that the first event of each kind shows as an increase. With the
/// [buckets](Self::buckets) below, a unit and its strategy have 85 series.
///
/// # Cost
///
/// Less than a microsecond per run. Registered metrics are cached, because looking one up by its name and
/// labels takes longer than counting. If another recorder is installed later, they are registered with that
/// one.
///
/// One value can serve all transactors and workers of a program. Clones share the registered metrics.
#[derive(Clone)]
pub struct Metrics {
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    registered: Arc<RwLock<Registered>>,
}

/// The registered metrics and their recorder.
#[derive(Default)]
struct Registered {
    /// The address of the recorder.
    recorder: Option<usize>,
    units: HashMap<(&'static str, &'static str), Arc<UnitHandles>>,
    keys: HashMap<(&'static str, &'static str), Arc<KeyHandles>>,
    queues: HashMap<String, Arc<QueueHandles>>,
    workers: HashMap<(String, u32), Arc<WorkerHandles>>,
    leases: HashMap<String, Arc<LeaseHandles>>,
    holds: HashMap<String, Arc<HoldHandles>>,
    purges: HashMap<PurgedTable, Arc<PurgeHandles>>,
}

impl Metrics {
    /// Creates metrics that go to the same recorder as the macros of the crate `metrics`: the recorder of
    /// the current thread, or else the installed one.
    ///
    /// Install the recorder before the first run: earlier events are not counted.
    #[must_use]
    pub fn new() -> Self {
        Self { recorder: None, registered: Arc::default() }
    }

    /// Creates metrics for a specific recorder, on every thread: for tests, whose threads share the
    /// installed recorder, and for programs with several exporters.
    #[must_use]
    pub fn recorded_by(recorder: impl Recorder + Send + Sync + 'static) -> Self {
        Self { recorder: Some(Arc::new(recorder)), registered: Arc::default() }
    }

    /// Returns the names of the histograms, with bucket bounds that suit units of work: half a millisecond
    /// to ten seconds for the duration, and one to twenty attempts. The alerts and the dashboard use only
    /// the sums of the parts of the duration, so these have a single bound: each further one would be a
    /// time series per unit, strategy and part. Without buckets, exporters for Prometheus produce
    /// summaries, which cannot be aggregated over processes.
    pub fn buckets() -> impl Iterator<Item = (&'static str, &'static [f64])> {
        names::HISTOGRAMS.iter().map(|(described, bounds)| (described.name, *bounds))
    }

    fn with_recorder<T>(&self, then: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.recorder {
            Some(recorder) => then(recorder),
            None => ::metrics::with_recorder(then),
        }
    }

    /// Returns the handles for a key, and registers them if the current recorder does not have them.
    fn handles<K, Q, H>(
        &self,
        key: &Q,
        map: impl Fn(&Registered) -> &HashMap<K, Arc<H>>,
        map_mut: impl FnOnce(&mut Registered) -> &mut HashMap<K, Arc<H>>,
        register: impl FnOnce(&dyn Recorder) -> H,
    ) -> Arc<H>
    where
        K: std::borrow::Borrow<Q> + Hash + Eq,
        Q: ToOwned<Owned = K> + Hash + Eq + ?Sized,
    {
        self.with_recorder(|recorder| {
            let address = Some(ptr::from_ref(recorder).cast::<()>().addr());
            let registered = self.registered.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(handles) = map(&registered).get(key).filter(|_| registered.recorder == address) {
                return handles.clone();
            }
            drop(registered);
            let mut registered = self.registered.write().unwrap_or_else(PoisonError::into_inner);
            if registered.recorder != address {
                *registered = Registered { recorder: address, ..Registered::default() };
                names::describe(recorder);
            }
            let map = map_mut(&mut registered);
            map.entry(key.to_owned()).or_insert_with(|| Arc::new(register(recorder))).clone()
        })
    }

    fn unit(&self, run: &Run) -> Arc<UnitHandles> {
        let key = (run.name, run.strategy);
        self.handles(&key, |b| &b.units, |b| &mut b.units, |recorder| UnitHandles::register(recorder, run))
    }

    fn key(&self, run: &Run) -> Arc<KeyHandles> {
        let key = (run.name, run.strategy);
        self.handles(&key, |b| &b.keys, |b| &mut b.keys, |recorder| KeyHandles::register(recorder, run))
    }

    fn queue(&self, queue: &str) -> Arc<QueueHandles> {
        self.handles(
            queue,
            |b| &b.queues,
            |b| &mut b.queues,
            |recorder| QueueHandles::register(recorder, queue),
        )
    }

    fn lease(&self, lease: &str) -> Arc<LeaseHandles> {
        self.handles(
            lease,
            |b| &b.leases,
            |b| &mut b.leases,
            |recorder| LeaseHandles::register(recorder, lease),
        )
    }

    fn holds(&self, column: &str) -> Arc<HoldHandles> {
        self.handles(
            column,
            |b| &b.holds,
            |b| &mut b.holds,
            |recorder| HoldHandles::register(recorder, column),
        )
    }

    fn purge(&self, table: PurgedTable) -> Arc<PurgeHandles> {
        self.handles(
            &table,
            |b| &b.purges,
            |b| &mut b.purges,
            |recorder| PurgeHandles::register(recorder, table),
        )
    }

    fn worker(&self, queue: &str, worker: u32) -> Arc<WorkerHandles> {
        let key = (queue.to_owned(), worker);
        self.handles(
            &key,
            |b| &b.workers,
            |b| &mut b.workers,
            |recorder| WorkerHandles::register(recorder, queue, worker),
        )
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Unit { run, event } => match event {
                UnitEvent::Started => self.unit(run).started(),
                UnitEvent::AttemptStarted { .. } => self.unit(run).attempts.increment(1),
                UnitEvent::Idle { .. } => self.unit(run).idle_warnings.increment(1),
                UnitEvent::AttemptFailed { failure, .. } => self.unit(run).failed(failure.kind()),
                UnitEvent::Ended { summary, .. } => self.unit(run).ended(summary),
                // The summary at the end of the run includes these times.
                UnitEvent::WaitedAtGate { .. }
                | UnitEvent::Opened { .. }
                | UnitEvent::StatementDone { .. }
                | UnitEvent::BackingOff { .. } => {}
            },
            // Jobs are counted when they end.
            Event::Job { event: JobEvent::Claimed { .. }, .. } => {}
            Event::Job { queue, event: JobEvent::Heartbeat { worker } } => self.worker(queue, *worker).beat(),
            Event::Job { queue, event: JobEvent::Stopped { worker } } => {
                self.worker(queue, *worker).stopped()
            }
            Event::Job { queue, event } => self.queue(queue).count(event),
            Event::Purge { event: PurgeEvent::Deleted { table, rows } } => self.purge(*table).deleted(*rows),
            // The time of the last success does not advance.
            Event::Purge { event: PurgeEvent::Failed { .. } } => {}
            Event::Lease { lease, event } => self.lease(lease).count(event),
            Event::Hold { column, event } => self.holds(column).count(event),
            Event::Key { run, outcome } => self.key(run).count(*outcome),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
