//! The last minute, second by second, and the totals since the start.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::recorder::{Series, Tally};
use crate::settings::{Settings, Way};

/// The span of the charts.
pub(crate) const SPAN: Duration = Duration::from_secs(60);
/// The shortest time that a rate is computed for.
const SHORTEST: Duration = Duration::from_millis(100);
/// Changes within this time become one mark.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// The figures of about one second.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) at: Instant,
    pub(crate) way: Way,
    pub(crate) per_second: f64,
    pub(crate) conflict_rate: Option<f64>,
    pub(crate) attempts_each: Option<f64>,
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
}

/// A change of the settings.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) at: Instant,
    before: Settings,
    after: Settings,
}

impl Mark {
    /// The change in a few words.
    pub(crate) fn what(&self) -> String {
        self.after.news(&self.before)
    }
}

/// The totals since the start.
#[derive(Debug, Clone)]
pub(crate) struct Sum {
    /// For how long it was chosen while there were buyers.
    pub(crate) chosen: Duration,
    pub(crate) tally: Tally,
}

/// The data of the charts and the table.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    pub(crate) settings: Settings,
    pub(crate) points: VecDeque<Point>,
    pub(crate) marks: VecDeque<Mark>,
    pub(crate) sums: BTreeMap<Way, Sum>,
    /// When the last second ended.
    pub(crate) now: Instant,
    since: Instant,
    chosen: BTreeMap<Way, (Duration, Instant)>,
    nothing: Tally,
}

impl Timeline {
    pub(crate) fn new(settings: Settings, nothing: Tally) -> Self {
        let now = Instant::now();
        Self {
            settings,
            points: VecDeque::new(),
            marks: VecDeque::new(),
            sums: BTreeMap::new(),
            now,
            since: now,
            chosen: BTreeMap::new(),
            nothing,
        }
    }

    /// Changes the settings from now on.
    pub(crate) fn choose(&mut self, settings: Settings) {
        if settings == self.settings {
            return;
        }
        let now = Instant::now();
        self.note_time(now);
        match self.marks.back_mut() {
            Some(mark) if now - mark.at < AT_ONCE => mark.after = settings,
            _ => self.marks.push_back(Mark { at: now, before: self.settings, after: settings }),
        }
        self.marks.retain(|mark| mark.before != mark.after);
        self.settings = settings;
    }

    fn note_time(&mut self, now: Instant) {
        if self.settings.buyers > 0 {
            let (time, until) = self.chosen.entry(self.settings.way()).or_insert((Duration::ZERO, now));
            *time += now - self.since;
            *until = now;
        }
        self.since = now;
    }

    /// Adds the counts of another second.
    pub(crate) fn advance(&mut self, happened: &BTreeMap<Series, Tally>) {
        let now = Instant::now();
        self.note_time(now);
        for way in Way::all() {
            let (chosen, until) = self.chosen.get(&way).copied().unwrap_or((Duration::ZERO, now));
            let tally = happened.get(&(way.strategy.name(), way.unit()));
            if tally.is_none() && chosen.is_zero() {
                continue;
            }
            let tally = tally.unwrap_or(&self.nothing);
            let nothing = || Sum { chosen: Duration::ZERO, tally: self.nothing.clone() };
            let sum = self.sums.entry(way).or_insert_with(nothing);
            sum.chosen += chosen;
            sum.tally.merge(tally);
            // Units that outlived a change of the settings are counted, but get no point of their own.
            if chosen > SHORTEST {
                self.points.push_back(point(until, way, chosen, tally));
            }
        }
        self.chosen.clear();
        self.now = now;
        self.points.retain(|point| now - point.at <= SPAN);
        self.marks.retain(|mark| now - mark.at <= SPAN);
    }

    /// The last second, if it has a point of the current choice.
    pub(crate) fn last(&self) -> Option<&Point> {
        self.points.iter().rfind(|point| point.at == self.now && point.way == self.settings.way())
    }
}

fn point(at: Instant, way: Way, chosen: Duration, tally: &Tally) -> Point {
    Point {
        at,
        way,
        per_second: tally.committed as f64 / chosen.as_secs_f64(),
        conflict_rate: tally.conflict_rate(),
        attempts_each: tally.attempts_each(),
        p50: tally.percentile(50.0),
        p99: tally.percentile(99.0),
    }
}
