//! Flows that began and packets that were dropped: the last ones that the nodes' agents keep, and, in a watch, those that
//! come.
//!
//! A flow is seen in the namespaces of both its ends. Listed over all namespaces it stands once, in that of its source
//! if that is a pod; one that concerns no pod and no service is in `kube-system`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use xebec_apiserver::computed::{ComputedKind, Page, Selection, openapi};
use xebec_apiserver::reader::Reader;
use xebec_node_agent::sight::Flow;
use xebec_schema::columns::{AGE, NAME};
use xebec_schema::status::Status;

use super::agents::Agents;
use super::{column, decode};
use crate::kubelets::text;
use crate::names::{Name, Names};

pub(super) const KIND: ComputedKind = ComputedKind {
    plural: "flows",
    kind: "Flow",
    short_names: &[],
    namespaced: true,
    watched: true,
    columns: &[
        NAME,
        column("Verdict", "string", 0, |flow, _| flow["verdict"].clone()),
        column("Reason", "string", 0, |flow, _| flow["reason"].clone()),
        column("Protocol", "string", 0, |flow, _| flow["protocol"].clone()),
        column("Source", "string", 0, |flow, _| end(&flow["source"])),
        column("Destination", "string", 0, |flow, _| end(&flow["destination"])),
        column("Service", "string", 0, |flow, _| service(&flow["destination"]["service"])),
        AGE,
        column("Node", "string", 1, |flow, _| flow["node"].clone()),
        column("Direction", "string", 1, |flow, _| flow["direction"].clone()),
        column("Bytes", "integer", 1, |flow, _| flow["length"].clone()),
    ],
    fields: |flow| {
        let field = |label, pointer| (label, text(flow, pointer).to_owned());
        vec![
            field("verdict", "/verdict"),
            field("reason", "/reason"),
            field("protocol", "/protocol"),
            field("node", "/node"),
            field("source.pod", "/source/pod"),
            field("destination.pod", "/destination/pod"),
            field("destination.service", "/destination/service/name"),
        ]
    },
    schema,
};

/// What a flow consists of.
fn schema() -> Value {
    let mut place = json!({
        "ip": openapi::text("The address."),
        "port": openapi::integer("The port; 0 where the protocol has none."),
        "namespace": openapi::text("The namespace of the pod that has the address, if one has."),
        "pod": openapi::text("Its name."),
    });
    let source = openapi::object("Where it comes from.", &place);
    let service = json!({
        "namespace": openapi::text("The service's namespace."),
        "name": openapi::text("The service's name."),
    });
    place["service"] = openapi::object("The service whose address and port these are, if they are one's.", &service);
    let properties = json!({
        "time": openapi::text("When it was seen."),
        "node": openapi::text("The node that saw it."),
        "verdict": openapi::text("forwarded: a flow began; dropped: a packet was dropped or refused."),
        "reason": openapi::text("Why, if it was dropped: as the metric xebec_dropped_packets_total names reasons."),
        "direction": openapi::text("ingress or egress, where a pod's own hook saw it."),
        "protocol": openapi::text("TCP, UDP, SCTP, or another protocol's number."),
        "length": openapi::integer("How long the packet was, in bytes."),
        "source": source,
        "destination": openapi::object("Where it is to go.", &place),
    });
    let description = "A flow that began, or a packet that was dropped, as a node's datapath saw it. The nodes keep the last \
                       ones; nothing is stored.";
    openapi::object(description, &properties)
}

/// The newest flows that a list shows.
const LIST_MAX: usize = 5_000;
/// Flows that a watch's client may be behind; then the agents' answers wait, and at last leave some out.
const BEHIND_MAX: usize = 256;
/// How often a watch looks for nodes that have come.
const NEW_NODES: Duration = Duration::from_secs(10);
/// After how long a node that has stopped answering is asked again, and names are at the earliest.
const AGAIN: Duration = Duration::from_secs(1);

/// Where nobody but the cluster's own are.
const NOBODYS: &str = "kube-system";

/// The flows that the agents keep.
pub(super) async fn list(reader: &dyn Reader, agents: &Agents, selection: &Selection) -> Result<Page, Status> {
    let mut nodes = agents.nodes();
    if let Some((node, _)) = selection.name.rsplit_once('-') {
        nodes.retain(|of| of == node);
    }
    let answers = agents.ask(nodes, "flows?after=0&follow=false").await;
    let failed: Vec<String> =
        answers.iter().filter_map(|(node, answer)| Some(format!("{node}: {}", answer.as_ref().err()?))).collect();
    if !failed.is_empty() && failed.len() == answers.len() {
        return Err(Status::new(503, "ServiceUnavailable", format!("no node answers: {}", failed.join("; "))));
    }
    failed.iter().for_each(|why| tracing::warn!(why, "flows of a node are not listed"));
    let mut flows: Vec<Flow> = answers
        .values()
        .flatten()
        .flat_map(|text| text.lines())
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    flows.sort_by(|a, b| (a.id, &a.node).cmp(&(b.id, &b.node)));
    let mut known = Known::new(reader);
    known.read(&flows);
    let resource_version = flows.last().map_or(0, |flow| flow.id).to_string();
    let mut items: Vec<Value> =
        flows.iter().rev().filter_map(|flow| known.object(flow, selection)).take(LIST_MAX).collect();
    items.reverse();
    Ok(Page { items, resource_version, next: String::new() })
}

/// What comes after the version that is asked for. It holds `permit` while it goes on.
pub(super) fn watch(
    reader: Arc<dyn Reader>,
    agents: Arc<Agents>,
    selection: Selection,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Value> + Send {
    async_stream::stream! {
        let _permit = permit;
        let after: u64 = selection.after.parse().unwrap_or_default();
        let (sender, mut flows) = mpsc::channel::<Flow>(BEHIND_MAX);
        // Ends with the watch.
        let mut listening = JoinSet::new();
        let mut nodes = BTreeSet::new();
        let mut look = tokio::time::interval(NEW_NODES);
        let mut known = Known::new(&*reader);
        loop {
            tokio::select! {
                biased;
                flow = flows.recv() => {
                    let Some(flow) = flow else { return };
                    known.read(std::slice::from_ref(&flow));
                    if let Some(object) = known.object(&flow, &selection) {
                        yield object;
                    }
                }
                _ = look.tick() => {
                    for node in agents.nodes() {
                        if nodes.insert(node.clone()) {
                            listening.spawn(listen(agents.clone(), node, after, sender.clone()));
                        }
                    }
                }
            }
        }
    }
}

/// Passes on what a node sees, from `after` on, for as long as somebody listens.
async fn listen(agents: Arc<Agents>, node: String, mut after: u64, out: mpsc::Sender<Flow>) {
    loop {
        match agents.lines(&node, &format!("flows?after={after}")).await {
            Ok(mut lines) => {
                while let Some(Ok(line)) = lines.next().await {
                    // Empty lines keep the connection, and some tell of losses.
                    let Ok(flow) = serde_json::from_str::<Flow>(&line) else { continue };
                    after = after.max(flow.id);
                    if out.send(flow).await.is_err() {
                        return;
                    }
                }
            }
            Err(why) => tracing::debug!(node, why, "a node does not tell of its flows"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Who has which address, as far as anybody asks.
struct Known<'a> {
    reader: &'a dyn Reader,
    names: Names,
    /// The state of the objects that they are from.
    state: Option<[u64; 3]>,
    read_at: Option<tokio::time::Instant>,
    /// Whether addresses of either family occur: most pods' second addresses matter to nobody.
    families: BTreeSet<bool>,
}

/// What names come from.
const SOURCES: [(&str, &str); 3] = [("", "pods"), ("", "services"), ("discovery.k8s.io", "endpointslices")];

impl<'a> Known<'a> {
    fn new(reader: &'a dyn Reader) -> Self {
        Self { reader, names: Names::default(), state: None, read_at: None, families: BTreeSet::new() }
    }

    /// Sees to it that the ends of these are known, if they can be: somebody may have come since.
    fn read(&mut self, flows: &[Flow]) {
        let ends = || flows.iter().flat_map(|flow| [flow.source, flow.destination]);
        let state = SOURCES.map(|(group, plural)| self.reader.generation(group, plural));
        let more = ends().filter(|ip| self.families.insert(ip.is_ipv6())).count() > 0;
        let stale = self.state != Some(state) && ends().any(|ip| !self.names.knows(ip));
        let rested = self.read_at.is_none_or(|at| at.elapsed() >= AGAIN);
        let is_due = more || (stale && rested);
        if !is_due {
            return;
        }
        (self.state, self.read_at) = (Some(state), Some(tokio::time::Instant::now()));
        self.names = Names::default();
        for pod in self.reader.list("", "pods", "") {
            let Ok(ip) = pod.field("status.podIP").parse::<IpAddr>() else { continue };
            if self.families.contains(&!ip.is_ipv6()) {
                self.names.add_pod(&decode(&pod));
            } else if pod.field("spec.hostNetwork") != "true"
                && !matches!(pod.field("status.phase"), "Succeeded" | "Failed")
            {
                self.names.pods.insert(ip, (pod.namespace.to_string(), pod.name.to_string()));
            }
        }
        for slice in self.reader.list("discovery.k8s.io", "endpointslices", "") {
            self.names.add_slice(&decode(&slice));
        }
        for service in self.reader.list("", "services", "") {
            self.names.add_service(&decode(&service));
        }
    }

    /// The object that shows a flow to those who look at a namespace (or at all); none if it does not concern it.
    fn object(&self, flow: &Flow, selection: &Selection) -> Option<Value> {
        let (source, destination) = (self.names.pods.get(&flow.source), self.names.pods.get(&flow.destination));
        let service = self.names.services.get(&(flow.destination, flow.destination_port));
        let mut namespaces = [source, destination, service].into_iter().flatten().map(|name| name.0.as_str());
        let namespace = match selection.namespace.as_str() {
            "" => namespaces.next().unwrap_or(NOBODYS),
            NOBODYS if [source, destination, service] == [None; 3] => NOBODYS,
            wanted => namespaces.find(|of| *of == wanted)?,
        };
        let name = format!("{}-{:x}", flow.node, flow.id);
        if !selection.name.is_empty() && selection.name != name {
            return None;
        }
        let mut object = json!({
            "metadata": {
                "name": name, "namespace": namespace, "resourceVersion": flow.id.to_string(),
                "creationTimestamp": seconds(flow.time),
            },
            "time": flow.time, "node": flow.node, "verdict": flow.verdict, "protocol": flow.protocol,
            "length": flow.length,
            "source": place(flow.source, flow.source_port, source),
            "destination": place(flow.destination, flow.destination_port, destination),
        });
        if let Some((namespace, name)) = service {
            object["destination"]["service"] = json!({"namespace": namespace, "name": name});
        }
        for (field, value) in [("reason", &flow.reason), ("direction", &flow.direction)] {
            if let Some(value) = value {
                object[field] = value.as_str().into();
            }
        }
        Some(object)
    }
}

fn place(ip: IpAddr, port: u16, pod: Option<&Name>) -> Value {
    let mut place = json!({"ip": ip, "port": port});
    if let Some((namespace, name)) = pod {
        place["namespace"] = namespace.as_str().into();
        place["pod"] = name.as_str().into();
    }
    place
}

fn seconds(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// `NAMESPACE/POD:PORT`, or `IP:PORT`.
fn end(place: &Value) -> Value {
    let pod = (place["namespace"].as_str(), place["pod"].as_str());
    let (ip, port) = (text(place, "/ip"), &place["port"]);
    match pod {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}:{port}").into(),
        _ if ip.contains(':') => format!("[{ip}]:{port}").into(),
        _ => format!("{ip}:{port}").into(),
    }
}

fn service(name: &Value) -> Value {
    match (name["namespace"].as_str(), name["name"].as_str()) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}").into(),
        _ => Value::Null,
    }
}
