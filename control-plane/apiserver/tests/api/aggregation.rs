//! A group that another server serves.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use xebec_apiserver::Extensions;
use xebec_apiserver::aggregation::Identity;
use xebec_apiserver::authn::x509::X509;
use xebec_clock::{Clock, Random};
use xebec_pki::{ClusterCa, ServerTls, server_config};

use crate::harness::Api;
use crate::wire::{Wire, echo, echoes};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const GROUP: &str = "/apis/metrics.example.com/v1";

struct FrontProxy(Arc<ClusterCa>);

impl Identity for FrontProxy {
    fn certified(&self) -> Result<(String, String), String> {
        let certified = self.0.client_cert("front-proxy-client", &[], SignedDuration::from_hours(1)).unwrap();
        Ok((certified.certificate_pem, certified.key_pem))
    }
}

/// What the other server says: its resources, or who it thinks asks.
fn answer(request: &Request<Incoming>, shown: bool) -> Response<Full<Bytes>> {
    let header = |name: &str| -> Vec<String> {
        request.headers().get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    };
    let body = match request.uri().path() {
        GROUP => json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.example.com/v1",
            "resources": [{"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing",
                "verbs": ["get", "list"]},
                {"name": "things/status", "singularName": "", "namespaced": true, "kind": "Thing", "verbs": ["get"]}]}),
        "/openapi/v3" => json!({"paths": {"apis/metrics.example.com/v1":
            {"serverRelativeURL": "/openapi/v3/apis/metrics.example.com/v1?hash=ABC"}}}),
        "/openapi/v3/apis/metrics.example.com/v1" => json!({"openapi": "3.0.0", "of": "things"}),
        "/openapi/v2" => json!({"definitions": {"com.example.Thing": {"type": "object"}},
            "paths": {"/apis/metrics.example.com/v1/things": {"get": {}}, "/apis/other/v1/x": {}}}),
        path => json!({"path": path, "query": request.uri().query(), "user": header("x-remote-user"),
            "groups": header("x-remote-group"), "authorization": header("authorization"), "shown": shown}),
    };
    Response::new(Full::new(body.to_string().into()))
}

/// Starts the other server; its port, and the CA of its certificate.
async fn other_server(front_proxy: &ClusterCa) -> (u16, String) {
    let (clock, random) = (Clock::system(), Random::seeded(5));
    let ca = ClusterCa::ephemeral(&clock, &random).unwrap();
    let certified = ca.server_cert("things", &["things.default.svc"], SignedDuration::from_hours(1)).unwrap();
    let tls = ServerTls { certified: &certified, client_ca_pem: front_proxy.certificate_pem() };
    let acceptor = TlsAcceptor::from(server_config(&tls, &clock).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let shown = stream.get_ref().1.peer_certificates().is_some();
                let service = service_fn(move |request: Request<Incoming>| {
                    let upgrade = request.headers().contains_key("upgrade");
                    let response = if upgrade { echo(request) } else { answer(&request, shown) };
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, STANDARD.encode(ca.certificate_pem()))
}

async fn available(api: &Api, name: &str) -> Value {
    for _ in 0..500 {
        let answer = api.get(&format!("{SERVICES}/{name}")).await;
        if answer.code == 200 {
            let service = answer.value();
            let condition = &service["status"]["conditions"][0];
            if condition["status"].is_string() {
                return condition.clone();
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} says nothing: {}", String::from_utf8_lossy(&api.get(&format!("{SERVICES}/{name}")).await.bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_serves_its_group() {
    let front_proxy = Arc::new(ClusterCa::ephemeral(&Clock::system(), &Random::seeded(4)).unwrap());
    let (port, bundle) = other_server(&front_proxy).await;
    let identity: Arc<dyn Identity> = Arc::new(FrontProxy(front_proxy));
    let authenticators = vec![Arc::new(X509::new(&Clock::system())) as _];
    let api = Api::with(Extensions { identity: Some(identity), authenticators, ..Extensions::default() }).await;

    // What is served here has APIServices, too.
    let local = available(&api, "v1.apps").await;
    assert_eq!((&local["status"], &local["reason"]), (&json!("True"), &json!("Local")));

    let mut service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.metrics.example.com"}, "spec": {"group": "metrics.example.com", "version": "v1",
            "groupPriorityMinimum": 1500, "versionPriority": 15, "caBundle": bundle,
            "service": {"namespace": "default", "name": "things", "port": port}}});
    api.post(SERVICES, &service).await.expect(201);
    let missing = available(&api, "v1.metrics.example.com").await;
    assert_eq!(missing["reason"], "ServiceNotFound");
    assert_eq!(missing["message"], "service/things in \"default\" is not present");
    assert_eq!(api.get(&format!("{GROUP}/things")).await.code, 503);

    api.post(
        "/api/v1/namespaces/default/services",
        &json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "things"}, "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}}),
    )
    .await
    .expect(201);
    for _ in 0..500 {
        if available(&api, "v1.metrics.example.com").await["status"] == "True" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let condition = available(&api, "v1.metrics.example.com").await;
    assert_eq!(condition["message"], "all checks passed", "{condition}");

    let headers = [("authorization", "Bearer secret"), ("x-remote-group", "forged")];
    let echo = api.send("GET", &format!("{GROUP}/namespaces/a/things?limit=5"), &headers, "").await.expect(200);
    assert_eq!(echo["path"], "/apis/metrics.example.com/v1/namespaces/a/things");
    assert_eq!((&echo["query"], &echo["user"], &echo["shown"]), (&json!("limit=5"), &json!(["admin"]), &json!(true)));
    assert_eq!(echo["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(echo["authorization"], json!([]));

    let wire = Wire::listen(&api).await;
    let path = format!("{GROUP}/namespaces/a/things/b/attach");
    let mut stream = wire.upgrade("POST", &format!("{path}?tty=true"), &format!("POST {path}?tty=true")).await;
    echoes(&mut stream).await;
    drop(stream);
    wire.end().await;
    let refused = api.send("POST", &path, &[("upgrade", "SPDY/3.1")], "").await;
    assert_eq!(refused.message(), "this connection cannot be upgraded; use HTTP/1.1");

    let groups = api.get("/apis").await.expect(200);
    let names: Vec<&str> = groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"metrics.example.com"), "{names:?}");
    let group = api.get("/apis/metrics.example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["groupVersion"], "metrics.example.com/v1");
    assert_eq!(api.get(GROUP).await.expect(200)["resources"][0]["name"], "things");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = api.send("GET", "/apis", &[("accept", accept)], "").await.expect(200);
    let items = aggregated["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["metadata"]["name"] == "metrics.example.com").unwrap();
    let resource = &item["versions"][0]["resources"][0];
    assert_eq!(
        (&resource["scope"], &resource["subresources"][0]["subresource"]),
        (&json!("Namespaced"), &json!("status"))
    );
    let index = api.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/metrics.example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(api.get(url).await.expect(200)["of"], "things");
    let v2 = api.get("/openapi/v2").await.expect(200);
    assert!(
        v2["paths"].get("/apis/metrics.example.com/v1/things").is_some()
            && v2["paths"].get("/apis/other/v1/x").is_none()
    );
    assert_eq!(v2["definitions"]["com.example.Thing"]["type"], "object");

    api.delete(&format!("{SERVICES}/v1.metrics.example.com")).await.expect(200);
    for _ in 0..500 {
        if api.get(GROUP).await.code == 404 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    api.get("/apis/metrics.example.com").await.expect(404);
    service["metadata"]["name"] = "wrong".into();
    let refused = api.post(SERVICES, &service).await;
    assert!(refused.message().contains("must be `spec.version+\".\"+spec.group`: \"v1.metrics.example.com\""));
}
