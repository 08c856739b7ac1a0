//! Records what happens to pods and the node as `v1.Event`s, in the background and with a bound.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use xebec_clock::Clock;

use crate::api::{Pod, Rest};

/// How many events may wait to be sent; more are dropped, as upstream does.
const QUEUE: usize = 1000;
/// How many different events are remembered for counting repetitions.
const REMEMBERED_MAX: usize = 4096;
/// A failed request is tried this often.
const ATTEMPTS: u32 = 4;

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// `Pod`, `Node`.
    pub kind: &'static str,
    /// Empty for a node.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid; for a node its name, as upstream does.
    pub uid: String,
    /// `spec.containers{web}`, or empty.
    pub field_path: String,
}

impl About {
    /// The pod itself.
    pub fn pod(pod: &Pod) -> Self {
        Self {
            kind: "Pod",
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            field_path: String::new(),
        }
    }

    /// One of its containers.
    pub fn container(pod: &Pod, container: &str) -> Self {
        let list = match () {
            () if pod.spec.init_containers.iter().any(|c| c.name == container) => "initContainers",
            () if pod.spec.is_ephemeral(container) => "ephemeralContainers",
            () => "containers",
        };
        Self { field_path: format!("spec.{list}{{{container}}}"), ..Self::pod(pod) }
    }

    /// The node.
    pub fn node(name: &str) -> Self {
        Self {
            kind: "Node",
            namespace: String::new(),
            name: name.to_owned(),
            uid: name.to_owned(),
            field_path: String::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    about: About,
    kind: &'static str,
    reason: String,
    message: String,
}

/// Takes events. Clones feed the same queue.
#[derive(Clone, Debug)]
pub struct Recorder(Option<mpsc::Sender<Entry>>);

impl Recorder {
    /// Records events as coming from the kubelet of `node`. The sender lives as long as a clone of the recorder.
    pub fn start(rest: Rest, node: &str, clock: Clock) -> Self {
        let (tx, rx) = mpsc::channel(QUEUE);
        let sender = Sender { rest, node: node.to_owned(), clock, seen: BTreeMap::new(), stamps: Stamps::default() };
        tokio::spawn(sender.run(rx));
        Self(Some(tx))
    }

    /// Records nothing.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// Something ordinary.
    pub fn normal(&self, about: About, reason: &str, message: impl Into<String>) {
        self.record(about, "Normal", reason, message.into());
    }

    /// Something that someone should look at.
    pub fn warning(&self, about: About, reason: &str, message: impl Into<String>) {
        self.record(about, "Warning", reason, message.into());
    }

    fn record(&self, about: About, kind: &'static str, reason: &str, mut message: String) {
        tracing::debug!(pod = %about.name, %reason, %message, "event");
        if let Some(queue) = &self.0 {
            // The API takes no more than 1024 bytes.
            if message.len() > 1024 {
                let cut = (0..=1024).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
                message.truncate(cut);
            }
            if queue.try_send(Entry { about, kind, reason: reason.to_owned(), message }).is_err() {
                tracing::debug!("an event was dropped: too many are waiting");
            }
        }
    }
}

struct Sender {
    rest: Rest,
    node: String,
    clock: Clock,
    stamps: Stamps,
    /// The object's name and how often it happened.
    seen: BTreeMap<Entry, (String, u32)>,
}

/// What names of events end in: they sort as the events happened, and that is how clients show them.
#[derive(Default)]
struct Stamps(i128);

impl Stamps {
    /// The time, later than the last.
    fn next(&mut self, clock: &Clock) -> i128 {
        self.0 = clock.now().as_nanosecond().max(self.0 + 1);
        self.0
    }
}

impl Sender {
    async fn run(mut self, mut queue: mpsc::Receiver<Entry>) {
        while let Some(entry) = queue.recv().await {
            let mut delay = Duration::from_millis(200);
            for _ in 0..ATTEMPTS {
                match self.send(&entry).await {
                    Ok(()) => break,
                    Err(error) if error.is_transient() => {
                        tokio::time::sleep(delay).await;
                        delay *= 4;
                    }
                    Err(error) => {
                        // The namespace may be on its way out: then nobody wants the event.
                        tracing::debug!(%error, reason = %entry.reason, "event not recorded");
                        break;
                    }
                }
            }
        }
    }

    async fn send(&mut self, entry: &Entry) -> Result<(), crate::api::ApiError> {
        let namespace = if entry.about.namespace.is_empty() { "default" } else { &entry.about.namespace };
        let now = self.clock.now_seconds().to_string();
        if let Some((name, count)) = self.seen.get_mut(entry) {
            let path = format!("/api/v1/namespaces/{namespace}/events/{name}");
            let patch = json!({ "count": *count + 1, "lastTimestamp": now });
            match self.rest.patch::<Value>(&path, &patch).await {
                Ok(_) => {
                    *count += 1;
                    return Ok(());
                }
                // It has expired: record it anew.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}.{:x}", entry.about.name, self.stamps.next(&self.clock));
        let mut involved = json!({
            "kind": entry.about.kind, "name": entry.about.name, "uid": entry.about.uid, "apiVersion": "v1",
        });
        if !entry.about.namespace.is_empty() {
            involved["namespace"] = json!(entry.about.namespace);
        }
        if !entry.about.field_path.is_empty() {
            involved["fieldPath"] = json!(entry.about.field_path);
        }
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": { "name": name, "namespace": namespace },
            "involvedObject": involved,
            "reason": entry.reason, "message": entry.message, "type": entry.kind,
            "source": { "component": "kubelet", "host": self.node },
            "reportingComponent": "kubelet", "reportingInstance": self.node,
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        self.rest.post::<Value>(&format!("/api/v1/namespaces/{namespace}/events"), &event).await?;
        if self.seen.len() >= REMEMBERED_MAX {
            self.seen.clear();
        }
        self.seen.insert(entry.clone(), (name, 1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_sort_as_events_happened() {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let mut stamps = Stamps::default();
        let mut names: Vec<String> = (0..100).map(|_| format!("pod.{:x}", stamps.next(&clock))).collect();
        tokio::time::advance(Duration::from_secs(1)).await;
        names.push(format!("pod.{:x}", stamps.next(&clock)));
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
}
