//! Several servers on one store: who acts, and what happens when one of them goes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::bootstrap;
use xebec_clock::{Clock, Random};
use xebec_controllers::runtime::api::{Api, PatchKind};
use xebec_controllers::runtime::election::{self, Candidate};
use xebec_controllers::runtime::kind::{DEPLOYMENT, EVENT, LEASE, POD};
use xebec_store::memory::MemoryStore;
use xebec_store::shared::Shared;

use crate::sim::{facts, start_server};
use crate::simulate;

/// Who has led, since when, and until when.
type Terms = Arc<Mutex<Vec<(String, Instant, Option<Instant>)>>>;

/// What all servers have in common.
struct World {
    store: Arc<MemoryStore>,
    clock: Clock,
    terms: Terms,
}

struct Server {
    api: Api,
    way: Arc<Shared>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    fn new() -> Self {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        Self { store: Arc::new(MemoryStore::new()), clock, terms: Terms::default() }
    }

    /// A server whose controllers act when it leads.
    async fn server(&self, name: &str) -> Server {
        let (random, stop) = (Random::seeded(name.len() as u64), CancellationToken::new());
        let way = Arc::new(Shared::new(self.store.clone(), Duration::ZERO));
        // The server itself outlives the process that it stands for: its requests end with those who make them.
        let server = start_server(&way, &self.clock, &random, &CancellationToken::new()).await;
        let client = move || server.client(UserInfo::system("system:simulation"));
        bootstrap::reconcile(&client(), bootstrap::desired(&facts())).await.unwrap();
        let api = Api::new(client());
        let candidate = Candidate {
            lease: "kube-controller-manager",
            identity: name.to_owned(),
            api: api.clone(),
            clock: self.clock.clone(),
            random: random.clone(),
        };
        let (terms, clock, token) = (self.terms.clone(), self.clock.clone(), stop.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let name = candidate.identity.clone();
            let lead = |leading: CancellationToken| {
                let (terms, name, client) = (terms.clone(), name.clone(), client());
                let (clock, random) = (clock.clone(), random.clone());
                async move {
                    let begun = Instant::now();
                    terms.lock().push((name.clone(), begun, None));
                    let config = xebec_controllers::Config::default();
                    xebec_controllers::run_all(client, clock, random, config, leading).await;
                    let mut terms = terms.lock();
                    let own = terms.iter_mut().find(|(who, at, _)| *who == name && *at == begun);
                    own.expect("it has begun").2 = Some(Instant::now());
                }
            };
            election::stand(candidate, token, lead).await;
        });
        Server { api, way, stop, tasks }
    }

    fn leaders(&self) -> Vec<String> {
        self.terms.lock().iter().map(|(who, ..)| who.clone()).collect()
    }

    /// Waits until `name` leads; how long that took.
    async fn until_leads(&self, name: &str) -> Duration {
        let start = Instant::now();
        while self.leaders().last().is_none_or(|last| last != name) {
            assert!(start.elapsed() < Duration::from_secs(60), "{name} does not lead: {:?}", self.leaders());
            sleep(Duration::from_millis(50)).await;
        }
        start.elapsed()
    }
}

impl Server {
    /// Ends as by `kill -9`.
    async fn crash(mut self) {
        self.tasks.shutdown().await;
    }

    async fn lease(&self) -> Value {
        self.api.get(&LEASE, "kube-system", "kube-controller-manager").await.unwrap()
    }

    /// Waits until there are so many pods, and never more.
    async fn expect_pods(&self, wanted: usize) {
        let start = Instant::now();
        loop {
            let body = self.api.get_raw(POD.path("default"), "application/json").await.unwrap();
            let list: Value = serde_json::from_slice(&body).unwrap();
            let there = list["items"].as_array().unwrap().len();
            assert!(there <= wanted, "{there} pods");
            if there == wanted {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{there} pods");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[test]
fn another_server_takes_over_when_the_leader_dies() {
    simulate(async {
        let world = World::new();
        let a = world.server("a").await;
        world.until_leads("a").await;
        let b = world.server("b").await;
        let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 5,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        // Asked of the server that does not lead.
        b.api.create(&DEPLOYMENT, "default", &deployment).await.unwrap();
        b.expect_pods(5).await;
        assert_eq!(b.lease().await["spec"]["holderIdentity"], "a");
        let patch = json!({"spec": {"replicas": 9}});
        b.api.patch(&DEPLOYMENT, "default", "web", "", PatchKind::Merge, &patch).await.unwrap();
        a.crash().await;
        let took = world.until_leads("b").await;
        assert!((Duration::from_secs(10)..Duration::from_secs(20)).contains(&took), "{took:?}");
        b.expect_pods(9).await;
        sleep(Duration::from_secs(30)).await;
        b.expect_pods(9).await;
        let lease = b.lease().await;
        assert_eq!((&lease["spec"]["holderIdentity"], &lease["spec"]["leaseTransitions"]), (&json!("b"), &json!(1)));
        assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
        assert_eq!(world.leaders(), ["a", "b"]);
        let events = b.api.get_raw(EVENT.path("kube-system"), "application/json").await.unwrap();
        let events: Value = serde_json::from_slice(&events).unwrap();
        let said = |text: &str| {
            events["items"].as_array().unwrap().iter().any(|e| e["message"] == text && e["reason"] == "LeaderElection")
        };
        assert!(said("a became leader") && said("b became leader"), "{events}");
    });
}

#[test]
fn a_leader_that_ends_in_good_order_keeps_nobody_waiting() {
    simulate(async {
        let world = World::new();
        let mut a = world.server("a").await;
        world.until_leads("a").await;
        let b = world.server("b").await;
        a.stop.cancel();
        a.tasks.join_next().await.unwrap().unwrap();
        assert!(world.until_leads("b").await < Duration::from_secs(5));
        // One that comes again as whom it was takes up its own lease at once.
        b.crash().await;
        let b = world.server("b").await;
        assert_eq!(world.leaders().last().unwrap(), "b");
        sleep(Duration::from_millis(200)).await;
        assert_eq!(world.leaders(), ["a", "b", "b"]);
        drop(b);
    });
}

#[test]
fn a_leader_without_the_store_stops_before_another_begins() {
    simulate(async {
        let world = World::new();
        let a = world.server("a").await;
        world.until_leads("a").await;
        let b = world.server("b").await;
        sleep(Duration::from_secs(20)).await;
        let broken = Instant::now();
        a.way.cut(true);
        world.until_leads("b").await;
        let stopped = world.terms.lock()[0].2.expect("it has stopped");
        assert!(stopped.duration_since(broken) <= Duration::from_secs(11));
        assert!(stopped < world.terms.lock()[1].1, "before the other began");
        // It stands again when it can.
        a.way.cut(false);
        sleep(Duration::from_secs(30)).await;
        b.crash().await;
        world.until_leads("a").await;
    });
}
