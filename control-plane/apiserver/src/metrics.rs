//! Counters, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Upper ends of the latency histogram's buckets, in milliseconds.
const BUCKETS_MS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 250, 1000, 5000];

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    watchers: AtomicI64,
    store: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS_MS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Metrics {
    /// A request has been answered.
    pub fn request(&self, verb: &'static str, code: u16) {
        *self.requests.lock().entry((verb, code)).or_default() += 1;
    }

    /// A watch begins; it is over when the answer is dropped.
    pub fn watcher(self: &Metrics) -> i64 {
        self.watchers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A watch is over.
    pub fn watcher_gone(&self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// The store took this long for a transaction.
    pub fn stored(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.store.count.fetch_add(1, Ordering::Relaxed);
        self.store.sum_us.fetch_add(micros, Ordering::Relaxed);
        if let Some(bucket) = BUCKETS_MS.iter().position(|ms| micros <= ms * 1000) {
            self.store.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The text form, with the number of objects by resource.
    pub fn render(&self, objects: &[(String, usize)]) -> String {
        let mut out = String::new();
        out.push_str("# TYPE apiserver_request_total counter\n");
        for ((verb, code), count) in &*self.requests.lock() {
            let verb = verb.to_uppercase();
            let _ = writeln!(out, "apiserver_request_total{{verb=\"{verb}\",code=\"{code}\"}} {count}");
        }
        out.push_str("# TYPE apiserver_longrunning_requests gauge\n");
        let watchers = self.watchers.load(Ordering::Relaxed);
        let _ = writeln!(out, "apiserver_longrunning_requests{{verb=\"WATCH\"}} {watchers}");
        out.push_str("# TYPE apiserver_resource_objects gauge\n");
        for (resource, count) in objects {
            let _ = writeln!(out, "apiserver_resource_objects{{resource=\"{resource}\"}} {count}");
        }
        self.store.render(&mut out);
        out
    }
}

impl Histogram {
    fn render(&self, out: &mut String) {
        const NAME: &str = "xebec_store_txn_duration_seconds";
        let _ = writeln!(out, "# TYPE {NAME} histogram");
        let mut below = 0;
        for (bucket, ms) in self.buckets.iter().zip(BUCKETS_MS) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{NAME}_bucket{{le=\"{}\"}} {below}", Duration::from_millis(ms).as_secs_f64());
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(out, "{NAME}_bucket{{le=\"+Inf\"}} {count}\n{NAME}_sum {sum}\n{NAME}_count {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_rendered() {
        let metrics = Metrics::default();
        metrics.request("get", 200);
        metrics.request("get", 200);
        metrics.stored(Duration::from_millis(3));
        let text = metrics.render(&[("pods".into(), 2)]);
        assert!(text.contains("apiserver_request_total{verb=\"GET\",code=\"200\"} 2"));
        assert!(text.contains("xebec_store_txn_duration_seconds_bucket{le=\"0.005\"} 1"));
        assert!(text.contains("apiserver_resource_objects{resource=\"pods\"} 2"));
    }
}
