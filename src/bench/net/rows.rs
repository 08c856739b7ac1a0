//! What was measured, compared.

use serde::Serialize;

use super::Way;
use super::load::{Kind, Measured};
use crate::bench::figure::{Figure, percentile};

/// What one round found on one way.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Measures {
    /// New connections a second.
    pub connections_per_second: f64,
    /// A connection and its first answer, in microseconds.
    pub connect_p50_us: f64,
    /// The same, of the slowest hundredth.
    pub connect_p99_us: f64,
    /// An answer on a kept connection.
    pub request_p50_us: f64,
    /// The same, of the slowest hundredth.
    pub request_p99_us: f64,
    /// Processor time of client, server and all between them for a request.
    pub request_cpu_us: f64,
    /// Throughput of one connection, in Gbit/s.
    pub gbit_per_second: f64,
    /// Datagrams of 64 bytes that arrive in a second.
    pub datagrams_per_second: f64,
}

/// A measure: its name, what is good, and where it is.
pub struct Measure {
    /// As files and tables name it.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Its value.
    pub of: fn(&Measures) -> f64,
}

/// Those that there are pictures of.
pub const PICTURED: [Measure; 6] = [
    Measure {
        name: "connections",
        title: "New connections a second (more is better)",
        of: |m| m.connections_per_second,
    },
    Measure { name: "throughput", title: "Gbit/s over one connection (more is better)", of: |m| m.gbit_per_second },
    Measure {
        name: "request-p50",
        title: "A request, median, in microseconds (less is better)",
        of: |m| m.request_p50_us,
    },
    Measure {
        name: "request-p99",
        title: "A request, 99th percentile, in microseconds (less is better)",
        of: |m| m.request_p99_us,
    },
    Measure {
        name: "request-cpu",
        title: "Processor time for a request, in microseconds (less is better)",
        of: |m| m.request_cpu_us,
    },
    Measure { name: "datagrams", title: "Datagrams a second (more is better)", of: |m| m.datagrams_per_second },
];

impl Measures {
    /// Takes in what one load found.
    pub fn add(&mut self, kind: Kind, measured: &Measured) {
        match kind {
            Kind::Connect => {
                self.connections_per_second = measured.per_second;
                self.connect_p50_us = measured.p50_us;
                self.connect_p99_us = measured.p99_us;
            }
            Kind::Request => {
                self.request_p50_us = measured.p50_us;
                self.request_p99_us = measured.p99_us;
                self.request_cpu_us = measured.cpu_us;
            }
            Kind::Stream => self.gbit_per_second = measured.per_second * 8e-9,
            Kind::Datagrams => self.datagrams_per_second = measured.per_second,
        }
    }

    /// The median of each.
    fn median(rounds: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| percentile(&mut rounds.iter().map(field).collect::<Vec<_>>(), 50);
        Self {
            connections_per_second: of(|m| m.connections_per_second),
            connect_p50_us: of(|m| m.connect_p50_us),
            connect_p99_us: of(|m| m.connect_p99_us),
            request_p50_us: of(|m| m.request_p50_us),
            request_p99_us: of(|m| m.request_p99_us),
            request_cpu_us: of(|m| m.request_cpu_us),
            gbit_per_second: of(|m| m.gbit_per_second),
            datagrams_per_second: of(|m| m.datagrams_per_second),
        }
    }
}

/// What was measured on one way.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How many services there were.
    pub services: usize,
    /// What leads to the server.
    pub path: &'static str,
    /// The way.
    pub way: Way,
    /// Medians over the rounds.
    #[serde(flatten)]
    pub median: Measures,
    /// Each round.
    #[serde(skip)]
    rounds: Vec<Measures>,
}

impl Row {
    /// Of some rounds.
    pub fn new(services: usize, path: &'static str, way: Way, rounds: Vec<Measures>) -> Self {
        Self { services, path, way, median: Measures::median(&rounds), rounds }
    }

    /// The median of the rounds' ratios to `other`: both were measured right after each other, so that what disturbed one
    /// disturbed the other.
    pub fn ratio(&self, other: &Self, of: fn(&Measures) -> f64) -> f64 {
        let ratios = self.rounds.iter().zip(&other.rounds).map(|(ours, theirs)| of(ours) / of(theirs));
        percentile(&mut ratios.collect::<Vec<_>>(), 50)
    }
}

/// A table for people.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "services  path                way        conn/s  conn p50  conn p99   req p50   req p99   req CPU   Gbit/s   datagrams/s\n",
    );
    for row in rows {
        let m = &row.median;
        text += &format!(
            "{:>8}  {:18}  {:9}  {:>6.0}  {:>5.0} us  {:>5.0} us  {:>4.0} us  {:>5.0} us  {:>4.1} us  {:>7.2}  {:>12.0}\n",
            row.services,
            row.path,
            row.way.name(),
            m.connections_per_second,
            m.connect_p50_us,
            m.connect_p99_us,
            m.request_p50_us,
            m.request_p99_us,
            m.request_cpu_us,
            m.gbit_per_second,
            m.datagrams_per_second,
        );
    }
    text + "\n"
}

/// The ratios that must hold, worst case over the numbers of services.
pub fn figures(rows: &[Row]) -> Vec<Figure> {
    let find = |services: usize, path: &str, way: Way| {
        rows.iter().find(|r| r.services == services && r.path == path && r.way == way)
    };
    let counts_of = |path: &str| -> Vec<usize> {
        rows.iter().filter(|r| r.path == path && r.way == Way::Xebec).map(|r| r.services).collect()
    };
    let ratios = |path: &str, against: Way, of: fn(&Measures) -> f64| -> Vec<f64> {
        let ratio = |n: usize| Some(find(n, path, Way::Xebec)?.ratio(find(n, path, against)?, of));
        counts_of(path).into_iter().filter_map(ratio).collect()
    };
    let samples = rows.first().map_or(0, |r| r.rounds.len());
    let mut figures = Vec::new();
    let mut add = |name, values: Vec<f64>, bound: f64, at_least: bool| {
        if values.is_empty() {
            return;
        }
        figures.push(if at_least {
            Figure::at_least(name, "", values.into_iter().fold(f64::INFINITY, f64::min), bound, samples)
        } else {
            Figure::at_most(name, "", values.into_iter().fold(0.0, f64::max), bound, samples)
        });
    };
    let connections: fn(&Measures) -> f64 = |m| m.connections_per_second;
    add(
        "ClusterIP: throughput against the bare path",
        ratios("ClusterIP", Way::Bare, |m| m.gbit_per_second),
        0.99,
        true,
    );
    add("ClusterIP: connections against the bare path", ratios("ClusterIP", Way::Bare, connections), 0.97, true);
    add(
        "ClusterIP: request p99 against the bare path",
        ratios("ClusterIP", Way::Bare, |m| m.request_p99_us),
        1.03,
        false,
    );
    add("NodePort: connections against the bare path", ratios("NodePort", Way::Bare, connections), 0.85, true);
    let iptables = ratios("NodePort", Way::Iptables, connections);
    add("NodePort: connections against iptables, fewest services", iptables.into_iter().take(1).collect(), 1.5, true);
    // Against the bare path at the same time, so that the machine's mood does not count.
    let grown = |path: &str, of: fn(&Measures) -> f64| {
        let all = ratios(path, Way::Bare, of);
        all.split_first().filter(|(_, more)| !more.is_empty()).map(|(few, more)| more.iter().map(|r| r / few).collect())
    };
    let names = [
        ("ClusterIP", "ClusterIP: connections, more services against fewest"),
        ("NodePort", "NodePort: connections, more services against fewest"),
        ("LoadBalancer", "LoadBalancer: connections, more services against fewest"),
    ];
    for (path, name) in names {
        add(name, grown(path, connections).unwrap_or_default(), 0.98, true);
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(services: usize, way: Way, connections: &[f64]) -> Row {
        let round = |c: &f64| Measures {
            connections_per_second: *c,
            gbit_per_second: 1.0,
            request_p99_us: 1.0,
            ..Measures::default()
        };
        Row::new(services, "ClusterIP", way, connections.iter().map(round).collect())
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // The machine was busy in the second round, and half asleep with many services.
        let few = [row(1, Way::Bare, &[100.0, 50.0, 100.0]), row(1, Way::Xebec, &[98.0, 49.0, 98.0])];
        let many = [row(1_000, Way::Bare, &[10.0, 10.0, 20.0]), row(1_000, Way::Xebec, &[9.8, 9.8, 19.6])];
        assert!((few[1].ratio(&few[0], |m| m.connections_per_second) - 0.98).abs() < 1e-9);
        let figures = figures(&[few, many].concat());
        let value = |name: &str| figures.iter().find(|f| f.name.starts_with(name)).map(|f| f.value);
        assert!(value("ClusterIP: connections, more").is_some_and(|v| (v - 1.0).abs() < 1e-9), "{figures:?}");
        assert!(value("ClusterIP: connections against").is_some_and(|v| (v - 0.98).abs() < 1e-9));
        assert_eq!(value("NodePort"), None);
    }
}
