//! What is counted, under upstream's names, in Prometheus' text form.
//!
//! - `requests`: requests of clients; `admission`: what plugins and webhooks make of them; `process`: this process.

pub(crate) mod admission;
mod process;
pub(crate) mod requests;

use std::fmt::Write;
use std::time::Duration;

use xebec_metrics::Histograms;

use self::admission::Admissions;
use self::requests::Requests;

/// How long the store takes, in seconds: the ends of the histogram's buckets.
const STORE_BOUNDS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    /// Requests of clients.
    pub(crate) requests: Requests,
    /// What admission makes of them.
    pub(crate) admission: Admissions,
    store: Histograms<()>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Requests::default(),
            admission: Admissions::default(),
            store: Histograms::new("xebec_store_txn_duration_seconds", &STORE_BOUNDS),
        }
    }
}

/// How many objects there are of a kind.
#[derive(Debug)]
pub struct Objects {
    /// Its group.
    pub group: String,
    /// Its plural.
    pub plural: String,
    /// So many.
    pub count: usize,
}

impl Metrics {
    /// The store took this long for a transaction.
    pub fn stored(&self, took: Duration) {
        self.store.observe((), took);
    }

    /// The text form, with the number of objects of each kind.
    pub fn render(&self, objects: &[Objects]) -> String {
        let mut out = String::new();
        self.requests.render(&mut out);
        self.admission.render(&mut out);
        // The second is how it was called until 1.34.
        out.push_str("# TYPE apiserver_resource_objects gauge\n");
        for Objects { group, plural, count } in objects {
            let _ = writeln!(out, "apiserver_resource_objects{{group=\"{group}\",resource=\"{plural}\"}} {count}");
        }
        out.push_str("# TYPE apiserver_storage_objects gauge\n");
        for Objects { group, plural, count } in objects {
            let dot = if group.is_empty() { "" } else { "." };
            let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{plural}{dot}{group}\"}} {count}");
        }
        self.store.render(&mut out);
        process::render(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::default();
        metrics.stored(Duration::from_millis(3));
        metrics.stored(Duration::from_secs(9));
        let objects = |group: &str, plural: &str, count| Objects { group: group.into(), plural: plural.into(), count };
        let text = metrics.render(&[objects("", "pods", 2), objects("apps", "deployments", 1)]);
        for line in [
            "xebec_store_txn_duration_seconds_bucket{le=\"0.002\"} 0\n",
            "xebec_store_txn_duration_seconds_bucket{le=\"0.005\"} 1\n",
            "xebec_store_txn_duration_seconds_bucket{le=\"+Inf\"} 2\n",
            "xebec_store_txn_duration_seconds_sum 9.003\n",
            "apiserver_resource_objects{group=\"apps\",resource=\"deployments\"} 1\n",
            "apiserver_storage_objects{resource=\"deployments.apps\"} 1\n",
            "apiserver_storage_objects{resource=\"pods\"} 2\n",
            "process_open_fds ",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
