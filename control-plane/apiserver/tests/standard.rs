//! The server with its usual extensions, from an empty store on: the default policy, joining nodes, service accounts,
//! services.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use xebec_apiserver::authn::{Peer, UserInfo};
use xebec_apiserver::bootstrap::{self, Facts};
use xebec_apiserver::server::{ApiServer, Config};
use xebec_apiserver::standard::{Options, Standard};
use xebec_clock::{Clock, Random};
use xebec_pki::{BootstrapToken, ClusterCa, DEFAULT_ISSUER, KeyAndRequest, ServiceAccountKeys};
use xebec_schema::registry::Registry;
use xebec_store::Store;
use xebec_store::memory::MemoryStore;

struct Cluster {
    server: ApiServer,
    ca: ClusterCa,
}

/// How a request shows who makes it.
#[derive(Clone)]
enum As<'a> {
    Nobody,
    Token(&'a str),
    Certificate(&'a str, &'a str),
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

async fn cluster() -> Cluster {
    let (clock, random) = (Clock::system(), Random::seeded(1));
    let ca = ClusterCa::ephemeral(&clock, &random).unwrap();
    let standard = Standard {
        clock: clock.clone(),
        random: random.clone(),
        keys: Arc::new(ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap()),
        service_cidrs: facts().service_cidrs,
        node_ports: facts().node_port_range,
        anonymous: true,
        jwks_uri: "https://172.30.0.2:6443/openid/v1/jwks".into(),
        nodes: None,
        options: Options::default(),
    };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let config = Config {
        store,
        registry: Registry::builtin(),
        clock,
        random,
        stop: CancellationToken::new(),
        extend: Box::new(move |reader| standard.extensions(reader)),
    };
    let server = ApiServer::start(config).await.unwrap();
    let client = server.client(UserInfo::system("system:apiserver"));
    bootstrap::reconcile(&client, bootstrap::desired(&facts())).await.unwrap();
    Cluster { server, ca }
}

impl Cluster {
    async fn ask(
        &self,
        who: As<'_>,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        if let As::Token(token) = &who {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let As::Certificate(name, group) = who {
            use rustls::pki_types::pem::PemObject;
            let pair = self.ca.client_cert(name, &[group], jiff::SignedDuration::from_hours(1)).unwrap();
            let der = rustls::pki_types::CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
            request = request.extension(Peer { address: None, certificate: Some(Arc::new(der.into())) });
        }
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let body = http_body_util::Full::new(body.into()).map_err(|e| match e {}).boxed_unsync();
        let response = self.server.handle(request.body(body).unwrap()).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap_or_else(|_| panic!("{path} breaks off")).to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn admin(&self, method: Method, path: &str, body: Value) -> Value {
        let (code, value) = self.ask(ADMIN, method, path, &[], body).await;
        assert!(code < 300, "{path}: {value}");
        value
    }
}

const ADMIN: As<'static> = As::Certificate("admin", "system:masters");

#[tokio::test]
async fn a_new_cluster_has_what_upstreams_has() {
    let cluster = cluster().await;
    let service = cluster.admin(Method::GET, "/api/v1/namespaces/default/services/kubernetes", Value::Null).await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let before = cluster.admin(Method::GET, "/api/v1/namespaces", Value::Null).await;
    let client = cluster.server.client(UserInfo::system("system:apiserver"));
    bootstrap::reconcile(&client, bootstrap::desired(&facts())).await.unwrap();
    let after = cluster.admin(Method::GET, "/api/v1/namespaces", Value::Null).await;
    assert_eq!(
        before["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"],
        "a second start changes nothing"
    );
    let path = "/.well-known/openid-configuration";
    assert_eq!(cluster.ask(As::Nobody, Method::GET, path, &[], Value::Null).await.0, 403);
    assert_eq!(cluster.admin(Method::GET, path, Value::Null).await["issuer"], DEFAULT_ISSUER);
    assert_eq!(cluster.ask(As::Nobody, Method::GET, "/version", &[], Value::Null).await.0, 200);
    let (code, refused) = cluster.ask(As::Nobody, Method::GET, "/api/v1/nodes", &[], Value::Null).await;
    assert_eq!(
        (code, refused["message"].as_str().unwrap()),
        (
            403,
            "nodes is forbidden: User \"system:anonymous\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"
        )
    );
    assert_eq!(cluster.ask(As::Token("nonsense"), Method::GET, "/version", &[], Value::Null).await.0, 401);
}

#[tokio::test]
async fn a_node_joins_by_token() {
    let cluster = cluster().await;
    let token = BootstrapToken::generate(&Random::seeded(2));
    let secret = token.to_secret(None, &["system:bootstrappers:xebec:nodes"], "for a test");
    cluster.admin(Method::POST, "/api/v1/namespaces/kube-system/secrets", secret).await;
    let pem = KeyAndRequest::generate("system:node:n1", &["system:nodes"], &[]).unwrap().request_pem;
    let csr = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "n1"},
        "spec": {"request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"]},
    });
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let text = token.to_string();
    let (code, made) = cluster.ask(As::Token(&text), Method::POST, path, &[], csr).await;
    assert_eq!(code, 201, "{made}");
    let (code, _) = cluster.ask(As::Token(&text), Method::GET, "/api/v1/nodes", &[], Value::Null).await;
    assert_eq!(code, 403);

    let node = As::Certificate("system:node:n1", "system:nodes");
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    let (code, made) = cluster.ask(node.clone(), Method::POST, "/api/v1/nodes", &[], object).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    for (path, expected) in [
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", 200),
        // Network policies name pods of other nodes by their labels.
        ("/api/v1/pods", 200),
        ("/api/v1/namespaces/default/pods/other", 403),
        ("/api/v1/services", 200),
        ("/api/v1/nodes", 200),
        ("/apis/discovery.k8s.io/v1/endpointslices", 200),
        ("/api/v1/namespaces/kube-system/configmaps/xebec-cluster", 200),
        ("/api/v1/namespaces/kube-system/secrets", 403),
    ] {
        let (code, answer) = cluster.ask(node.clone(), Method::GET, path, &[], Value::Null).await;
        assert_eq!(code, expected, "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_service_account_has_a_token_while_it_exists() {
    let cluster = cluster().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.admin(Method::POST, accounts, account).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = cluster.admin(Method::POST, &format!("{accounts}/default/token"), request).await;
    let token = made["status"]["token"].as_str().unwrap().to_owned();

    let review = |kind: &str, spec: Value| {
        let group = if kind.contains("Access") || kind.contains("Rules") { "authorization" } else { "authentication" };
        let path = format!("/apis/{group}.k8s.io/v1/{}s", kind.to_lowercase());
        (path, json!({"apiVersion": format!("{group}.k8s.io/v1"), "kind": kind, "spec": spec}))
    };
    let (path, body) = review("SelfSubjectReview", json!({}));
    let (code, me) = cluster.ask(As::Token(&token), Method::POST, &path, &[], body).await;
    assert_eq!(code, 201, "{me}");
    assert_eq!(me["status"]["userInfo"]["username"], "system:serviceaccount:default:default");

    let (path, body) = review("TokenReview", json!({"token": token}));
    let found = cluster.admin(Method::POST, &path, body.clone()).await;
    assert_eq!(found["status"]["authenticated"], true);
    assert_eq!(found["status"]["audiences"], json!([DEFAULT_ISSUER]));

    let asked =
        json!({"user": "jane", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}});
    let (path, body) = review("SubjectAccessReview", asked.clone());
    assert_eq!(cluster.admin(Method::POST, &path, body).await["status"]["allowed"], false);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}],
    });
    cluster.admin(Method::POST, "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let (path, body) = review("SubjectAccessReview", asked);
    let answer = cluster.admin(Method::POST, &path, body).await;
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(
        answer["status"]["reason"],
        "RBAC: allowed by RoleBinding \"jane/default\" of ClusterRole \"view\" to User \"jane\""
    );
    let (path, body) = review("SelfSubjectRulesReview", json!({"namespace": "default"}));
    let jane = &[("impersonate-user", "jane")];
    let (code, rules) = cluster.ask(ADMIN, Method::POST, &path, jane, body).await;
    assert_eq!(code, 201, "{rules}");
    assert!(rules["status"]["resourceRules"].as_array().unwrap().len() > 8, "{rules}");
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(cluster.ask(ADMIN, Method::GET, pods, jane, Value::Null).await.0, 200);
    assert_eq!(cluster.ask(ADMIN, Method::GET, "/api/v1/pods", jane, Value::Null).await.0, 403);
    assert_eq!(cluster.ask(As::Token(&token), Method::GET, pods, jane, Value::Null).await.0, 403);

    cluster.admin(Method::DELETE, &format!("{accounts}/default"), Value::Null).await;
    assert_eq!(cluster.ask(As::Token(&token), Method::GET, "/version", &[], Value::Null).await.0, 401);
}

#[tokio::test]
async fn pods_and_services_are_completed() {
    let cluster = cluster().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    cluster.admin(Method::POST, accounts, account).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "c", "image": "busybox"}], "priorityClassName": "system-node-critical"}});
    let pod = cluster.admin(Method::POST, "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(pod["spec"]["priority"], 2_000_001_000);
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], path);

    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let port = json!([{"port": 80}]);
    let a = cluster.admin(Method::POST, services, service("a", json!({"type": "NodePort", "ports": port}))).await;
    assert!(a["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."), "{a}");
    let node_port = a["spec"]["ports"][0]["nodePort"].clone();
    assert!(node_port.as_u64().unwrap() >= 30000);
    let dns = service("b", json!({"clusterIP": "10.96.0.10", "ports": port}));
    let (code, refused) = cluster.ask(ADMIN, Method::POST, services, &[], dns).await;
    assert_eq!(code, 422, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("provided IP is already allocated"));

    let patch = json!({"spec": {"type": "ClusterIP"}});
    let merge = &[("content-type", "application/merge-patch+json")];
    let path = format!("{services}/a");
    let mut request = Request::builder().method(Method::PATCH).uri(&path);
    request = request.header(merge[0].0, merge[0].1);
    let body = http_body_util::Full::new(patch.to_string().into_bytes().into()).map_err(|e| match e {}).boxed_unsync();
    let mut request = request.body(body).unwrap();
    let admin = UserInfo::system("admin");
    let response = tower::Service::call(&mut cluster.server.in_process(admin), {
        request.headers_mut().remove("authorization");
        request
    });
    assert_eq!(response.await.unwrap().status(), 200);
    let a = cluster.admin(Method::GET, &path, Value::Null).await;
    assert!(a["spec"]["ports"][0].get("nodePort").is_none(), "{a}");
    let again = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]});
    cluster.admin(Method::POST, services, service("c", again)).await;
}

#[tokio::test]
async fn namespaces_are_guarded() {
    let cluster = cluster().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let path = "/api/v1/namespaces/gone/configmaps";
    let (code, refused) = cluster.ask(ADMIN, Method::POST, path, &[], map).await;
    assert_eq!((code, refused["message"].as_str().unwrap()), (404, "namespaces \"gone\" not found"));
    let path = "/api/v1/namespaces/kube-system";
    let (code, refused) = cluster.ask(ADMIN, Method::DELETE, path, &[], Value::Null).await;
    assert_eq!(code, 403, "{refused}");
}
