//! Services as the nodes' kernels hold them, beside what they should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use xebec_apiserver::computed::{ComputedKind, Page, Selection, openapi};
use xebec_apiserver::reader::{Entry, Reader};
use xebec_node_agent::proxy::desired::{Facts, compile};
use xebec_node_agent::proxy::views::{EndpointSlice, Service};
use xebec_node_agent::sight::{Frontend, Times};
use xebec_schema::columns::{AGE, NAME};
use xebec_schema::status::Status;

use super::agents::Agents;
use super::{column, decode};
use crate::names::Name;
use crate::service::{Line, compare, facts};

pub(super) const KIND: ComputedKind = ComputedKind {
    plural: "datapathservices",
    kind: "DatapathService",
    short_names: &["dpsvc"],
    namespaced: true,
    watched: false,
    columns: &[
        NAME,
        column("Nodes", "string", 0, |object, _| {
            let status = &object["status"];
            format!("{}/{}", status["nodesAnswered"], status["nodesTotal"]).into()
        }),
        column("Frontends", "integer", 0, |object, _| object["status"]["frontends"].clone()),
        column("Backends", "integer", 0, |object, _| object["status"]["backends"].clone()),
        column("Connections", "integer", 0, |object, _| object["status"]["connections"].clone()),
        column("Refused", "integer", 0, |object, _| object["status"]["refused"].clone()),
        column("P99", "string", 0, |object, _| time(&object["status"]["connectP99Microseconds"])),
        column("Synced", "boolean", 0, |object, _| object["status"]["synced"].clone()),
        AGE,
        column("P50", "string", 1, |object, _| time(&object["status"]["connectP50Microseconds"])),
        column("Addresses", "string", 1, |object, _| addresses(object).into()),
    ],
    fields: |object| vec![("status.synced", object["status"]["synced"].to_string())],
    schema,
};

/// What the picture of a service consists of.
fn schema() -> Value {
    let endpoints = |description| openapi::list(description, &openapi::text("An address and a port."));
    let frontend = json!({
        "address": openapi::text("An address and a port of the service."),
        "protocol": openapi::text("TCP, UDP or SCTP."),
        "scope": openapi::text("cluster: for clients inside; external: for packets from outside."),
        "held": openapi::boolean("Whether the kernel holds it."),
        "wanted": openapi::boolean("Whether it should; only where the two differ, as the two fields after it."),
        "missingBackends": endpoints("Endpoints that the kernel should hold and does not."),
        "excessBackends": endpoints("Endpoints that it holds and should not."),
        "backends": endpoints("The endpoints that the kernel holds for it."),
    });
    let port = json!({
        "name": openapi::text("The port's name."),
        "protocol": openapi::text("TCP, UDP or SCTP."),
        "socketConnections": openapi::integer("Connections (of UDP, sends) from the node and its pods."),
        "uplinkFlows": openapi::integer("Flows from outside."),
        "refused": openapi::integer("Clients that were refused for want of an endpoint."),
    });
    let node = json!({
        "node": openapi::text("The node."),
        "error": openapi::text("Why it did not answer, if it did not."),
        "synced": openapi::boolean("Whether its kernel holds what it should."),
        "frontends": openapi::list("The service's addresses and ports.", &openapi::object("One of them.", &frontend)),
        "ports": openapi::list("What was counted for the service's ports.", &openapi::object("One of them.", &port)),
    });
    let status = json!({
        "synced": openapi::boolean("Whether every node's kernel holds what it should."),
        "nodesTotal": openapi::integer("How many nodes there are."),
        "nodesAnswered": openapi::integer("How many of them have answered."),
        "frontends": openapi::integer("How many addresses and ports the service has."),
        "backends": openapi::integer("How many endpoints it has."),
        "connections": openapi::integer("Connections through the service, of all nodes."),
        "refused": openapi::integer("Clients that were refused for want of an endpoint."),
        "connectP50Microseconds": openapi::integer("How long the faster half of TCP connections took at most to be established."),
        "connectP99Microseconds": openapi::integer("How long 99 in 100 of them took at most."),
        "nodes": openapi::list("Node by node.", &openapi::object("A node's part.", &node)),
    });
    let description = "A service as the nodes' kernels hold it, beside what they should hold. The nodes are asked for it each time; \
                       nothing is stored.";
    openapi::object(description, &json!({"status": openapi::object("What the kernels hold.", &status)}))
}

/// Services of a list's page. A client that asks for more, or for all, is told where to go on.
const PAGE_MAX: usize = 500;

/// A page of services.
pub(super) async fn list(reader: &dyn Reader, agents: &Agents, selection: &Selection) -> Result<Page, Status> {
    let asked = Asked::new(reader, selection);
    let answers = agents.ask(agents.nodes(), &asked.path(selection)).await;
    let mut nodes = Vec::new();
    for (name, answer) in answers {
        let Some(node) = reader.get("", "nodes", "", &name) else { continue };
        let answer = answer.and_then(|text| serde_json::from_str::<Vec<Frontend>>(&text).map_err(|e| e.to_string()));
        nodes.push(Node::new(name, facts(&decode(&node)), answer));
    }
    if !nodes.is_empty() && nodes.iter().all(|node| node.held.is_err()) {
        let why = |node: &Node| format!("{}: {}", node.name, node.held.as_ref().err().map_or("", String::as_str));
        let all: Vec<String> = nodes.iter().map(why).collect();
        return Err(Status::new(503, "ServiceUnavailable", format!("no node answers: {}", all.join("; "))));
    }
    // What a kernel holds for a service that is gone belongs to the picture.
    let mut names: BTreeSet<Name> = asked.services.keys().cloned().collect();
    names.extend(nodes.iter().filter_map(|node| node.held.as_ref().ok()).flat_map(|held| held.keys().cloned()));
    let slices = Slices::new(reader, &selection.namespace);
    let items = names.iter().filter_map(|name| object(name, asked.services.get(name), &slices, &nodes)).collect();
    Ok(Page { items, resource_version: String::new(), next: asked.next })
}

/// The services of a page.
struct Asked {
    services: BTreeMap<Name, Arc<Entry>>,
    /// The last of them, if there are more.
    next: String,
}

impl Asked {
    fn new(reader: &dyn Reader, selection: &Selection) -> Self {
        let key = |entry: &Arc<Entry>| (entry.namespace.to_string(), entry.name.to_string());
        let after = selection.after.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
        let mut services: BTreeMap<Name, Arc<Entry>> =
            reader.list("", "services", &selection.namespace).into_iter().map(|entry| (key(&entry), entry)).collect();
        services.retain(|name, _| {
            after.as_ref().is_none_or(|after| name > after) && (selection.name.is_empty() || name.1 == selection.name)
        });
        let limit = selection.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let mut next = String::new();
        if let Some((first_beyond, _)) = services.iter().nth(limit) {
            let first_beyond = first_beyond.clone();
            services.split_off(&first_beyond);
            next = services
                .last_key_value()
                .map(|((namespace, name), _)| format!("{namespace}/{name}"))
                .unwrap_or_default();
        }
        Self { services, next }
    }

    /// Where the agents tell of the page.
    fn path(&self, selection: &Selection) -> String {
        let Selection { namespace, name, after, .. } = selection;
        format!("services?namespace={namespace}&name={name}&after={after}&until={}", self.next)
    }
}

/// A node, with what its kernel holds for each service, or why it does not say.
struct Node {
    name: String,
    facts: Facts,
    held: Result<BTreeMap<Name, Vec<Frontend>>, String>,
}

impl Node {
    fn new(name: String, facts: Facts, answer: Result<Vec<Frontend>, String>) -> Self {
        let by_service = |all: Vec<Frontend>| {
            let mut held: BTreeMap<Name, Vec<Frontend>> = BTreeMap::new();
            for frontend in all {
                // What has no name is no service's (yet), or a pod's: host ports.
                if let Some(of) = frontend.of.as_ref().filter(|of| !of.service.contains(':')) {
                    held.entry((of.namespace.clone(), of.service.clone())).or_default().push(frontend);
                }
            }
            held
        };
        Self { name, facts, held: answer.map(by_service) }
    }
}

/// Endpoint slices by service.
struct Slices(BTreeMap<Name, Vec<Arc<Entry>>>);

impl Slices {
    fn new(reader: &dyn Reader, namespace: &str) -> Self {
        let mut out: BTreeMap<Name, Vec<Arc<Entry>>> = BTreeMap::new();
        for slice in reader.list("discovery.k8s.io", "endpointslices", namespace) {
            let service = slice.labels.iter().find(|(label, _)| &**label == "kubernetes.io/service-name");
            if let Some((_, service)) = service {
                out.entry((slice.namespace.to_string(), service.to_string())).or_default().push(slice);
            }
        }
        Self(out)
    }

    fn of(&self, service: &Name) -> Vec<EndpointSlice> {
        let slices = self.0.get(service).into_iter().flatten();
        slices.filter_map(|slice| serde_json::from_slice(&slice.bytes).ok()).collect()
    }
}

/// The object of a service; none if there is nothing that a kernel holds or should (headless services).
fn object(name: &Name, service: Option<&Arc<Entry>>, slices: &Slices, nodes: &[Node]) -> Option<Value> {
    let wanted: Option<Service> = service.and_then(|entry| serde_json::from_slice(&entry.bytes).ok());
    let slices = slices.of(name);
    let mut sum = Sum::default();
    let mut states = Vec::new();
    for node in nodes {
        let held = match &node.held {
            Ok(held) => held.get(name).map(Vec::as_slice).unwrap_or_default(),
            Err(why) => {
                states.push(json!({"node": node.name, "error": why}));
                continue;
            }
        };
        let desired = wanted.as_ref().map(|service| compile(service, slices.iter(), &node.facts).frontends);
        let lines = compare(&node.name, name, held, &desired.unwrap_or_default());
        sum.add(held, &lines);
        states.push(state(&node.name, held, &lines));
    }
    if sum.frontends.is_empty() {
        return None;
    }
    let mut metadata = json!({"namespace": name.0, "name": name.1});
    if let Some(service) = service.map(|entry| decode(entry)) {
        for field in ["labels", "creationTimestamp"] {
            if !service["metadata"][field].is_null() {
                metadata[field] = service["metadata"][field].clone();
            }
        }
    }
    let mut status = json!({
        "synced": sum.synced, "nodesTotal": nodes.len(), "nodesAnswered": sum.nodes,
        "frontends": sum.frontends.len(), "backends": sum.backends.len(),
        "connections": sum.connections, "refused": sum.refused, "nodes": states,
    });
    for (field, share) in [("connectP50Microseconds", 0.5), ("connectP99Microseconds", 0.99)] {
        if let Some(time) = sum.times.quantile_us(share) {
            status[field] = time.into();
        }
    }
    Some(json!({"metadata": metadata, "status": status}))
}

/// What is said of all nodes.
struct Sum {
    synced: bool,
    nodes: usize,
    frontends: BTreeSet<(String, String, String)>,
    backends: BTreeSet<String>,
    connections: u64,
    refused: u64,
    times: Times,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            synced: true,
            nodes: 0,
            frontends: BTreeSet::new(),
            backends: BTreeSet::new(),
            connections: 0,
            refused: 0,
            times: Times::default(),
        }
    }
}

impl Sum {
    fn add(&mut self, held: &[Frontend], lines: &[Line]) {
        self.nodes += 1;
        for line in lines {
            self.synced &= !line.differs();
            self.frontends.insert((line.address.to_string(), line.protocol.clone(), line.scope.clone()));
            self.backends.extend(line.kernel.iter().flatten().map(ToString::to_string));
        }
        for port in ports(held) {
            self.connections += port.socket_connections + port.uplink_flows;
            self.refused += port.refused;
            self.times.add(&port.inside);
            self.times.add(&port.outside);
        }
    }
}

/// One frontend of each service port: they count together.
fn ports(held: &[Frontend]) -> Vec<&Frontend> {
    let mut seen = BTreeSet::new();
    held.iter().filter(|frontend| seen.insert(frontend.id)).collect()
}

/// A node's part of the object.
fn state(node: &str, held: &[Frontend], lines: &[Line]) -> Value {
    let nothing = BTreeSet::new();
    let frontend = |line: &Line| {
        let (kernel, desired) = (line.kernel.as_ref(), line.desired.as_ref());
        let mut out = json!({
            "address": line.address.to_string(), "protocol": line.protocol, "scope": line.scope,
            "held": kernel.is_some(), "backends": kernel.unwrap_or(&nothing),
        });
        if line.differs() {
            out["wanted"] = desired.is_some().into();
            out["missingBackends"] = json!(desired.unwrap_or(&nothing) - kernel.unwrap_or(&nothing));
            out["excessBackends"] = json!(kernel.unwrap_or(&nothing) - desired.unwrap_or(&nothing));
        }
        out
    };
    let port = |port: &Frontend| {
        json!({
            "name": port.of.as_ref().map_or("", |of| of.port.as_str()), "protocol": port.protocol,
            "socketConnections": port.socket_connections, "uplinkFlows": port.uplink_flows, "refused": port.refused,
        })
    };
    json!({
        "node": node, "synced": !lines.iter().any(Line::differs),
        "frontends": lines.iter().map(frontend).collect::<Vec<_>>(),
        "ports": ports(held).into_iter().map(port).collect::<Vec<_>>(),
    })
}

fn time(microseconds: &Value) -> Value {
    microseconds.as_u64().map_or(Value::Null, |us| format!("{:.3}ms", us as f64 / 1e3).into())
}

/// Every address of the service, once.
fn addresses(object: &Value) -> String {
    let nodes = object["status"]["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let frontends = nodes.iter().flat_map(|node| node["frontends"].as_array().map(Vec::as_slice).unwrap_or_default());
    let all: BTreeSet<String> = frontends
        .filter_map(|frontend| Some(format!("{}/{}", frontend["address"].as_str()?, frontend["protocol"].as_str()?)))
        .collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}
