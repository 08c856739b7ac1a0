//! The life of a node's certificates, by a CA that signs whatever is asked for, on virtual time.

use std::convert::Infallible;

use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use std::sync::Mutex;
use xebec_pki::{ClusterCa, Signer};

use super::*;

/// How long certificates are good for.
const LIFE: SignedDuration = SignedDuration::from_hours(24);

/// An API of one kind: requests, signed as they are made.
struct Api {
    ca: ClusterCa,
    /// The certificates, by number.
    signed: Mutex<Vec<String>>,
    /// Answers nothing.
    down: Mutex<bool>,
}

impl Api {
    fn client(self: &Arc<Self>) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let reply = |code: u16, body: Value| {
            http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap()
        };
        if *self.down.lock().unwrap() {
            return reply(503, json!({"kind": "Status", "status": "Failure", "code": 503, "message": "down"}));
        }
        if parts.method == http::Method::GET {
            let number: usize = parts.uri.path().rsplit('-').next().unwrap().parse().unwrap();
            let certificate = BASE64_STANDARD.encode(&self.signed.lock().unwrap()[number]);
            return reply(200, json!({"status": {"certificate": certificate}}));
        }
        let asked: Value = serde_json::from_slice(&body).unwrap();
        let pem = BASE64_STANDARD.decode(asked["spec"]["request"].as_str().unwrap()).unwrap();
        let signer = Signer::from_name(asked["spec"]["signerName"].as_str().unwrap()).unwrap();
        let usages: Vec<&str> = asked["spec"]["usages"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let made = self.ca.sign_csr(std::str::from_utf8(&pem).unwrap(), signer, &usages, LIFE).unwrap();
        let mut signed = self.signed.lock().unwrap();
        signed.push(made);
        reply(201, json!({"metadata": {"name": format!("csr-{}", signed.len() - 1)}}))
    }
}

struct World {
    api: Arc<Api>,
    node: Node,
    clock: Clock,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let random = Random::seeded(1);
        let ca = ClusterCa::ephemeral(&clock, &random).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let node = Node {
            server: "https://127.0.0.1:1".parse().unwrap(),
            ca: ca.certificate_pem().to_owned(),
            name: "n1".into(),
            serves_as: vec!["n1".into(), "127.0.0.1".into()],
            dir: dir.path().into(),
            token: None,
            clock: clock.clone(),
            random,
        };
        let api = Arc::new(Api { ca, signed: Mutex::default(), down: Mutex::new(false) });
        Self { api, node, clock, _dir: dir }
    }

    /// Keeps a certificate fresh from now on; what is shown.
    async fn keep(&self, purpose: Purpose) -> Arc<Mutex<Certified>> {
        let client = self.api.client();
        let first = self.node.obtain(purpose, || Ok(client.clone())).await.unwrap();
        let shown = Arc::new(Mutex::new(first.clone()));
        let (node, showing) = (self.node.clone(), shown.clone());
        tokio::spawn(async move {
            let show = |new: &Certified| {
                *showing.lock().unwrap() = new.clone();
                Ok(())
            };
            node.keep_fresh(purpose, first, client, show).await;
        });
        shown
    }

    fn valid(&self, shown: &Mutex<Certified>) -> bool {
        let validity = Validity::of_pem(&shown.lock().unwrap().certificate_pem).unwrap();
        (validity.not_before..validity.not_after).contains(&self.clock.now())
    }
}

/// Three days of certificates of a day.
async fn is_renewed_in_time_and_not_too_often(purpose: Purpose) {
    let world = World::new();
    let shown = world.keep(purpose).await;
    for _ in 0..3 * 6 {
        sleep(Duration::from_secs(4 * 3600)).await;
        assert!(world.valid(&shown), "{purpose:?} at {}", world.clock.now());
        let kept = world.node.kept(purpose).expect("it is on disk, too");
        assert_eq!(kept.certificate_pem, shown.lock().unwrap().certificate_pem);
    }
    let made = world.api.signed.lock().unwrap().len();
    assert!((4..=6).contains(&made), "3 days of certificates of a day took {made}");
}

#[tokio::test(start_paused = true)]
async fn client_certificates_are_renewed() {
    is_renewed_in_time_and_not_too_often(Purpose::Client).await;
}

#[tokio::test(start_paused = true)]
async fn serving_certificates_are_renewed() {
    is_renewed_in_time_and_not_too_often(Purpose::Serving).await;
}

#[tokio::test(start_paused = true)]
async fn renewal_follows_the_clock_when_it_is_set() {
    let world = World::new();
    let shown = world.keep(Purpose::Client).await;
    // To shortly before the end, at once.
    world.clock.step(SignedDuration::from_hours(23));
    sleep(Duration::from_secs(120)).await;
    assert_eq!(world.api.signed.lock().unwrap().len(), 2);
    assert!(world.valid(&shown));
    // Back: nothing is due for longer, and nothing is asked for over and over.
    world.clock.step(SignedDuration::from_hours(-3));
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.api.signed.lock().unwrap().len(), 2);
    for _ in 0..6 {
        sleep(Duration::from_secs(4 * 3600)).await;
        let validity = Validity::of_pem(&shown.lock().unwrap().certificate_pem).unwrap();
        assert!(!validity.expired(world.clock.now()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_when_renewal_is_due_is_asked_until_it_is_back() {
    let world = World::new();
    let shown = world.keep(Purpose::Client).await;
    *world.api.down.lock().unwrap() = true;
    sleep(Duration::from_secs(23 * 3600)).await;
    assert_eq!(world.api.signed.lock().unwrap().len(), 1);
    *world.api.down.lock().unwrap() = false;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.api.signed.lock().unwrap().len(), 2);
    assert!(world.valid(&shown));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_certificate_is_over_asks_by_its_token() {
    let mut world = World::new();
    let client = world.api.client();
    let certified = world.node.obtain(Purpose::Client, || Ok(client.clone())).await.unwrap();
    let asks_as_itself = |world: &World| {
        // A client of the node's own goes to 127.0.0.1:1, where nobody is.
        world.node.asking(Purpose::Client, &certified, &client).unwrap()
    };
    let post = || http::Request::get(format!("{REQUESTS}/csr-0")).body(Vec::new()).unwrap();
    world.node.token = Some(BootstrapToken::generate(&world.node.random));
    assert!(asks_as_itself(&world).request::<Value>(post()).await.is_ok());
    world.clock.step(SignedDuration::from_hours(25));
    assert!(asks_as_itself(&world).request::<Value>(post()).await.is_err(), "by the token, over the network");
    world.node.token = None;
    assert!(asks_as_itself(&world).request::<Value>(post()).await.is_ok());
}
