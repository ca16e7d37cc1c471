//! The text that Prometheus would scrape.

use std::collections::{BTreeMap, BTreeSet};

use atomically::Metrics;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Metrics, and the exporter that they go to.
pub(crate) struct Exporter {
    pub metrics: Metrics,
    handle: PrometheusHandle,
}

impl Exporter {
    /// An exporter, set up as in the guide.
    pub(crate) fn new() -> Self {
        Self::of(PrometheusBuilder::new())
    }

    pub(crate) fn of(mut builder: PrometheusBuilder) -> Self {
        for (name, bounds) in Metrics::buckets() {
            builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds).expect("bounds");
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Self { metrics: Metrics::recorded_by(recorder), handle }
    }

    pub(crate) fn render(&self) -> String {
        self.handle.render()
    }

    pub(crate) fn scrape(&self) -> Scrape {
        Scrape::of(&self.render())
    }
}

/// The samples, and the type of each metric.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub types: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub(crate) struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Scrape {
    pub(crate) fn of(text: &str) -> Self {
        let (mut types, mut samples) = (BTreeMap::new(), Vec::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').expect("a name and a type");
                types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                samples.push(Sample::of(line));
            }
        }
        Self { types, samples }
    }

    /// The sum of all samples that have these labels, among others.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample, (label, value): &(&str, &str)| {
            sample.labels.get(*label).is_some_and(|own| own == value)
        };
        let matching: Vec<_> = self
            .samples
            .iter()
            .filter(|sample| sample.name == name && labels.iter().all(|label| has(sample, label)))
            .map(|sample| sample.value)
            .collect();
        assert!(!matching.is_empty(), "there is no {name} with {labels:?}");
        matching.iter().sum()
    }

    /// The values of a label.
    pub(crate) fn values(&self, label: &str) -> BTreeSet<&str> {
        self.samples.iter().filter_map(|sample| sample.labels.get(label)).map(String::as_str).collect()
    }
}

impl Sample {
    fn of(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').expect("the end of the labels");
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (label, value) = label.split_once('=').expect("a label and its value");
            (label.to_owned(), value.trim_matches('"').to_owned())
        });
        Self {
            name: name.to_owned(),
            labels: labels.collect(),
            value: value.parse().unwrap_or_else(|_| panic!("no number: {line}")),
        }
    }
}
