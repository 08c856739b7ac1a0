//! The service proxy at scale: from the API's list to the kernel's maps, and from one changed endpoint to the kernel.
//!
//! The proxy is the agent's own, over maps of its own; the API is made up, and speaks the same lists and watches.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::channel::mpsc;
use http::{Request, Response};
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use xebec_clock::Random;
use xebec_ebpf_loader::layout::{Config, Port, SCOPE_CLUSTER, ServiceKey, proto};
use xebec_ebpf_loader::{Datapath, Maps};
use xebec_node_agent::api::Rest;
use xebec_node_agent::dns::Names;
use xebec_node_agent::dns::zone::Zone;
use xebec_node_agent::drain::ledger::Ledger;
use xebec_node_agent::proxy;
use xebec_node_agent::proxy::sync::{OwnPorts, ServiceMaps};

use super::figure::{Figure, percentile};
use super::resident_mb;

/// How large the made-up cluster is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Services
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints of each
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Endpoints that change, one by one
    #[arg(long, default_value_t = 1_000)]
    changes: usize,
}

/// What takes longer has failed.
const BOUND: Duration = Duration::from_secs(120);

/// Measures.
pub async fn run(args: &Args) -> anyhow::Result<Vec<Figure>> {
    let (datapath, maps) = Datapath::load_unpinned(&Config::ZERO)?;
    let kernel = maps.services.try_clone()?;
    let api = Api { services: args.services, endpoints: args.endpoints, ..Api::default() };
    let cancel = CancellationToken::new();
    let before_mb = resident_mb(std::process::id() as i32)?;
    let began = Instant::now();
    let (work, mut synced) = start(&api, maps, cancel.clone())?;
    timeout(BOUND, synced.wait_for(|done| *done)).await.context("the maps are not filled in time")??;
    let writing = Duration::from_nanos(api.writing_ns.load(Ordering::Relaxed));
    let filled_s = (began.elapsed() - writing).as_secs_f64();

    let mut delays_ms = Vec::new();
    for change in 0..args.changes {
        // Some other service each time.
        let index = change * 7_919 % args.services;
        let key =
            ServiceKey { addr: cluster_ip(index).into(), port: Port::new(80), proto: proto::TCP, scope: SCOPE_CLUSTER };
        let set = kernel.get(&key)?.context("a service is not in the kernel")?.set;
        let event = api.change(index, change);
        let began = Instant::now();
        api.tell(event)?;
        while kernel.get(&key)?.is_none_or(|service| service.set == set) {
            if began.elapsed() > BOUND {
                bail!("a changed endpoint did not reach the kernel");
            }
            tokio::task::yield_now().await;
        }
        delays_ms.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let memory_mb = settled_mb().await?;
    eprintln!("note: {before_mb:.0} MB before the first list, {memory_mb:.0} MB at the end");
    cancel.cancel();
    work.await??;
    drop(datapath);
    let samples = delays_ms.len();
    Ok(vec![
        Figure::at_most("services from empty: time until the kernel has all", "s", filled_s, 1.0, 1),
        Figure::at_most("one endpoint: event to kernel, p50", "ms", percentile(&mut delays_ms, 50), 5.0, samples),
        Figure::at_most("one endpoint: event to kernel, p99", "ms", percentile(&mut delays_ms, 99), 5.0, samples),
        Figure::at_most("service proxy and DNS: resident memory", "MB", memory_mb, 120.0, 1),
    ])
}

/// How much memory this process keeps: what it freed goes back to the kernel within some seconds.
async fn settled_mb() -> anyhow::Result<f64> {
    let now_mb = || resident_mb(std::process::id() as i32);
    let (mut least_mb, mut since, began) = (now_mb()?, Instant::now(), Instant::now());
    while since.elapsed() < Duration::from_secs(3) && began.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mb = now_mb()?;
        if mb < least_mb - 0.5 {
            (least_mb, since) = (mb, Instant::now());
        }
    }
    now_mb()
}

type Work = tokio::task::JoinHandle<Result<(), xebec_ebpf_loader::Error>>;

/// Starts the proxy.
fn start(api: &Api, maps: Maps, cancel: CancellationToken) -> anyhow::Result<(Work, watch::Receiver<bool>)> {
    let Maps { services, slots, members, source_ranges, backends, service_counters, sockets, own_ports, .. } = maps;
    let own_ports = OwnPorts::new(&Config::ZERO, own_ports);
    let maps = ServiceMaps { services, slots, members, source_ranges, backends, service_counters, own_ports };
    let service = tower::service_fn({
        let api = api.clone();
        move |request: Request<Body>| std::future::ready(Ok::<_, Infallible>(api.answer(&request)))
    });
    let rest = Rest::new(kube::Client::new(service, "default"));
    let config = proxy::Config {
        node_name: "node-1".to_owned(),
        node_addresses: vec![Ipv4Addr::LOCALHOST.into()],
        host_addresses: Vec::new(),
        dns_port: 53,
        dns_service: ("kube-system".to_owned(), "kube-dns".to_owned()),
        pod_namespaces: PathBuf::from("/nonexistent"),
        direct_return: false,
    };
    let (synced, is_synced) = watch::channel(false);
    let out = proxy::Outputs {
        questions: tokio::sync::mpsc::channel(1).1,
        names: Names::new(Zone::new("cluster.local", Vec::new())?),
        addresses: watch::Sender::default(),
        synced,
        ledger: Ledger::new("node-1"),
        problem: watch::Sender::default(),
    };
    let work = tokio::spawn(proxy::run(config, rest, Random::seeded(1), maps, sockets, out, cancel));
    Ok((work, is_synced))
}

fn cluster_ip(service: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + service as u32)
}

/// A cluster that exists in its answers only, so that it takes no memory.
#[derive(Clone, Default)]
struct Api {
    services: usize,
    endpoints: usize,
    /// How long it took to write the answers: not the proxy's time.
    writing_ns: Arc<AtomicU64>,
    watcher: Arc<Mutex<Option<mpsc::UnboundedSender<Bytes>>>>,
}

impl Api {
    fn answer(&self, request: &Request<Body>) -> Response<BoxBody<Bytes, Infallible>> {
        let began = Instant::now();
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let parameter = |name: &str| query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
        let (sender, receiver) = mpsc::unbounded();
        if parameter("watch").is_some() {
            if path.ends_with("/endpointslices")
                && let Ok(mut watcher) = self.watcher.lock()
            {
                *watcher = Some(sender);
            } else {
                // A watch on which nothing happens.
                std::mem::forget(sender);
            }
        } else {
            let number = |name| parameter(name).and_then(|n| n.parse::<usize>().ok());
            let (from, limit) = (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
            // The receiver is below.
            let _ = sender.unbounded_send(Bytes::from(self.list(path, from, limit).to_string()));
        }
        let body = StreamBody::new(receiver.map(|b| Ok(http_body::Frame::data(b))));
        self.writing_ns.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        Response::new(BoxBody::new(body))
    }

    fn list(&self, path: &str, from: usize, limit: usize) -> Value {
        let object = |index| match path.rsplit('/').next() {
            Some("services") => Some(service(index)),
            Some("endpointslices") => Some(self.slice(index, None)),
            _ => None,
        };
        let to = from.saturating_add(limit).min(self.services);
        let items: Vec<Value> = (from..to).filter_map(object).collect();
        let next = if to < self.services && !items.is_empty() { to.to_string() } else { String::new() };
        json!({ "metadata": { "resourceVersion": "1", "continue": next }, "items": items })
    }

    /// A service's slice; with one endpoint moved if it is changed.
    fn slice(&self, index: usize, change: Option<usize>) -> Value {
        let endpoints: Vec<Value> = (0..self.endpoints)
            .map(|endpoint| {
                let number = index * self.endpoints + endpoint;
                let moved = change.filter(|_| endpoint == 0).map_or(0, |change| 1 << 23 | change);
                json!({
                    "addresses": [Ipv4Addr::from(0x0b00_0000 + (number ^ moved) as u32).to_string()],
                    "conditions": { "ready": true, "serving": true, "terminating": false },
                    "nodeName": format!("node-{}", number % 100),
                    "targetRef": {
                        "kind": "Pod", "namespace": "bench", "name": format!("web-{index}-{endpoint}"),
                        "uid": format!("00000000-0000-4000-8000-{number:012}"),
                    },
                })
            })
            .collect();
        json!({
            "metadata": {
                "name": format!("web-{index}-abcde"), "namespace": "bench", "resourceVersion": "2",
                "labels": {
                    "kubernetes.io/service-name": format!("web-{index}"),
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
        })
    }

    fn change(&self, index: usize, change: usize) -> Bytes {
        Bytes::from(format!("{}\n", json!({ "type": "MODIFIED", "object": self.slice(index, Some(change)) })))
    }

    fn tell(&self, event: Bytes) -> anyhow::Result<()> {
        let watcher = self.watcher.lock().ok().and_then(|watcher| watcher.clone());
        watcher.context("the proxy does not watch endpoint slices")?.unbounded_send(event).context("the watch ended")
    }
}

fn service(index: usize) -> Value {
    json!({
        "metadata": { "name": format!("web-{index}"), "namespace": "bench", "resourceVersion": "1" },
        "spec": {
            "type": "ClusterIP", "clusterIP": cluster_ip(index).to_string(),
            "clusterIPs": [cluster_ip(index).to_string()], "sessionAffinity": "None", "selector": { "app": "web" },
            "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080 }],
        },
    })
}
