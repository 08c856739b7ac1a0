//! What a node's agent says at `/metrics/resource`, in Prometheus' text format.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// What has been counted of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Processor time since it began.
    pub cpu_ns: u64,
    /// Memory that it holds and that cannot be taken from it.
    pub memory_bytes: u64,
    /// When it was read.
    pub at: Timestamp,
}

/// One answer of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scrape {
    /// The node as a whole.
    pub node: Option<Reading>,
    /// Containers, by namespace, pod and name.
    pub containers: BTreeMap<(String, String, String), Reading>,
}

impl Scrape {
    /// When it was made.
    pub fn at(&self) -> Option<Timestamp> {
        self.node.iter().chain(self.containers.values()).map(|reading| reading.at).max()
    }
}

/// Half of a reading.
#[derive(Default)]
struct Parts {
    cpu: Option<(f64, Timestamp)>,
    memory: Option<f64>,
}

impl Parts {
    fn whole(self) -> Option<Reading> {
        let ((cpu, at), memory) = (self.cpu?, self.memory?);
        Some(Reading { cpu_ns: whole(cpu * 1e9), memory_bytes: whole(memory), at })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped; the cast saturates")]
fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

/// Reads an answer; lines that are not understood are left out.
pub(super) fn parse(text: &str) -> Scrape {
    let mut node = Parts::default();
    let mut containers: BTreeMap<(String, String, String), Parts> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value, at)) = sample(line) else { continue };
        let label = |key: &str| labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default();
        let container = || (label("namespace"), label("pod"), label("container"));
        match name {
            "node_cpu_usage_seconds_total" => node.cpu = at.map(|at| (value, at)),
            "node_memory_working_set_bytes" => node.memory = Some(value),
            "container_cpu_usage_seconds_total" => {
                containers.entry(container()).or_default().cpu = at.map(|at| (value, at))
            }
            "container_memory_working_set_bytes" => containers.entry(container()).or_default().memory = Some(value),
            _ => {}
        }
    }
    let containers = containers.into_iter().filter_map(|(key, parts)| Some((key, parts.whole()?))).collect();
    Scrape { node: node.whole(), containers }
}

type Labels = Vec<(String, String)>;

/// `name{a="b"} 1.5 1700000000000`.
fn sample(line: &str) -> Option<(&str, Labels, f64, Option<Timestamp>)> {
    let (name, labels, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = read_labels(rest)?;
            (name, labels, rest)
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            (name, Vec::new(), rest)
        }
    };
    let mut fields = rest.split_whitespace();
    let value: f64 = fields.next()?.parse().ok()?;
    let at = fields.next().and_then(|ms| Timestamp::from_millisecond(ms.parse().ok()?).ok());
    value.is_finite().then_some((name, labels, value, at))
}

/// `a="b",c="d"}`: the labels, and what follows.
fn read_labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((key.to_owned(), value));
        text = &rest[end + 1..];
    }
}
