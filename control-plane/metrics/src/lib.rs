//! Counters and histograms of one name, by their labels, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

use parking_lot::Mutex;

/// At most so many of one name; what would be more is not counted. Labels name kinds and webhooks, which clients make.
const MOST: usize = 16_384;

/// What tells apart what is counted under one name.
pub trait Labels: Ord {
    /// Writes them, in the order of their names: `code="200",verb="GET"`.
    fn write(&self, out: &mut String);
}

impl Labels for () {
    fn write(&self, _: &mut String) {}
}

/// With a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WithCode<L>(pub u16, pub L);

impl<L: Labels> Labels for WithCode<L> {
    fn write(&self, out: &mut String) {
        label(out, "code", &self.0.to_string());
        self.1.write(out);
    }
}

/// Writes one label, with a comma before it if it is not the first. Values are names and codes, for the most part.
pub fn label(out: &mut String, name: &str, value: &str) {
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
pub struct Counters<L> {
    name: &'static str,
    kind: &'static str,
    series: Mutex<BTreeMap<L, i64>>,
}

impl<L: Labels> Counters<L> {
    /// Numbers that only go up.
    pub fn new(name: &'static str) -> Self {
        Self { name, kind: "counter", series: Mutex::default() }
    }

    /// Numbers that go up and down.
    pub fn gauges(name: &'static str) -> Self {
        Self { kind: "gauge", ..Self::new(name) }
    }

    /// Adds to one of them.
    pub fn add(&self, labels: L, number: i64) {
        let mut series = self.series.lock();
        if series.len() < MOST || series.contains_key(&labels) {
            *series.entry(labels).or_default() += number;
        }
    }

    /// Writes them.
    pub fn render(&self, out: &mut String) {
        numbers(out, self.name, self.kind, self.series.lock().iter());
    }
}

/// How long things took.
#[derive(Debug)]
pub struct Histograms<L> {
    name: &'static str,
    /// The ends of the buckets, in seconds.
    bounds: &'static [f64],
    series: Mutex<BTreeMap<L, Histogram>>,
}

/// How often something took how long.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// How many fell into each bucket, and into none.
    buckets: Vec<u64>,
    sum: Duration,
}

impl Histogram {
    /// Counts one. `bounds` are the ends of the buckets in seconds, always the same for one histogram.
    pub fn observe(&mut self, bounds: &[f64], took: Duration) {
        self.buckets.resize(bounds.len() + 1, 0);
        let seconds = took.as_secs_f64();
        self.buckets[bounds.partition_point(|bound| *bound < seconds)] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    fn render<L: Labels>(&self, out: &mut String, name: &str, labels: &L, bounds: &[f64]) {
        let [bucket, sum, count] = ["bucket", "sum", "count"].map(|part| format!("{name}_{part}"));
        let mut below = 0;
        for (number, bound) in self.buckets.iter().chain(std::iter::repeat(&0)).zip(bounds) {
            below += number;
            head(out, &bucket, labels, Some(&bound.to_string()));
            let _ = writeln!(out, "{below}");
        }
        let all: u64 = self.buckets.iter().sum();
        head(out, &bucket, labels, Some("+Inf"));
        let _ = writeln!(out, "{all}");
        head(out, &sum, labels, None);
        let _ = writeln!(out, "{}", self.sum.as_secs_f64());
        head(out, &count, labels, None);
        let _ = writeln!(out, "{all}");
    }
}

/// Writes what was counted elsewhere, as counters (`counter`) or gauges (`gauge`).
pub fn numbers<'a, L: Labels + 'a, N: Display>(
    out: &mut String,
    name: &str,
    kind: &str,
    series: impl IntoIterator<Item = (&'a L, N)>,
) {
    let _ = writeln!(out, "# TYPE {name} {kind}");
    for (labels, number) in series {
        head(out, name, labels, None);
        let _ = writeln!(out, "{number}");
    }
}

/// Writes histograms that were filled elsewhere.
pub fn histograms<'a, L: Labels + 'a>(
    out: &mut String,
    name: &str,
    bounds: &[f64],
    series: impl IntoIterator<Item = (&'a L, &'a Histogram)>,
) {
    let _ = writeln!(out, "# TYPE {name} histogram");
    for (labels, histogram) in series {
        histogram.render(out, name, labels, bounds);
    }
}

impl<L: Labels> Histograms<L> {
    /// Of this name; `bounds` are the ends of the buckets, in seconds.
    pub fn new(name: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, bounds, series: Mutex::default() }
    }

    /// Counts one.
    pub fn observe(&self, labels: L, took: Duration) {
        self.observe_all([(labels, took)]);
    }

    /// Counts several at one moment.
    pub fn observe_all(&self, all: impl IntoIterator<Item = (L, Duration)>) {
        let mut series = self.series.lock();
        for (labels, took) in all {
            if series.len() >= MOST && !series.contains_key(&labels) {
                continue;
            }
            series.entry(labels).or_default().observe(self.bounds, took);
        }
    }

    /// Writes them.
    pub fn render(&self, out: &mut String) {
        histograms(out, self.name, self.bounds, self.series.lock().iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Labels for &str {
        fn write(&self, out: &mut String) {
            label(out, "name", self);
        }
    }

    #[test]
    fn what_is_counted_is_written_by_labels() {
        let (counters, took) = (Counters::new("seen_total"), Histograms::new("took_seconds", &[0.5, 2.0]));
        counters.add("a\"b", 2);
        took.observe("x", Duration::from_secs(1));
        let mut out = String::new();
        counters.render(&mut out);
        took.render(&mut out);
        numbers(&mut out, "depth", "gauge", [(&"q", 1.5)]);
        histograms(&mut out, "empty_seconds", &[1.0], [(&"x", &Histogram::default())]);
        let lines = [
            "# TYPE seen_total counter",
            "seen_total{name=\"a\\\"b\"} 2",
            "# TYPE took_seconds histogram",
            "took_seconds_bucket{name=\"x\",le=\"0.5\"} 0",
            "took_seconds_bucket{name=\"x\",le=\"2\"} 1",
            "took_seconds_bucket{name=\"x\",le=\"+Inf\"} 1",
            "took_seconds_sum{name=\"x\"} 1",
            "took_seconds_count{name=\"x\"} 1",
            "# TYPE depth gauge",
            "depth{name=\"q\"} 1.5",
            "# TYPE empty_seconds histogram",
            "empty_seconds_bucket{name=\"x\",le=\"1\"} 0",
            "empty_seconds_bucket{name=\"x\",le=\"+Inf\"} 0",
            "empty_seconds_sum{name=\"x\"} 0",
            "empty_seconds_count{name=\"x\"} 0",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }
}
