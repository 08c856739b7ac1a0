//! Counters and histograms of one name, by their labels.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use parking_lot::Mutex;

/// At most so many of one name; what would be more is not counted. Labels name kinds and webhooks, which clients make.
const MOST: usize = 16_384;

/// What tells apart what is counted under one name.
pub(crate) trait Labels: Ord {
    /// Writes them, in the order of their names: `code="200",verb="GET"`.
    fn write(&self, out: &mut String);
}

impl Labels for () {
    fn write(&self, _: &mut String) {}
}

/// Writes one label, with a comma before it if it is not the first. Values are names and codes, for the most part.
pub(super) fn label(out: &mut String, name: &str, value: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    let _ = write!(out, "{name}=\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The name, and the labels in braces if there are any.
fn head(out: &mut String, name: &str, labels: &impl Labels, bound: Option<&str>) {
    out.push_str(name);
    out.push('{');
    labels.write(out);
    if let Some(bound) = bound {
        label(out, "le", bound);
    }
    if out.ends_with('{') {
        out.pop();
    } else {
        out.push('}');
    }
    out.push(' ');
}

/// Numbers that go up, or up and down.
#[derive(Debug)]
pub(crate) struct Counters<L> {
    name: &'static str,
    kind: &'static str,
    series: Mutex<BTreeMap<L, i64>>,
}

impl<L: Labels> Counters<L> {
    /// Numbers that only go up.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, kind: "counter", series: Mutex::default() }
    }

    /// Numbers that go up and down.
    pub(crate) fn gauges(name: &'static str) -> Self {
        Self { kind: "gauge", ..Self::new(name) }
    }

    pub(crate) fn add(&self, labels: L, number: i64) {
        let mut series = self.series.lock();
        if series.len() < MOST || series.contains_key(&labels) {
            *series.entry(labels).or_default() += number;
        }
    }

    pub(crate) fn render(&self, out: &mut String) {
        let _ = writeln!(out, "# TYPE {} {}", self.name, self.kind);
        for (labels, number) in &*self.series.lock() {
            head(out, self.name, labels, None);
            let _ = writeln!(out, "{number}");
        }
    }
}

/// How long things took.
#[derive(Debug)]
pub(crate) struct Histograms<L> {
    name: &'static str,
    /// The ends of the buckets, in seconds.
    bounds: &'static [f64],
    series: Mutex<BTreeMap<L, Histogram>>,
}

#[derive(Debug, Default)]
struct Histogram {
    /// How many fell into each bucket, and into none.
    buckets: Vec<u64>,
    sum: Duration,
}

impl<L: Labels> Histograms<L> {
    pub(crate) fn new(name: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, bounds, series: Mutex::default() }
    }

    pub(crate) fn observe(&self, labels: L, took: Duration) {
        self.observe_all([(labels, took)]);
    }

    pub(crate) fn observe_all(&self, all: impl IntoIterator<Item = (L, Duration)>) {
        let mut series = self.series.lock();
        for (labels, took) in all {
            if series.len() >= MOST && !series.contains_key(&labels) {
                continue;
            }
            let histogram = series.entry(labels).or_default();
            histogram.buckets.resize(self.bounds.len() + 1, 0);
            let seconds = took.as_secs_f64();
            let bucket = self.bounds.partition_point(|bound| *bound < seconds);
            histogram.buckets[bucket] += 1;
            histogram.sum = histogram.sum.saturating_add(took);
        }
    }

    pub(crate) fn render(&self, out: &mut String) {
        let _ = writeln!(out, "# TYPE {} histogram", self.name);
        let [bucket, sum, count] = ["bucket", "sum", "count"].map(|part| format!("{}_{part}", self.name));
        for (labels, histogram) in &*self.series.lock() {
            let mut below = 0;
            for (number, bound) in histogram.buckets.iter().zip(self.bounds) {
                below += number;
                head(out, &bucket, labels, Some(&bound.to_string()));
                let _ = writeln!(out, "{below}");
            }
            let all: u64 = histogram.buckets.iter().sum();
            head(out, &bucket, labels, Some("+Inf"));
            let _ = writeln!(out, "{all}");
            head(out, &sum, labels, None);
            let _ = writeln!(out, "{}", histogram.sum.as_secs_f64());
            head(out, &count, labels, None);
            let _ = writeln!(out, "{all}");
        }
    }
}
