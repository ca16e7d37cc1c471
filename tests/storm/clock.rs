//! The timeline of a storm: when the server was down, and how many calls were committed when.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The resolution of the throughput.
const SLICE: Duration = Duration::from_millis(100);

/// Enough slices for any storm.
const SLICES: usize = 100_000;

/// A time in which the server did not respond.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) what: &'static str,
    /// In microseconds since 1970, like the timestamps of the queue.
    from: i64,
    to: Option<i64>,
    /// Since the start of the storm, like the other times: when it began.
    began: Duration,
    /// From when on the server may respond: somewhat before the test knows that it does.
    may_respond: Duration,
    pub(crate) ended: Duration,
}

impl Outage {
    pub(crate) fn length(&self) -> Duration {
        Duration::from_micros(self.to.unwrap_or(self.from).abs_diff(self.from))
    }
}

#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    outages: Mutex<Vec<Outage>>,
    committed: Vec<AtomicU64>,
}

/// Microseconds since 1970: the server runs on the same machine.
pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    i64::try_from(now.as_micros()).expect("a time in this era")
}

impl Clock {
    pub(crate) fn start() -> Self {
        let committed = (0..SLICES).map(|_| AtomicU64::new(0)).collect();
        Self { started: Instant::now(), outages: Mutex::default(), committed }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Outage>> {
        self.outages.lock().expect("the outages")
    }

    pub(crate) fn outage_begins(&self, what: &'static str) {
        let (began, zero) = (self.elapsed(), Duration::ZERO);
        self.lock().push(Outage { what, from: now(), to: None, began, may_respond: zero, ended: zero });
    }

    /// The server is about to be started again, or to go on.
    pub(crate) fn server_may_respond(&self) {
        if let Some(last) = self.lock().last_mut() {
            last.may_respond = self.elapsed();
        }
    }

    pub(crate) fn outage_ends(&self) {
        if let Some(last) = self.lock().last_mut() {
            (last.to, last.ended) = (Some(now()), self.elapsed());
        }
    }

    pub(crate) fn outages(&self) -> Vec<Outage> {
        self.lock().clone()
    }

    /// How long a job has been waiting since `since` (microseconds since 1970), outages excluded.
    pub(crate) fn waited(&self, since: i64, until: i64) -> Duration {
        let overlaps = self.lock().iter().fold(0, |sum, outage| {
            let (from, to) = (outage.from.max(since), outage.to.unwrap_or(until).min(until));
            sum + (to - from).max(0)
        });
        Duration::from_micros(u64::try_from(until - since - overlaps).unwrap_or(0))
    }

    /// Counts a call that was committed.
    pub(crate) fn commit(&self) {
        if let Some(slice) = self.committed.get(slice(self.elapsed())) {
            slice.fetch_add(1, Relaxed);
        }
    }

    /// Commits per second in a span of the storm.
    pub(crate) fn throughput(&self, from: Duration, to: Duration) -> f64 {
        let slices = &self.committed[slice(from)..slice(to).max(slice(from))];
        let committed: u64 = slices.iter().map(|slice| slice.load(Relaxed)).sum();
        committed as f64 / (SLICE * slices.len() as u32).as_secs_f64()
    }

    /// How many calls were committed while the server could not respond. The first moments do not count: on a
    /// busy machine, responses from before the outage reach callers late.
    pub(crate) fn committed_during(&self, outage: &Outage) -> u64 {
        let late = Duration::from_secs(1).min(outage.may_respond.saturating_sub(outage.began) / 2);
        let from = slice(outage.began + late) + 1;
        let slices = from..slice(outage.may_respond).max(from);
        self.committed[slices].iter().map(|slice| slice.load(Relaxed)).sum()
    }

    /// The time from `when` to the next commit.
    pub(crate) fn next_commit(&self, when: Duration) -> Option<Duration> {
        let next = (slice(when)..SLICES).find(|n| self.committed[*n].load(Relaxed) > 0)?;
        Some((SLICE * (next as u32 + 1)).saturating_sub(when))
    }
}

fn slice(elapsed: Duration) -> usize {
    (elapsed.as_millis() / SLICE.as_millis()) as usize
}
