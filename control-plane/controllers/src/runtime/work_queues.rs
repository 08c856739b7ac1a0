//! What there is to tell of the controllers' queues, under upstream's names (client-go `workqueue` metrics).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use xebec_metrics::{Labels, histograms, label, numbers};

use super::Keys;
use super::queue::{BOUNDS, Look};

/// The queues of the controllers that run, by the controllers' names.
#[derive(Debug, Default)]
pub struct WorkQueues(Mutex<Vec<(Name, Arc<Keys>)>>);

/// A controller's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(&'static str);

impl Labels for Name {
    fn write(&self, out: &mut String) {
        label(out, "name", self.0);
    }
}

impl WorkQueues {
    /// Forgets those of an earlier run.
    pub fn clear(&self) {
        self.0.lock().clear();
    }

    /// One more.
    pub fn add(&self, controller: &'static str, queue: &Arc<Keys>) {
        self.0.lock().push((Name(controller), queue.clone()));
    }

    /// Writes what there is to tell, in Prometheus' text form.
    pub fn render(&self, out: &mut String) {
        let looks: Vec<(Name, Look)> = self.0.lock().iter().map(|(name, queue)| (*name, queue.look())).collect();
        let mut each = |name: &str, kind: &str, of: fn(&Look) -> f64| {
            numbers(out, name, kind, looks.iter().map(|(name, look)| (name, of(look))));
        };
        each("workqueue_adds_total", "counter", |look| look.counts.adds as f64);
        each("workqueue_depth", "gauge", |look| look.depth as f64);
        each("workqueue_longest_running_processor_seconds", "gauge", |look| {
            look.working.iter().max().map_or(0.0, Duration::as_secs_f64)
        });
        each("workqueue_retries_total", "counter", |look| look.counts.retries as f64);
        each("workqueue_unfinished_work_seconds", "gauge", |look| look.working.iter().sum::<Duration>().as_secs_f64());
        let waited = looks.iter().map(|(name, look)| (name, &look.counts.waited));
        histograms(out, "workqueue_queue_duration_seconds", &BOUNDS, waited);
        let worked = looks.iter().map(|(name, look)| (name, &look.counts.worked));
        histograms(out, "workqueue_work_duration_seconds", &BOUNDS, worked);
    }
}

#[cfg(test)]
mod tests {
    use super::super::meta::Key;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_queue_tells_what_waits_and_how_long() {
        let (queues, keys) = (WorkQueues::default(), Arc::<Keys>::default());
        queues.add("deployment", &keys);
        let [first, second] = ["a", "b"].map(|name| Key::new("default", name));
        keys.add(first.clone());
        keys.add(first.clone());
        keys.add(second);
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!(keys.next().await, first);
        tokio::time::advance(Duration::from_secs(3)).await;
        let text = |queues: &WorkQueues| {
            let mut out = String::new();
            queues.render(&mut out);
            out
        };
        let seen = text(&queues);
        for line in [
            "workqueue_adds_total{name=\"deployment\"} 2\n",
            "workqueue_depth{name=\"deployment\"} 1\n",
            "workqueue_longest_running_processor_seconds{name=\"deployment\"} 3\n",
            "workqueue_unfinished_work_seconds{name=\"deployment\"} 3\n",
            "workqueue_queue_duration_seconds_bucket{name=\"deployment\",le=\"0.01\"} 0\n",
            "workqueue_queue_duration_seconds_bucket{name=\"deployment\",le=\"0.1\"} 1\n",
            "workqueue_work_duration_seconds_count{name=\"deployment\"} 0\n",
        ] {
            assert!(seen.contains(line), "{line}: {seen}");
        }
        keys.retry(&first);
        keys.done(&first);
        let seen = text(&queues);
        for line in [
            "workqueue_retries_total{name=\"deployment\"} 1\n",
            "workqueue_unfinished_work_seconds{name=\"deployment\"} 0\n",
            "workqueue_work_duration_seconds_bucket{name=\"deployment\",le=\"1\"} 0\n",
            "workqueue_work_duration_seconds_bucket{name=\"deployment\",le=\"10\"} 1\n",
        ] {
            assert!(seen.contains(line), "{line}: {seen}");
        }
        queues.clear();
        assert!(!text(&queues).contains("deployment"));
    }
}
