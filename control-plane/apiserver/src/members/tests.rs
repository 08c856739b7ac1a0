use std::sync::Arc;

use serde_json::Value;
use xebec_clock::{Clock, Random};
use xebec_schema::registry::Registry;
use xebec_store::memory::MemoryStore;
use xebec_store::shared::Shared;

use super::*;
use crate::{Config, Extensions};

const EPOCH: &str = "2026-01-01T00:00:00Z";

fn seen(address: &str, revision: Revision) -> KeyValue {
    let key = key(address.parse().unwrap());
    KeyValue { key, value: bytes::Bytes::new(), create_revision: 1, mod_revision: revision }
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_for_fifteen_seconds_is_left_out() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut others = Silence::default();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let both = [address("10.0.0.2"), address("10.0.0.3")];
    // Nobody knows for how long the second has been silent before.
    assert_eq!(others.sort(&[seen("10.0.0.2", 5), seen("10.0.0.3", 1)], at(0)).0, both);
    assert_eq!(others.sort(&[seen("10.0.0.2", 7), seen("10.0.0.3", 1)], at(10)).0, both);
    let (living, silent) = others.sort(&[seen("10.0.0.2", 9), seen("10.0.0.3", 1)], at(20));
    assert_eq!((living, silent), (vec![both[0]], vec![(key(both[1]), 1)]));
    // It speaks again.
    assert_eq!(others.sort(&[seen("10.0.0.2", 9), seen("10.0.0.3", 11)], at(21)).0, both);
}

/// One of several servers on a store.
async fn server(store: &Arc<MemoryStore>) -> ApiServer {
    let config = Config {
        store: Arc::new(Shared::new(store.clone(), Duration::ZERO)),
        registry: Registry::builtin(),
        clock: Clock::simulated(EPOCH.parse().unwrap()),
        random: Random::seeded(1),
        stop: CancellationToken::new(),
        extend: Box::new(|_| Extensions::default()),
    };
    ApiServer::start(config).await.unwrap()
}

fn member(address: &str) -> Member {
    Member { address: address.parse().unwrap(), port: 6443, hostname: format!("host-{address}") }
}

fn addresses(server: &ApiServer) -> Vec<String> {
    let decoded = |group: &str, plural: &str| -> Value {
        let entry = server.reader().get(group, plural, "default", "kubernetes").expect("it is there");
        serde_json::from_slice(&entry.bytes).unwrap()
    };
    let texts = |list: &Value, pointer: &str| -> Vec<String> {
        let all = list.as_array().into_iter().flatten();
        all.map(|item| item.pointer(pointer).and_then(Value::as_str).unwrap().to_owned()).collect()
    };
    let endpoints = texts(&decoded("", "endpoints")["subsets"][0]["addresses"], "/ip");
    let slice = texts(&decoded("discovery.k8s.io", "endpointslices")["endpoints"], "/addresses/0");
    assert_eq!(endpoints, slice);
    endpoints
}

#[tokio::test(start_paused = true)]
async fn the_service_kubernetes_leads_to_all_servers_that_live() {
    let store = Arc::new(MemoryStore::new());
    let (a, b) = (server(&store).await, server(&store).await);
    let stop = CancellationToken::new();
    let mut first = Members::new(a.clone(), member("172.30.0.2"));
    first.join().await.unwrap();
    assert_eq!(addresses(&a), ["172.30.0.2"]);
    tokio::spawn(first.follow(CancellationToken::new()));
    let mut second = Members::new(b.clone(), member("172.30.0.10"));
    second.join().await.unwrap();
    let following = tokio::spawn(second.follow(stop.clone()));
    tokio::time::sleep(PERIOD * 3).await;
    assert_eq!(addresses(&a), ["172.30.0.2", "172.30.0.10"]);
    // The second leaves in good order.
    stop.cancel();
    following.await.unwrap();
    assert_eq!(addresses(&a), ["172.30.0.2"]);
    // A third comes, and dies without a word.
    let mut third = Members::new(b, member("172.30.0.3"));
    third.join().await.unwrap();
    assert_eq!(addresses(&a), ["172.30.0.2", "172.30.0.3"]);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(addresses(&a), ["172.30.0.2", "172.30.0.3"]);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(addresses(&a), ["172.30.0.2"]);
    assert!(store.get(&key("172.30.0.3".parse().unwrap())).await.unwrap().is_none());
    // Every server has a lease, that of the second still holds.
    let lease = a.reader().get("coordination.k8s.io", "leases", "kube-system", &identity::name("host-172.30.0.10"));
    let lease: Value = serde_json::from_slice(&lease.unwrap().bytes).unwrap();
    assert_eq!(lease["metadata"]["labels"]["apiserver.kubernetes.io/identity"], "kube-apiserver");
    assert_eq!(lease["metadata"]["labels"]["kubernetes.io/hostname"], "host-172.30.0.10");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 3600);
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    let leases = a.reader().list("coordination.k8s.io", "leases", "kube-system");
    assert_eq!(leases.iter().map(|l| l.name.to_string()).collect::<Vec<_>>(), [identity::name("host-172.30.0.2")]);
}

#[tokio::test(start_paused = true)]
async fn the_last_server_stays_where_clients_find_it() {
    let api = server(&Arc::new(MemoryStore::new())).await;
    let mut only = Members::new(api.clone(), member("172.30.0.2"));
    only.join().await.unwrap();
    only.leave().await.unwrap();
    assert_eq!(addresses(&api), ["172.30.0.2"]);
}

#[test]
fn names_are_upstreams() {
    // The first half of the SHA-256 of the name, in base32.
    assert_eq!(identity::name("kind-control-plane"), "apiserver-c4vwjftbvpc5os2vvzle4qg27a");
}
