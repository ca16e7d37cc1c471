//! Observations as metrics, for whatever exporter the program has.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::ptr;
use std::sync::{Arc, PoisonError, RwLock};

use ::metrics::Recorder;

use crate::events::{Event, JobEvent, Observer, Run, UnitEvent};

mod handles;
mod names;

use handles::{KeyHandles, QueueHandles, UnitHandles, WorkerHandles};

/// Counts and measures what units of work, queues and idempotency keys go through, by the crate
/// [`metrics`](https://docs.rs/metrics), and so for every exporter there is for it.
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
/// The [guide](crate::guide::monitoring) has the table of all metrics, alerts over them, and a dashboard.
/// Units and labels of each are told to the exporter before its first value.
///
/// # Labels
///
/// The name of the unit and that of its strategy, the name of the queue, and labels with a fixed set of
/// values. None grows with the number of users, rows or keys, as long as the names that units are given do
/// not. Each pair of a unit and a strategy has all its counters from its first run on, at zero, so that the
/// first event of a kind is seen to be one. With the [buckets](Self::buckets) below these are 83 series for
/// each pair.
///
/// # What it costs
///
/// Less than a microsecond for each run. What is registered with the exporter is kept, since to look it up by
/// its name and labels takes longer than to count. It is registered anew with a recorder that is installed
/// later.
///
/// One is enough for all transactors and workers of a program. Clones share what is registered.
#[derive(Clone)]
pub struct Metrics {
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    bound: Arc<RwLock<Bound>>,
}

/// What is registered, and with which recorder.
#[derive(Default)]
struct Bound {
    /// Its address.
    recorder: Option<usize>,
    units: HashMap<(&'static str, &'static str), Arc<UnitHandles>>,
    keys: HashMap<(&'static str, &'static str), Arc<KeyHandles>>,
    queues: HashMap<String, Arc<QueueHandles>>,
    workers: HashMap<(String, u32), Arc<WorkerHandles>>,
}

impl Metrics {
    /// Metrics that go where those of the macros of the crate `metrics` go: to the recorder of the thread, or
    /// else to the one that is installed.
    ///
    /// Install it before the first unit is run: what happens earlier is not counted.
    #[must_use]
    pub fn new() -> Self {
        Self { recorder: None, bound: Arc::default() }
    }

    /// Metrics for one recorder, wherever the units run: for tests, whose threads share the recorder that is
    /// installed, and for programs with several exporters.
    #[must_use]
    pub fn recorded_by(recorder: impl Recorder + Send + Sync + 'static) -> Self {
        Self { recorder: Some(Arc::new(recorder)), bound: Arc::default() }
    }

    /// The histograms, and bounds of buckets for them that fit units of work: half a millisecond to ten
    /// seconds for the duration, and one to twenty attempts. Of the parts of the duration the alerts and the
    /// dashboard ask for sums only, so they have a single bound: each further one is a time series for each
    /// unit, strategy and part. Without buckets, exporters for Prometheus make summaries, which cannot be
    /// added up over processes.
    pub fn buckets() -> impl Iterator<Item = (&'static str, &'static [f64])> {
        names::HISTOGRAMS.iter().map(|(described, bounds)| (described.name, *bounds))
    }

    fn with_recorder<T>(&self, then: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.recorder {
            Some(recorder) => then(recorder),
            None => ::metrics::with_recorder(then),
        }
    }

    /// The handles for a key, registered if they are not yet with the recorder of now.
    fn handles<K, Q, H>(
        &self,
        key: &Q,
        map: impl Fn(&Bound) -> &HashMap<K, Arc<H>>,
        map_mut: impl FnOnce(&mut Bound) -> &mut HashMap<K, Arc<H>>,
        register: impl FnOnce(&dyn Recorder) -> H,
    ) -> Arc<H>
    where
        K: std::borrow::Borrow<Q> + Hash + Eq,
        Q: ToOwned<Owned = K> + Hash + Eq + ?Sized,
    {
        self.with_recorder(|recorder| {
            let address = Some(ptr::from_ref(recorder).cast::<()>().addr());
            let bound = self.bound.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(handles) = map(&bound).get(key).filter(|_| bound.recorder == address) {
                return handles.clone();
            }
            drop(bound);
            let mut bound = self.bound.write().unwrap_or_else(PoisonError::into_inner);
            if bound.recorder != address {
                *bound = Bound { recorder: address, ..Bound::default() };
                names::describe(recorder);
            }
            let map = map_mut(&mut bound);
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
                // Their times are in the summary.
                UnitEvent::WaitedAtGate { .. }
                | UnitEvent::Opened { .. }
                | UnitEvent::StatementDone { .. }
                | UnitEvent::BackingOff { .. } => {}
            },
            // Each of them comes to an end, and is counted then.
            Event::Job { event: JobEvent::Claimed { .. }, .. } => {}
            Event::Job { queue, event: JobEvent::Heartbeat { worker } } => self.worker(queue, *worker).beat(),
            Event::Job { queue, event: JobEvent::Stopped { worker } } => {
                self.worker(queue, *worker).stopped()
            }
            Event::Job { queue, event } => self.queue(queue).count(event),
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
