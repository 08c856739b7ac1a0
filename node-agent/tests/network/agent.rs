//! A node's agent, as far as the network goes: a process that takes orders by its standard input.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{BufRead as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use xebec_clock::Random;
use xebec_node_agent::api::Rest;
use xebec_node_agent::dns::Names;
use xebec_node_agent::dns::zone::Zone;
use xebec_node_agent::drain::ledger::Ledger;
use xebec_node_agent::network::{
    self, Network, NetworkConfig, NetworkConfig4, NetworkConfig6, PodIdentity, PodNetwork as _, Tunnel, Xdp,
};
use xebec_node_agent::{policy, proxy};

/// The variable that says what the node is; also marks the child process.
pub const VARIABLE: &str = "XEBEC_TEST_NODE";

/// Objects by collection, and everything that ever happened to them: lists and watches like an API server's.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// Collection, and the event; its place is its revision.
    log: Vec<(String, Value)>,
    watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
}

impl Api {
    fn put(&self, collection: &str, mut object: Value) {
        let mut state = self.0.lock();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["resourceVersion"] = json!((state.log.len() + 1).to_string());
        let known = state.objects.entry(collection.to_owned()).or_default().insert(name, object.clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        state.tell(collection, json!({ "type": kind, "object": object }));
    }

    fn delete(&self, collection: &str, name: &str) {
        let mut state = self.0.lock();
        let Some(mut object) = state.objects.get_mut(collection).and_then(|all| all.remove(name)) else { return };
        object["metadata"]["resourceVersion"] = json!((state.log.len() + 1).to_string());
        state.tell(collection, json!({ "type": "DELETED", "object": object }));
    }

    fn answer(&self, request: &Request<Body>) -> Response<axum::body::Body> {
        let mut state = self.0.lock();
        let collection = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let query = request.uri().query().unwrap_or_default();
        if !query.contains("watch=true") {
            let items: Vec<&Value> = state.objects.get(&collection).into_iter().flat_map(|all| all.values()).collect();
            let list = json!({ "metadata": { "resourceVersion": state.log.len().to_string() }, "items": items });
            return Response::new(axum::body::Body::from(list.to_string()));
        }
        let from = query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).unwrap().parse().unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        for (of, event) in &state.log[from..] {
            if *of == collection {
                sender.send(line(event)).unwrap();
            }
        }
        state.watchers.push((collection, sender));
        let lines = UnboundedReceiverStream::new(receiver).map(Ok::<_, Infallible>);
        Response::new(axum::body::Body::from_stream(lines))
    }
}

impl State {
    fn tell(&mut self, collection: &str, event: Value) {
        self.watchers.retain(|(of, sender)| of != collection || sender.send(line(&event)).is_ok());
        self.log.push((collection.to_owned(), event));
    }
}

fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}

/// Not a test: the child process. Answers each line of input by one that begins with `@`.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn agent() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let facts: Value = serde_json::from_str(&text).unwrap();
    let text = |key: &str| facts[key].as_str().unwrap().to_owned();
    let config = NetworkConfig {
        node_name: text("name"),
        uplink: None,
        v4: facts["podCidr"].as_str().map(|pods| NetworkConfig4 {
            node_address: text("address").parse().unwrap(),
            pod_cidr: pods.parse().unwrap(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
        }),
        v6: facts["podCidr6"].as_str().map(|pods| NetworkConfig6 {
            node_address: facts["address6"].as_str().map(|address| address.parse().unwrap()),
            pod_cidr: pods.parse().unwrap(),
            cluster_cidr: "fd00:10:244::/56".parse().unwrap(),
            service_cidr: "fd00:10:96::/112".parse().unwrap(),
        }),
        v6_first: facts["v6First"] == true,
        node_ports: (30_000, 32_767),
        tunnel: Tunnel::Auto,
        xdp: facts.get("xdp").map_or(Xdp::Auto, |xdp| serde_json::from_value(xdp.clone()).unwrap()),
        masquerade: true,
        bpffs: text("bpffs").into(),
        cgroup: text("cgroup").into(),
        lease_dir: text("leases").into(),
        pod_namespaces: text("podNamespaces").into(),
        domain_names: text("domainNames").into(),
    };
    let api = Api::default();
    for (collection, objects) in facts["objects"].as_object().unwrap() {
        for object in objects.as_array().unwrap() {
            api.put(collection, object.clone());
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(config, api, text("podNamespaces").into()));
}

fn addresses_of(config: &NetworkConfig) -> Vec<IpAddr> {
    let v6 = config.v6.and_then(|v6| v6.node_address);
    config.v4.map(|v4| IpAddr::V4(v4.node_address)).into_iter().chain(v6.map(IpAddr::V6)).collect()
}

async fn serve(config: NetworkConfig, api: Api, pod_namespaces: PathBuf) {
    let network = match Network::start(&config) {
        Ok(network) => network,
        Err(error) => {
            say(&json!({ "error": error.to_string() }));
            return;
        }
    };
    let service = tower::service_fn({
        let api = api.clone();
        move |request: Request<Body>| std::future::ready(Ok::<_, Infallible>(api.answer(&request)))
    });
    let rest = Rest::new(kube::Client::new(service, "default"));
    let cancel = CancellationToken::new();
    let (addresses, wanted) = watch::channel(None);
    let (synced, mut is_synced) = watch::channel(false);
    let proxy_config = proxy::Config {
        node_name: config.node_name.clone(),
        node_addresses: addresses_of(&config),
        dns_port: 10_053,
        dns_service: ("kube-system".to_owned(), "kube-dns".to_owned()),
        host_addresses: addresses_of(&config),
        pod_namespaces,
        direct_return: false,
    };
    let random = Random::seeded(1);
    let names = Names::new(Zone::new("cluster.local", Vec::new()).unwrap());
    let (problem, _) = watch::channel(None);
    let outputs = proxy::Outputs {
        questions: network.names_asked,
        names,
        addresses,
        synced,
        ledger: Ledger::new(&config.node_name),
        problem,
    };
    tokio::spawn(proxy::run(
        proxy_config,
        rest.clone(),
        random.clone(),
        network.services,
        network.sockets,
        outputs,
        cancel.clone(),
    ));
    let (ready_nodes, _) = watch::channel(BTreeMap::new());
    let (small_path, path_problem) = watch::channel(None);
    tokio::spawn(network::run::run(
        network.local,
        network.uplink,
        rest.clone(),
        random.clone(),
        network.peers,
        wanted,
        ready_nodes,
        small_path,
        cancel.clone(),
    ));
    let (policy_maps, questions) = network.policy;
    let policing = policy::run(
        config.node_name.clone(),
        rest.clone(),
        random.clone(),
        policy_maps,
        network.pods.clone(),
        questions,
        cancel.clone(),
    );
    tokio::spawn(async { policing.await.unwrap() });
    is_synced.wait_for(|done| *done).await.unwrap();
    say(&json!({ "ready": true }));
    let (sender, mut orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    while let Some(order) = orders.recv().await {
        let order: Value = serde_json::from_str(&order).unwrap();
        let text = |key: &str| order[key].as_str().unwrap().to_owned();
        // The name of a made-up pod is its uid too.
        let pod =
            |uid: &str| PodIdentity { namespace: "default".to_owned(), name: uid.to_owned(), uid: uid.to_owned() };
        let answer = match order["do"].as_str().unwrap() {
            "put" => {
                api.put(&text("collection"), order["object"].clone());
                json!({})
            }
            "delete" => {
                api.delete(&text("collection"), &text("name"));
                json!({})
            }
            "setup" => match network.pods.setup(&pod(&text("uid")), &PathBuf::from(text("netns"))).await {
                Ok(addresses) => json!({ "address": addresses.0[0].to_string(), "addresses": addresses.0 }),
                Err(error) => json!({ "error": error.to_string() }),
            },
            "flow table" => json!({ "problem": network.flow_table.problem().unwrap() }),
            "path problem" => json!({ "problem": *path_problem.borrow() }),
            "teardown" => match network.pods.teardown(&pod(&text("uid")), &PathBuf::from("/")).await {
                Ok(()) => json!({}),
                Err(error) => json!({ "error": error.to_string() }),
            },
            other => panic!("unknown order {other}"),
        };
        say(&answer);
    }
    cancel.cancel();
}

fn say(answer: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{answer}").unwrap();
    out.flush().unwrap();
}
