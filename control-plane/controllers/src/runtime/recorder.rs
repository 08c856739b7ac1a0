//! Events: like ones are counted up, many similar ones are combined, and a flood is cut off, as upstream's
//! `client-go/tools/record` does it.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use xebec_clock::Clock;

use super::api::{Api, PatchKind};
use super::kind;
use super::meta::seconds;
use super::plan::Note;

/// Events waiting to be written; more are dropped.
const QUEUE_LIMIT: usize = 1000;
/// Events remembered, to count up.
const MEMORY_LIMIT: usize = 4096;
/// So many similar events within the interval are combined into one.
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_INTERVAL: SignedDuration = SignedDuration::from_mins(10);
/// An object may have so many events at once, and one more every so many seconds.
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// Where events go.
#[derive(Clone, Debug)]
pub struct Recorder {
    component: &'static str,
    sender: mpsc::Sender<(&'static str, Note)>,
}

impl Recorder {
    /// The same events, from another component.
    pub fn of(&self, component: &'static str) -> Self {
        Self { component, sender: self.sender.clone() }
    }

    /// Writes an event in the background. When too many wait, it is dropped.
    pub fn record(&self, note: Note) {
        if let Err(error) = self.sender.try_send((self.component, note)) {
            tracing::debug!(%error, "an event was dropped");
        }
    }
}

/// A recorder, and the task that writes what it is given.
pub fn recorder(
    component: &'static str,
    api: Api,
    clock: Clock,
    cancel: CancellationToken,
) -> (Recorder, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(QUEUE_LIMIT);
    (Recorder { component, sender }, write_events(receiver, api, clock, cancel))
}

async fn write_events(
    mut receiver: mpsc::Receiver<(&'static str, Note)>,
    api: Api,
    clock: Clock,
    cancel: CancellationToken,
) {
    let mut correlator = Correlator::default();
    loop {
        let (component, note) = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            received = receiver.recv() => match received {
                Some(received) => received,
                None => return,
            },
        };
        let Some(record) = correlator.take(component, &note, clock.now()) else { continue };
        if let Err(error) = write(&api, &record).await {
            tracing::debug!(%error, reason = note.reason, "an event could not be written");
        }
    }
}

async fn write(api: &Api, record: &Record) -> Result<(), super::api::ApiError> {
    if record.count > 1 {
        let patch = json!({"count": record.count, "message": record.body["message"],
            "lastTimestamp": record.body["lastTimestamp"]});
        match api.patch(&kind::EVENT, &record.namespace, &record.name, "", PatchKind::Merge, &patch).await {
            // Expired meanwhile: written anew.
            Err(error) if error.is_not_found() => {}
            other => return other.map(drop),
        }
    }
    match api.create(&kind::EVENT, &record.namespace, &record.body).await {
        // The namespace is going away, or the very event is there: no loss.
        Err(error) if error.is_namespace_terminating() || error.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

/// An event to write: created if `count` is 1, else brought up to date.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The event's namespace.
    pub namespace: String,
    /// The event's name.
    pub name: String,
    /// How often it happened.
    pub count: u32,
    /// The whole event.
    pub body: Value,
}

/// Decides what becomes of an event; pure.
#[derive(Debug, Default)]
pub struct Correlator {
    known: IndexMap<String, Known>,
    similar: BTreeMap<String, Similar>,
    budget: BTreeMap<String, (f64, Timestamp)>,
    /// The number in the last event's name: names differ even if time stands still.
    stamp: i128,
}

#[derive(Debug)]
struct Known {
    name: String,
    first: Timestamp,
    count: u32,
}

#[derive(Debug)]
struct Similar {
    messages: std::collections::BTreeSet<String>,
    last: Timestamp,
}

impl Correlator {
    /// The event to write, or `None` if the object has had too many.
    pub fn take(&mut self, component: &str, note: &Note, now: Timestamp) -> Option<Record> {
        let about = &note.regarding;
        let object = format!("{component}|{}|{}|{}|{}", about.kind, about.namespace, about.name, about.uid);
        if !self.allow(&object, now) {
            return None;
        }
        let kind = if note.warning { "Warning" } else { "Normal" };
        let group = format!("{object}|{}|{kind}|{}", about.field_path, note.reason);
        let combined = self.combine(&group, &note.message, now);
        let (identity, message) = if combined {
            (group, format!("(combined from similar events): {}", note.message))
        } else {
            (format!("{group}|{}", note.message), note.message.clone())
        };
        if self.known.len() >= MEMORY_LIMIT {
            self.known.shift_remove_index(0);
        }
        let stamp = now.as_nanosecond().max(self.stamp + 1);
        self.stamp = stamp;
        let known = self.known.entry(identity).or_insert_with(|| Known {
            name: format!("{}.{stamp:x}", about.name),
            first: seconds(now),
            count: 0,
        });
        known.count += 1;
        let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
        let body = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": known.name, "namespace": namespace},
            "involvedObject": about,
            "reason": note.reason, "message": message, "type": kind,
            "source": {"component": component},
            "reportingComponent": component, "reportingInstance": "",
            "firstTimestamp": known.first, "lastTimestamp": seconds(now), "count": known.count,
            "eventTime": null,
        });
        Some(Record { namespace: namespace.to_owned(), name: known.name.clone(), count: known.count, body })
    }

    /// Takes one of the object's tokens.
    fn allow(&mut self, object: &str, now: Timestamp) -> bool {
        if self.budget.len() >= MEMORY_LIMIT {
            self.budget.retain(|_, (tokens, at)| *tokens + refill(*at, now) < BURST);
        }
        let (tokens, at) = self.budget.entry(object.to_owned()).or_insert((BURST, now));
        *tokens = (*tokens + refill(*at, now)).min(BURST);
        *at = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    /// Whether so many events of the group had different messages lately that this one is combined with them.
    fn combine(&mut self, group: &str, message: &str, now: Timestamp) -> bool {
        if self.similar.len() >= MEMORY_LIMIT {
            self.similar.retain(|_, s| now.duration_since(s.last) <= SIMILAR_INTERVAL);
        }
        let similar = self
            .similar
            .entry(group.to_owned())
            .or_insert_with(|| Similar { messages: std::collections::BTreeSet::new(), last: now });
        if now.duration_since(similar.last) > SIMILAR_INTERVAL {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.len() < SIMILAR_LIMIT {
            similar.messages.insert(message.to_owned());
        }
        similar.messages.len() >= SIMILAR_LIMIT
    }
}

fn refill(since: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(since).as_secs_f64().max(0.0) * REFILL_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::meta::ObjectReference;

    fn note(message: &str) -> Note {
        let regarding = ObjectReference { kind: "Pod".into(), name: "p".into(), ..ObjectReference::default() };
        Note::normal(regarding, "Pulled", message)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn like_events_are_counted() {
        let mut correlator = Correlator::default();
        let first = correlator.take("kubelet", &note("x"), at(0)).unwrap();
        let second = correlator.take("kubelet", &note("x"), at(5)).unwrap();
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!(first.name, second.name);
        assert_eq!(second.body["firstTimestamp"], first.body["firstTimestamp"]);
        assert_eq!(second.namespace, "default");
        assert_eq!(correlator.take("kubelet", &note("y"), at(5)).unwrap().count, 1);
    }

    #[test]
    fn similar_events_are_combined() {
        let mut correlator = Correlator::default();
        let records: Vec<Record> =
            (0..12).map(|i| correlator.take("c", &note(&format!("m{i}")), at(i)).unwrap()).collect();
        assert_eq!(records[8].count, 1);
        assert_eq!(records[11].count, 3);
        assert_eq!(records[11].body["message"], "(combined from similar events): m11");
    }

    #[test]
    fn a_flood_is_cut_off_and_recovers() {
        let mut correlator = Correlator::default();
        let written = (0..100).filter(|_| correlator.take("c", &note("x"), at(0)).is_some()).count();
        assert_eq!(written, 25);
        assert!(correlator.take("c", &note("x"), at(301)).is_some());
        assert!(correlator.take("c", &note("x"), at(302)).is_none());
    }
}
