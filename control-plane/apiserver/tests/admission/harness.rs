//! A server with everything plugged in, over a store in memory.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::Service;
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::bootstrap::{self, Facts};
use xebec_apiserver::server::{ApiServer, Config};
use xebec_apiserver::standard::{Options, Standard};
use xebec_clock::{Clock, Random};
use xebec_pki::{DEFAULT_ISSUER, ServiceAccountKeys};
use xebec_schema::registry::Registry;
use xebec_store::Store;
use xebec_store::memory::MemoryStore;

/// A server.
pub struct Cluster {
    pub server: ApiServer,
    stop: CancellationToken,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub value: Value,
}

impl Answer {
    pub fn message(&self) -> &str {
        self.value["message"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.value);
        self.value
    }

    pub fn warnings(&self) -> Vec<String> {
        let text = |w: &http::HeaderValue| {
            let quoted = w.to_str().ok()?.strip_prefix("299 - \"")?.strip_suffix('"')?;
            Some(quoted.replace("\\\"", "\"").replace("\\\\", "\\"))
        };
        self.headers.get_all("warning").iter().filter_map(text).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn facts() -> Facts {
    Facts {
        secure_port: 6443,
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
        cluster_domain: "cluster.local".into(),
        node_port_range: (30000, 32767),
        load_balancer_pools: Vec::new(),
        client_ca_pem: String::new(),
        request_header_ca_pem: String::new(),
    }
}

/// What the server is made of; tests change it.
pub fn standard() -> Standard {
    Standard {
        clock: Clock::system(),
        random: Random::seeded(1),
        keys: Arc::new(ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap()),
        service_cidrs: facts().service_cidrs,
        node_ports: facts().node_port_range,
        anonymous: true,
        jwks_uri: "https://172.30.0.2:6443/openid/v1/jwks".into(),
        nodes: None,
        options: Options::default(),
    }
}

impl Cluster {
    pub async fn start() -> Self {
        Self::with(standard()).await
    }

    pub async fn with(standard: Standard) -> Self {
        let this = Self::over(Arc::new(MemoryStore::new()), standard).await;
        this.make_first_objects().await;
        this
    }

    /// Makes what every cluster has.
    pub async fn make_first_objects(&self) {
        let client = self.server.client(UserInfo::system("system:apiserver"));
        bootstrap::reconcile(&client, bootstrap::desired(&facts())).await.unwrap();
        let account = json!({"metadata": {"name": "default"}});
        self.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    }

    /// A server over a store, as it is.
    pub async fn over(store: Arc<dyn Store>, standard: Standard) -> Self {
        let stop = CancellationToken::new();
        let config = Config {
            store,
            registry: Registry::builtin(),
            clock: standard.clock.clone(),
            random: standard.random.clone(),
            stop: stop.clone(),
            extend: Box::new(move |reader| standard.extensions(reader)),
        };
        Self { server: ApiServer::start(config).await.unwrap(), stop }
    }

    pub async fn send(&self, user: UserInfo, method: &str, path: &str, content: &str, body: &Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let (parts, body) = self.server.in_process(user).call(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap_or_else(|_| panic!("{path} breaks off")).to_bytes();
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { code: parts.status.as_u16(), headers: parts.headers, value }
    }

    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(UserInfo::system("admin"), method, path, "application/json", body).await
    }

    /// What is served at a path that is no resource.
    pub async fn text(&self, path: &str) -> String {
        let request = Request::get(path).body(Full::new(Bytes::new())).unwrap();
        let response = self.server.in_process(UserInfo::system("admin")).call(request).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap_or_else(|_| panic!("{path} breaks off")).to_bytes();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &Value::Null).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, body).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask("PUT", path, body).await
    }

    pub async fn patch(&self, path: &str, content: &str, body: &Value) -> Answer {
        self.send(UserInfo::system("admin"), "PATCH", path, content, body).await
    }

    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.patch(path, "application/merge-patch+json", body).await
    }
}

/// Where Pods of `default` are.
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod that does nothing.
pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// Whom the API server takes the bearer of a token for: the status code and the review.
pub async fn who(cluster: &Cluster, token: &str) -> (u16, Value) {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {token}"));
    let body = Full::new(review.to_string().into_bytes().into()).map_err(|e| match e {}).boxed_unsync();
    let response = cluster.server.handle(request.body(body).unwrap()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap_or_else(|_| panic!("it breaks off")).to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}
