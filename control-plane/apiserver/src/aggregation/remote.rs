//! Another API server: whether it can be reached (kube-aggregator `controllers/status/remote`), and what it serves.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use jiff::Timestamp;
use serde_json::Value;
use xebec_schema::openapi;

use super::tls::{self, Identity};
use super::{proxy, text};
use crate::authn::UserInfo;
use crate::body::RequestBody;
use crate::computed::{self, ComputedApi};
use crate::json::{decode, list};
use crate::reader::Reader;
use crate::server::Shared;
use crate::webhook::{Service, Streaming, streaming};

const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest document that is read of another server.
const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// Another API server, as it serves one version of a group.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) available: bool,
    /// `https://<service>.<namespace>.svc:<port>`.
    pub(crate) base: String,
    pub(crate) clients: Option<Clients>,
    /// `APIResourceList`.
    pub(crate) resources: Value,
    /// What this process serves itself has its OpenAPI 3 document here; else null.
    pub(crate) document: Arc<Value>,
    /// The path of its OpenAPI 3 document, with the hash; empty if it has none.
    pub(crate) openapi_v3: String,
    /// Its Swagger 2 document; null if it has none.
    pub(crate) openapi_v2: Arc<Value>,
    /// `(groupPriorityMinimum, versionPriority)`.
    pub(crate) priorities: (i64, i64),
    /// What it was made from.
    made_from: Value,
}

/// Connections to another API server.
#[derive(Clone)]
pub(crate) struct Clients {
    /// HTTP/2 where the other server speaks it.
    pub(crate) plain: Streaming,
    /// HTTP/1.1, whose connections can be upgraded.
    pub(crate) upgrading: Streaming,
    /// When they are to be made anew, with another certificate of ours.
    renew_at: Timestamp,
}

/// The condition `Available`.
pub(super) struct Condition {
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Condition {
    fn no(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    pub(super) fn is_available(&self) -> bool {
        self.status == "True"
    }
}

/// Looks whether the server of an APIService can be reached. Connections of `old` are kept.
pub(super) async fn check(
    server: &Shared,
    identity: &dyn Identity,
    service: &Value,
    old: Option<Arc<Remote>>,
) -> (Remote, Condition) {
    let mut remote = Remote::new(server, identity, service, old);
    let condition = match reachable(server, service) {
        Err(condition) => condition,
        Ok(()) => match remote.as_mut().map_err(|why| why.clone()) {
            Err(why) => Condition::no("FailedDiscoveryCheck", why),
            Ok(remote) => match remote.discover().await {
                Ok(()) => Condition { status: "True", reason: "Passed", message: "all checks passed".into() },
                Err(why) => Condition::no("FailedDiscoveryCheck", why),
            },
        },
    };
    let mut remote = remote.unwrap_or_else(|_| Remote::unreachable(service));
    remote.available = condition.is_available();
    (remote, condition)
}

/// Whether the service is there, and has endpoints.
fn reachable(server: &Shared, service: &Value) -> Result<(), Condition> {
    let reader: &dyn Reader = &*server.cache;
    let target = target(service);
    let Service { namespace, name, port } = &target;
    let missing = format!("service/{name} in {namespace:?} is not present");
    let entry = reader.get("", "services", namespace, name);
    let object = decode(&entry.ok_or_else(|| Condition::no("ServiceNotFound", missing))?.bytes);
    if object["spec"]["type"].as_str().unwrap_or("ClusterIP") != "ClusterIP" {
        return Ok(());
    }
    let ports = list(&object, "/spec/ports");
    let Some(found) = ports.iter().find(|p| p["port"] == *port) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Err(Condition::no("ServicePortError", message));
    };
    let port_name = found["name"].as_str().unwrap_or_default();
    let slices: Vec<Value> = reader
        .list("discovery.k8s.io", "endpointslices", namespace)
        .iter()
        .filter(|slice| {
            let mut labels = slice.labels.iter();
            labels.any(|(key, value)| &**key == "kubernetes.io/service-name" && **value == **name)
        })
        .map(|slice| decode(&slice.bytes))
        .collect();
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Err(Condition::no("EndpointsNotFound", message));
    }
    let ready = |slice: &Value| {
        list(slice, "/endpoints").iter().any(|e| e["conditions"]["ready"].as_bool() != Some(false))
            && list(slice, "/ports").iter().any(|p| p["name"].as_str().unwrap_or_default() == port_name)
    };
    if !slices.iter().any(ready) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Err(Condition::no("MissingEndpoints", message));
    }
    Ok(())
}

fn target(service: &Value) -> Service {
    let of = |field: &str| service["spec"]["service"][field].as_str().unwrap_or_default().to_owned();
    let port = service["spec"]["service"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    Service { namespace: of("namespace"), name: of("name"), port: port.unwrap_or(443) }
}

impl Remote {
    fn new(
        server: &Shared,
        identity: &dyn Identity,
        service: &Value,
        old: Option<Arc<Remote>>,
    ) -> Result<Self, String> {
        let fresh = |clients: &Clients| server.clock.now() < clients.renew_at;
        if let Some(old) = old.filter(|old| old.made_from == service["spec"] && old.clients.as_ref().is_some_and(fresh))
        {
            return Ok(Self::clone(&old));
        }
        let authorities = STANDARD.decode(text(service, "caBundle")).map_err(|e| e.to_string())?;
        let verify = service["spec"]["insecureSkipTLSVerify"].as_bool() != Some(true);
        let (tls, renew_at) = tls::config(&authorities, verify, identity)?;
        let mut http1 = tls.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = |tls| streaming(server.cache.clone(), target(service), tls);
        let clients = Clients { plain: client(tls), upgrading: client(http1), renew_at };
        Ok(Self { clients: Some(clients), ..Self::unreachable(service) })
    }

    /// What this process serves without storing it.
    pub(super) fn built_in(api: &dyn ComputedApi) -> Self {
        let document = computed::openapi::document(api);
        let hash = openapi::v3_hash_of(&document);
        Self {
            group: api.group().to_owned(),
            version: api.version().to_owned(),
            available: true,
            resources: computed::resources(api),
            openapi_v3: format!("/openapi/v3/apis/{}/{}?hash={hash}", api.group(), api.version()),
            document: Arc::new(document),
            priorities: super::local::COMPUTED_PRIORITIES,
            ..Self::unreachable(&Value::Null)
        }
    }

    pub(super) fn unreachable(service: &Value) -> Self {
        let Service { namespace, name, port } = target(service);
        let priority = |field: &str| service["spec"][field].as_i64().unwrap_or_default();
        Self {
            group: text(service, "group").to_owned(),
            version: text(service, "version").to_owned(),
            available: false,
            base: format!("https://{name}.{namespace}.svc:{port}"),
            clients: None,
            resources: Value::Null,
            document: Arc::new(Value::Null),
            openapi_v3: String::new(),
            openapi_v2: Arc::new(Value::Null),
            priorities: (priority("groupPriorityMinimum"), priority("versionPriority")),
            made_from: service["spec"].clone(),
        }
    }

    /// Reads what the server serves.
    async fn discover(&mut self) -> Result<(), String> {
        let path = format!("/apis/{}/{}", self.group, self.version);
        let url = format!("{}{path}", self.base);
        let failed = |why: String| format!("failing or missing response from {url}: {why}");
        let (code, body) = self.get(&path).await.map_err(|why| failed(format!("Get {url:?}: {why}")))?;
        if !(200..300).contains(&code) {
            return Err(failed(format!("bad status from {url}: {code}")));
        }
        self.resources = serde_json::from_slice(&body).unwrap_or_default();
        // Documents are a convenience: a server without them can be used.
        if let Ok((200, body)) = self.get("/openapi/v3").await {
            let index: Value = serde_json::from_slice(&body).unwrap_or_default();
            let own = &index["paths"][path.trim_start_matches('/')]["serverRelativeURL"];
            self.openapi_v3 = own.as_str().unwrap_or_default().to_owned();
        }
        if let Ok((200, body)) = self.get("/openapi/v2").await {
            self.openapi_v2 = Arc::new(serde_json::from_slice(&body).unwrap_or_default());
        }
        Ok(())
    }

    /// A document of the server.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, Bytes), String> {
        let http = &self.clients.as_ref().ok_or("service unavailable")?.plain;
        let user = UserInfo {
            name: "system:kube-aggregator".into(),
            groups: vec!["system:masters".into()],
            ..UserInfo::default()
        };
        let mut request = Request::get(format!("{}{path}", self.base))
            .header(http::header::ACCEPT, "application/json")
            .body(RequestBody::new(Empty::new().map_err(|never| match never {})))
            .map_err(|e| e.to_string())?;
        proxy::set_user(request.headers_mut(), &user);
        let read = async {
            let response = http.request(request).await.map_err(|e| proxy::why(&e))?;
            let code = response.status().as_u16();
            let body = http_body_util::Limited::new(response.into_body(), MAX_DOCUMENT_BYTES);
            let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok((code, body))
        };
        tokio::time::timeout(TIMEOUT, read).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    }
}
