//! `metrics.k8s.io`: what nodes and pods use, for `kubectl top` and autoscaling, with nothing installed.
//!
//! Every node's agent is asked for what its cgroups have counted (`/metrics/resource`, as the kubelet has it); of two
//! answers the difference is what was used in between. Where an APIService names another server for the group (a
//! metrics-server that somebody has installed), that one answers instead.

mod scrape;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use xebec_schema::columns::NAME;
use xebec_schema::quantity::{Format, Quantity};
use xebec_schema::resource::Column;
use xebec_schema::status::Status;

use crate::computed::{ComputedApi, ComputedKind, Page, Selection, openapi};
use crate::json::{decode, list, text};
use crate::reader::Reader;
use scrape::{Reading, Scrape};

/// The group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";

/// How often nodes are asked (metrics-server's `--metric-resolution`).
const PERIOD: Duration = Duration::from_secs(15);
/// The first time after the first.
const SECOND: Duration = Duration::from_secs(5);
/// A node that has not answered for so long has no metrics.
const STALE: SignedDuration = SignedDuration::from_secs(60);
/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Nodes that are asked at a time.
const CONCURRENCY: usize = 32;

const KINDS: &[ComputedKind] = &[
    kind("nodes", "NodeMetrics", false, &[NAME, NODE_CPU, NODE_MEMORY, WINDOW], node_schema),
    kind("pods", "PodMetrics", true, &[NAME, POD_CPU, POD_MEMORY, WINDOW], pod_schema),
];

const fn kind(
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    columns: &'static [Column],
    schema: fn() -> Value,
) -> ComputedKind {
    ComputedKind { plural, kind, short_names: &[], namespaced, watched: false, columns, fields: |_| Vec::new(), schema }
}

fn usage_schema() -> Value {
    let quantity = openapi::text("A quantity.");
    json!({"type": "object", "description": "What is used, by resource: cpu and memory.", "additionalProperties": quantity})
}

/// A schema with the time that the values are of.
fn measured(description: &str, mut properties: Value) -> Value {
    properties["timestamp"] = openapi::text("When the window ended in which the values were measured.");
    properties["window"] = openapi::text("How long that window was.");
    openapi::object(description, &properties)
}

fn node_schema() -> Value {
    measured("What a node uses.", json!({"usage": usage_schema()}))
}

fn pod_schema() -> Value {
    let container = json!({"name": openapi::text("The container's name."), "usage": usage_schema()});
    let container = openapi::object("What a container uses.", &container);
    let containers = openapi::list("What the pod's containers use.", &container);
    measured("What a pod's containers use.", json!({"containers": containers}))
}

const WINDOW: Column = column("Window", |object, _| object["window"].clone());
const NODE_CPU: Column = column("cpu", |object, _| object["usage"]["cpu"].clone());
const NODE_MEMORY: Column = column("memory", |object, _| object["usage"]["memory"].clone());
const POD_CPU: Column = column("cpu", |object, _| sum(object, "cpu"));
const POD_MEMORY: Column = column("memory", |object, _| sum(object, "memory"));

const fn column(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { name, kind: "string", format: "", description: "", priority: 0, cell }
}

/// What a pod's containers use together.
fn sum(pod: &Value, resource: &str) -> Value {
    let all = list(pod, "/containers").iter().filter_map(|container| Quantity::of_json(&container["usage"][resource]));
    all.reduce(|sum, more| sum.add(&more)).map_or(Value::Null, |sum| sum.to_string().into())
}

/// What nodes and pods use.
pub struct ResourceMetrics {
    reader: Arc<dyn Reader>,
    nodes: Mutex<BTreeMap<String, Node>>,
}

/// A node's last answers.
#[derive(Default)]
struct Node {
    before: Option<Scrape>,
    last: Option<Scrape>,
}

/// What something used, for a while that ended at a time.
struct Used {
    cpu_nanocores: u64,
    memory_bytes: u64,
    window: SignedDuration,
    at: Timestamp,
}

/// The role by which those who may see pods may see what they use (metrics-server's).
pub fn roles() -> Vec<Value> {
    let to = |role: &str| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), Value::from("true"));
    let labels: serde_json::Map<String, Value> = ["view", "edit", "admin"].map(to).into_iter().collect();
    vec![json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "system:aggregated-metrics-reader", "labels": labels},
        "rules": [{"apiGroups": [GROUP], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"]}],
    })]
}

impl ResourceMetrics {
    /// Nothing is known yet. Labels of nodes and pods are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Arc<Self> {
        Arc::new(Self { reader, nodes: Mutex::default() })
    }

    /// Asks all nodes, again and again. `client` may use their proxies.
    pub async fn follow(self: Arc<Self>, client: kube::Client) {
        let mut wait = SECOND;
        loop {
            self.ask_all(&client).await;
            tokio::time::sleep(wait).await;
            wait = PERIOD;
        }
    }

    async fn ask_all(&self, client: &kube::Client) {
        let names: BTreeSet<String> =
            self.reader.list("", "nodes", "").iter().map(|entry| entry.name.to_string()).collect();
        self.nodes.lock().retain(|name, _| names.contains(name));
        let asking = futures::stream::iter(names).map(|name| async {
            let answer = tokio::time::timeout(TIMEOUT, ask(client, &name)).await;
            (name, answer.unwrap_or_else(|_| Err("it did not answer in time".to_owned())))
        });
        let mut answers = asking.buffer_unordered(CONCURRENCY);
        while let Some((name, answer)) = answers.next().await {
            match answer {
                Ok(text) => self.take_in(&name, scrape::parse(&text)),
                Err(why) => tracing::debug!(node = name, why, "a node does not say what is used"),
            }
        }
    }

    /// Takes in what a node says.
    fn take_in(&self, node: &str, scrape: Scrape) {
        let mut nodes = self.nodes.lock();
        let node = nodes.entry(node.to_owned()).or_default();
        node.before = node.last.replace(scrape);
    }

    /// Those that say something, as of the newest answer of all.
    fn fresh<T>(&self, make: impl Fn(&str, &Scrape, &Scrape) -> Vec<T>) -> Vec<T> {
        let nodes = self.nodes.lock();
        let newest = nodes.values().filter_map(|node| node.last.as_ref()?.at()).max();
        let mut out = Vec::new();
        for (name, node) in &*nodes {
            let (Some(before), Some(last)) = (&node.before, &node.last) else { continue };
            let age = newest.zip(last.at()).map(|(newest, at)| newest.duration_since(at));
            if age.is_some_and(|age| age <= STALE) {
                out.extend(make(name, before, last));
            }
        }
        out
    }

    /// All objects of a kind in a namespace (empty: in all), by name.
    fn objects(&self, plural: &str, namespace: &str) -> Vec<Value> {
        let mut out = if plural == "nodes" { self.nodes() } else { self.pods(namespace) };
        let key = |object: &Value| {
            (text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned())
        };
        out.sort_by_cached_key(key);
        out
    }

    fn nodes(&self) -> Vec<Value> {
        self.fresh(|name, before, last| {
            let used = used(before.node.as_ref(), last.node.as_ref());
            let stored = self.reader.get("", "nodes", "", name);
            let object =
                used.zip(stored).map(|(used, entry)| object(&decode(&entry.bytes), &used, "usage", usage(&used)));
            object.into_iter().collect()
        })
    }

    fn pods(&self, namespace: &str) -> Vec<Value> {
        self.fresh(|_, before, last| {
            let pods: BTreeSet<(&str, &str)> =
                last.containers.keys().map(|(namespace, pod, _)| (namespace.as_str(), pod.as_str())).collect();
            let pods = pods.into_iter().filter(|(of, _)| namespace.is_empty() || *of == namespace);
            pods.filter_map(|(namespace, name)| self.pod(namespace, name, before, last)).collect()
        })
    }

    /// A pod, if all that it has running has been seen twice.
    fn pod(&self, namespace: &str, name: &str, before: &Scrape, last: &Scrape) -> Option<Value> {
        let entry = self.reader.get("", "pods", namespace, name)?;
        let of_pod = (namespace.to_owned(), name.to_owned(), String::new());
        let containers = last.containers.range(of_pod..);
        let containers = containers.take_while(|((n, p, _), _)| n == namespace && p == name);
        let mut list = Vec::new();
        let mut least: Option<Used> = None;
        for (key, reading) in containers {
            let used = used(before.containers.get(key), Some(reading))?;
            list.push(json!({"name": key.2, "usage": usage(&used)}));
            if least.as_ref().is_none_or(|least| used.at < least.at) {
                least = Some(used);
            }
        }
        Some(object(&decode(&entry.bytes), &least?, "containers", list.into()))
    }
}

async fn ask(client: &kube::Client, node: &str) -> Result<String, String> {
    let request = Request::get(format!("/api/v1/nodes/{node}/proxy/metrics/resource"));
    let request = request.body(Vec::new()).map_err(|e| e.to_string())?;
    client.request_text(request).await.map_err(|e| e.to_string())
}

/// What was used between two readings of the same thing; nothing if it has begun anew in between.
fn used(before: Option<&Reading>, last: Option<&Reading>) -> Option<Used> {
    let (before, last) = (before?, last?);
    let window = last.at.duration_since(before.at);
    if last.cpu_ns < before.cpu_ns || window < SignedDuration::from_secs(1) {
        return None;
    }
    let nanos = u128::from(last.cpu_ns - before.cpu_ns) * 1_000_000_000;
    let cpu = nanos.checked_div(u128::try_from(window.as_nanos()).ok()?)?;
    Some(Used {
        cpu_nanocores: u64::try_from(cpu).unwrap_or(u64::MAX),
        memory_bytes: last.memory_bytes,
        window,
        at: last.at,
    })
}

fn usage(used: &Used) -> Value {
    let memory = Quantity::new(i64::try_from(used.memory_bytes / 1024 * 1024).unwrap_or(i64::MAX), Format::BinarySi);
    json!({"cpu": format!("{}n", used.cpu_nanocores), "memory": memory.to_string()})
}

fn object(of: &Value, used: &Used, field: &str, value: Value) -> Value {
    let mut metadata = json!({"name": of["metadata"]["name"], "creationTimestamp": seconds(used.at)});
    for key in ["namespace", "labels"] {
        if !of["metadata"][key].is_null() {
            metadata[key] = of["metadata"][key].clone();
        }
    }
    let window = format!("{:.3}s", used.window.as_secs_f64());
    let mut object = json!({"metadata": metadata, "timestamp": seconds(used.at), "window": window});
    object[field] = value;
    object
}

fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[async_trait]
impl ComputedApi for ResourceMetrics {
    fn group(&self) -> &'static str {
        GROUP
    }

    fn version(&self) -> &'static str {
        VERSION
    }

    fn kinds(&self) -> &'static [ComputedKind] {
        KINDS
    }

    async fn list(&self, selection: &Selection) -> Result<Page, Status> {
        Ok(Page { items: self.objects(&selection.plural, &selection.namespace), ..Page::default() })
    }
}
