use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::peers::{Ask, Nodes};
use super::*;
use crate::api::watch::Change;
use crate::proxy::views::EndpointSlice;

fn slice(name: &str, revision: u64, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": { "namespace": "ns", "name": name, "resourceVersion": revision.to_string() },
        "addressType": "IPv4", "endpoints": endpoints,
    }))
    .unwrap()
}

fn endpoint(uid: &str, node: &str, conditions: Value) -> Value {
    json!({
        "addresses": ["10.244.1.5"], "nodeName": node, "conditions": conditions,
        "targetRef": { "kind": "Pod", "namespace": "ns", "name": uid, "uid": uid },
    })
}

fn ready() -> Value {
    json!({ "ready": true, "serving": true, "terminating": false })
}

fn going() -> Value {
    json!({ "ready": false, "serving": true, "terminating": true })
}

fn put(ledger: &Ledger, slice: EndpointSlice) {
    ledger.heard(&Change::Put(Arc::new(slice)));
}

fn pod(uid: &str) -> PodIdentity {
    PodIdentity { namespace: "ns".to_owned(), name: uid.to_owned(), uid: uid.to_owned() }
}

#[test]
fn a_pod_has_left_when_no_slice_uses_it() {
    let ledger = Ledger::new("n1");
    assert_eq!(ledger.standing("a"), Standing::Unnamed);
    put(&ledger, slice("one", 5, json!([endpoint("a", "n1", ready()), endpoint("b", "n2", ready())])));
    put(&ledger, slice("two", 6, json!([endpoint("a", "n1", ready())])));
    assert_eq!(ledger.standing("a"), Standing::InUse);
    assert_eq!(ledger.standing("b"), Standing::Unnamed, "another node's pod is that node's business");
    put(&ledger, slice("one", 7, json!([endpoint("a", "n1", going())])));
    assert_eq!(ledger.standing("a"), Standing::InUse, "the other slice still has it");
    put(&ledger, slice("two", 9, json!([endpoint("a", "n1", going())])));
    assert_eq!(ledger.standing("a"), Standing::Left(9));
    put(&ledger, slice("two", 12, json!([endpoint("a", "n1", going()), endpoint("c", "n1", ready())])));
    assert_eq!(ledger.standing("a"), Standing::Left(9), "the slice changed for another reason");
    ledger.heard(&Change::Gone(Arc::new(slice("one", 14, json!([])))));
    ledger.heard(&Change::All(vec![Arc::new(slice("three", 15, json!([])))]));
    assert_eq!(ledger.standing("a"), Standing::Left(9));
    assert_eq!(ledger.standing("c"), Standing::Left(15), "it was in use until its slice was gone");
}

#[test]
fn one_that_is_published_whatever_its_state_leaves_when_it_terminates() {
    let ledger = Ledger::new("n1");
    put(&ledger, slice("s", 3, json!([endpoint("a", "n1", json!({}))])));
    assert_eq!(ledger.standing("a"), Standing::InUse);
    put(&ledger, slice("s", 4, json!([endpoint("a", "n1", json!({ "ready": true, "terminating": true }))])));
    assert_eq!(ledger.standing("a"), Standing::Left(4));
}

#[test]
fn the_annotation_is_in_milliseconds() {
    let with = |text: &str| timeout(&[(TIMEOUT_ANNOTATION.to_owned(), text.to_owned())].into());
    assert_eq!(timeout(&BTreeMap::new()), Duration::from_secs(5));
    assert_eq!(with("250"), Duration::from_millis(250));
    assert_eq!(with("0"), Duration::ZERO);
    for unreadable in ["", "-1", "5s", "99999999999999999999"] {
        assert_eq!(with(unreadable), Duration::from_secs(5), "{unreadable:?}");
    }
}

/// Agents whose maps are at a revision; `None` does not answer.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<BTreeMap<SocketAddr, Option<u64>>>>);

#[async_trait]
impl Ask for Fake {
    async fn applied(&self, address: SocketAddr, revision: u64, wait: Duration) -> Result<u64, String> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let at = self.0.lock().get(&address).copied().flatten().ok_or("connection refused")?;
            if at >= revision || tokio::time::Instant::now() >= until {
                return Ok(at);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Cluster {
    ledger: Ledger,
    fake: Fake,
    nodes: watch::Sender<Nodes>,
    services: Arc<ClusterServices>,
    /// Connections to the pod.
    open: Arc<AtomicUsize>,
}

fn address(node: u8) -> SocketAddr {
    SocketAddr::from(([172, 30, 0, node], 10_250))
}

/// Node n1, and others that have heard of nothing.
fn cluster() -> Cluster {
    let ledger = Ledger::new("n1");
    let others: Nodes = [("n2".to_owned(), address(2)), ("n3".to_owned(), address(3))].into();
    let fake = Fake(Arc::new(Mutex::new(others.values().map(|address| (*address, Some(0))).collect())));
    let (nodes, seen) = watch::channel(others);
    let peers = Arc::new(Peers::new(seen, fake.clone()));
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    let clients: Clients = Box::new(move |_| Some(counted.load(Ordering::Relaxed)));
    Cluster { services: Arc::new(ClusterServices::new(ledger.clone(), peers, clients)), ledger, fake, nodes, open }
}

impl Cluster {
    fn begin(&self, uid: &str) -> tokio::task::JoinHandle<Outcome> {
        let (services, pod) = (Arc::clone(&self.services), pod(uid));
        tokio::spawn(async move { services.let_go(&pod, Duration::from_secs(5)).await })
    }

    fn at(&self, node: u8, revision: Option<u64>) {
        self.fake.0.lock().insert(address(node), revision);
    }
}

async fn a_while() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_node_is_waited_for() {
    let cluster = cluster();
    put(&cluster.ledger, slice("s", 4, json!([endpoint("a", "n1", ready())])));
    cluster.ledger.all_applied();
    let waiting = cluster.begin("a");
    a_while().await;
    put(&cluster.ledger, slice("s", 8, json!([endpoint("a", "n1", going())])));
    cluster.at(2, Some(8));
    cluster.at(3, Some(20));
    a_while().await;
    assert!(!waiting.is_finished(), "this node's own maps do not have it yet");
    cluster.at(2, Some(7));
    cluster.ledger.all_applied();
    a_while().await;
    assert!(!waiting.is_finished(), "n2 is not so far");
    cluster.at(2, Some(8));
    assert_eq!(waiting.await.unwrap(), Outcome::LetGo);
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_may_end_but_not_for_long() {
    let cluster = cluster();
    put(&cluster.ledger, slice("s", 8, json!([endpoint("a", "n1", going())])));
    cluster.ledger.all_applied();
    cluster.at(2, Some(8));
    cluster.at(3, Some(8));
    cluster.open.store(2, Ordering::Relaxed);
    let begun = tokio::time::Instant::now();
    let waiting = cluster.begin("a");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    cluster.open.store(0, Ordering::Relaxed);
    assert_eq!(waiting.await.unwrap(), Outcome::LetGo);
    assert!(begun.elapsed() < Duration::from_millis(150), "{:?}", begun.elapsed());
    cluster.open.store(1, Ordering::Relaxed);
    let begun = tokio::time::Instant::now();
    assert_eq!(cluster.begin("a").await.unwrap(), Outcome::LetGo, "a connection that is kept open");
    assert_eq!(begun.elapsed(), SETTLE + QUIET_MAX);
}

#[tokio::test(start_paused = true)]
async fn who_backs_no_service_does_not_wait() {
    let cluster = cluster();
    let waiting = cluster.begin("a");
    a_while().await;
    assert!(!waiting.is_finished(), "slices are not known yet");
    cluster.ledger.all_applied();
    assert_eq!(waiting.await.unwrap(), Outcome::Unused);
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_waited_for_until_it_is_not_ready() {
    let cluster = cluster();
    put(&cluster.ledger, slice("s", 8, json!([endpoint("a", "n1", going())])));
    cluster.ledger.all_applied();
    cluster.at(2, None);
    cluster.at(3, Some(8));
    let begun = tokio::time::Instant::now();
    assert_eq!(cluster.begin("a").await.unwrap(), Outcome::TimedOut(vec!["n2".to_owned()]));
    assert_eq!(begun.elapsed().as_secs(), 5);
    let waiting = cluster.begin("a");
    a_while().await;
    cluster.nodes.send_modify(|nodes| nodes.retain(|name, _| name != "n2"));
    assert_eq!(waiting.await.unwrap(), Outcome::LetGo);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_stays_in_its_slices_is_not_held_back_for_ever() {
    let cluster = cluster();
    put(&cluster.ledger, slice("s", 4, json!([endpoint("a", "n1", ready())])));
    cluster.ledger.all_applied();
    assert_eq!(cluster.begin("a").await.unwrap(), Outcome::TimedOut(Vec::new()));
}

proptest! {
    /// Whatever happens to slices, the ledger agrees with the last state of each.
    #[test]
    fn the_ledger_agrees_with_the_slices(steps in prop::collection::vec((0..3_usize, 0..4_u8, 0..3_u8), 1..40)) {
        let ledger = Ledger::new("n1");
        // For each slice: what it has of the pod, and since which revision it does not use it.
        let mut model: [Option<Option<u64>>; 3] = [None; 3];
        let mut departed = None;
        for (revision, (index, what, with)) in (1_u64..).zip(steps) {
            let name = ["one", "two", "three"][index];
            let others = json!([endpoint("b", "n1", ready())]);
            let mut endpoints = if with == 0 { others } else { json!([]) };
            let list = endpoints.as_array_mut().unwrap();
            match what {
                0 => list.push(endpoint("a", "n1", ready())),
                1 => list.push(endpoint("a", "n1", going())),
                _ => {}
            }
            if what == 3 {
                ledger.heard(&Change::Gone(Arc::new(slice(name, revision, endpoints))));
            } else {
                put(&ledger, slice(name, revision, endpoints));
            }
            let before = model[index];
            model[index] = match what {
                0 => Some(None),
                1 => Some(Some(before.flatten().unwrap_or(revision))),
                _ => None,
            };
            if let (Some(before), None) = (before, model[index]) {
                departed = departed.max(Some(before.unwrap_or(revision)));
            }
            let expected = if model.contains(&Some(None)) {
                Standing::InUse
            } else {
                match model.iter().flatten().flatten().copied().max().max(departed) {
                    Some(left) => Standing::Left(left),
                    None => Standing::Unnamed,
                }
            };
            prop_assert_eq!(ledger.standing("a"), expected);
        }
    }
}
