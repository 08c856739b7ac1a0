//! What is fed, and what has to hold.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower::Service as _;
use xebec_apiserver::audit;
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::authn::oidc::config::AuthenticationConfig;
use xebec_apiserver::query::Query;
use xebec_apiserver::{ApiServer, Config, Extensions, request, verbs};
use xebec_clock::{Clock, Random};
use xebec_pki::{BootstrapToken, DEFAULT_ISSUER, ServiceAccountKeys};
use xebec_schema::apply::managed::Managed;
use xebec_schema::cel::admission::{Sees, environment};
use xebec_schema::cel::{self, Activation, Budget};
use xebec_schema::registry::Registry;
use xebec_schema::selector::{FieldSelector, LabelSelector};
use xebec_schema::types::Definition;
use xebec_schema::{decode, defaults, patch, policy, protobuf as proto, walk};
use xebec_store::encrypted::EncryptionConfiguration;
use xebec_store::memory::MemoryStore;

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);

fn definition(group: &str, kind: &str) -> &'static Definition {
    REGISTRY.by_kind(group, "v1", kind).and_then(|row| row.definition()).expect("a kind")
}

/// What decodes goes through everything that reads decoded objects.
fn read(mut value: Value) {
    for kind in ["Deployment", "StatefulSet"] {
        let definition = definition("apps", kind);
        if walk::check(definition, &value).is_ok() {
            walk::unknown(definition, &value);
            walk::prune_as(definition, &mut value);
            defaults::apply_as(definition, &mut value);
            let once = value.clone();
            walk::prune_as(definition, &mut value);
            defaults::apply_as(definition, &mut value);
            assert_eq!(value, once, "in form is in form");
        }
    }
}

pub fn json(input: &[u8]) {
    let ours = decode::from_json(input);
    let theirs: Result<Value, _> = serde_json::from_slice(input);
    assert_eq!(ours.is_ok(), theirs.is_ok(), "accepted by one of two decoders");
    if let Ok(decoded) = ours {
        read(decoded.value);
    }
}

pub fn yaml(input: &[u8]) {
    if let Ok(value) = verbs::decode::yaml_lenient(input) {
        read(value);
    }
    let _ = verbs::decode::yaml_strict(input);
}

pub fn protobuf(input: &[u8]) {
    let Ok(envelope) = proto::envelope(input) else { return };
    for (group, kind) in [("", "Pod"), ("apps", "Deployment"), ("", "ConfigMap")] {
        if let Ok(value) = envelope.to_json(definition(group, kind)) {
            read(value);
        }
    }
}

pub fn patches(input: &[u8]) {
    let Ok(decoded) = decode::from_json(input) else { return };
    let object = json!({
        "metadata": {"name": "a", "labels": {"a": "b"}, "finalizers": ["x"]},
        "spec": {"replicas": 1, "template": {"spec": {
            "containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 80}]}],
            "volumes": [{"name": "v", "emptyDir": {}}]}}},
    });
    let definition = definition("apps", "Deployment");
    let _ = patch::json_patch(&object, &decoded.value);
    if let Ok(once) = patch::merge_patch(&object, &decoded.value) {
        assert_eq!(patch::merge_patch(&once, &decoded.value).ok(), Some(once), "twice is once");
    }
    let _ = patch::strategic_merge_as(definition, &object, &decoded.value);
}

pub fn selectors(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(selector) = LabelSelector::parse(&text) {
        let shown = selector.to_string();
        let again = LabelSelector::parse(&shown).unwrap_or_else(|e| panic!("{shown}: {e}"));
        assert_eq!(again.to_string(), shown, "a selector is what it says");
    }
    let _ = FieldSelector::parse(&text);
}

pub fn managed_fields(input: &[u8]) {
    let Ok(decoded) = decode::from_json(input) else { return };
    if let Ok(managed) = Managed::read(&decoded.value) {
        let list = managed.write().unwrap_or_default();
        assert_eq!(Managed::read(&list).ok(), Some(managed), "written and read is the same");
    }
}

pub fn paths(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let query = Query::parse(Some(query));
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let _ = request::parse(&REGISTRY, &method, path, &query);
    }
}

static KEYS: LazyLock<ServiceAccountKeys> =
    LazyLock::new(|| ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).expect("keys"));

pub fn tokens(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    assert!(KEYS.verify(&text, &[], now).is_err(), "nobody but us signs");
    if let Ok(token) = text.parse::<BootstrapToken>() {
        assert_eq!(token.to_string(), text);
    }
    let _ = xebec_pki::RequestedIdentity::of_pem(&text);
}

/// An expression, on an object.
pub fn cel(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let sees = Sees { params: true, authorizer: false, patches: true };
    let object = json!({"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {"replicas": 3, "list": [1, 2, 3],
        "text": "1Gi", "map": {"x": {"y": [true, null, 1.5]}}}});
    if let Ok(program) = cel::compile(&text, &environment(sees)) {
        let on = Activation::new().value("object", &object).value("oldObject", &Value::Null).value("params", &object);
        let mut budget = Budget::default();
        if let Ok(value) = program.evaluate(&on, &mut budget) {
            let _ = value.to_json();
        }
        assert_eq!(
            cel::compile(program.source(), &environment(sees)).map(|p| p.result_type().clone()).ok().as_ref(),
            Some(program.result_type()),
            "an expression has one type"
        );
    }
}

/// What operators write: whose secrets are encrypted, who may log in, what is noted.
pub fn configurations(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = EncryptionConfiguration::parse(&text);
    let _ = audit::Policy::parse(&text);
    if let Ok(value) = verbs::decode::yaml_lenient(input) {
        let _ = AuthenticationConfig::read(&value);
        let (policy, errors) = policy::policy(&value["spec"], true);
        let said = value["spec"]["mutations"].as_array().map_or(0, Vec::len);
        assert!(policy.mutations.len() <= said, "{errors:?}");
    }
}

/// A CustomResourceDefinition: what is accepted can be served.
pub fn definitions(input: &[u8]) {
    let Ok(mut value) = verbs::decode::yaml_lenient(input) else { return };
    let row = REGISTRY.by_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").expect("a kind");
    let definition = row.definition().expect("a definition");
    if walk::check(definition, &value).is_err() {
        return;
    }
    walk::prune_as(definition, &mut value);
    defaults::apply_as(definition, &mut value);
    (row.strategy.default)(&mut value);
    let _ = (row.strategy.validate)(&value);
}

/// A whole server.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    server: ApiServer,
}

impl Server {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let server = runtime.block_on(ApiServer::start(Config {
            store: std::sync::Arc::new(MemoryStore::new()),
            registry: Registry::builtin(),
            clock: Clock::simulated("2026-01-01T00:00:00Z".parse().expect("a time")),
            random: Random::seeded(1),
            stop: tokio_util::sync::CancellationToken::new(),
            extend: Box::new(|_| Extensions::default()),
        }));
        Self { runtime, server: server.expect("a server") }
    }

    /// The first line is method, path and content type, the rest the body.
    pub fn request(&self, input: &[u8]) {
        let (head, body) = input.split_at(input.iter().position(|b| *b == b'\n').unwrap_or(input.len()));
        let head = String::from_utf8_lossy(head);
        let mut words = head.split_whitespace();
        let (method, path) = (words.next().unwrap_or("GET"), words.next().unwrap_or("/"));
        // Streams have no end.
        if path.contains("watch") {
            return;
        }
        let request = Request::builder().method(method).uri(path).header("content-type", words.next().unwrap_or(""));
        let Ok(request) = request.body(Full::new(Bytes::copy_from_slice(body))) else { return };
        let mut service = self.server.in_process(UserInfo::system("admin"));
        let answer = self.runtime.block_on(async {
            let (parts, body) = service.call(request).await.expect("infallible").into_parts();
            (parts.status.as_u16(), body.collect().await.expect("a body").to_bytes())
        });
        let text = String::from_utf8_lossy(&answer.1);
        // An applied configuration of the wrong type is a 500 upstream, too.
        let typed = text.contains("failed to create typed patch object") || text.contains("failed to merge config");
        // Nor does it know what will be.
        let future = answer.0 == 504 && text.contains("ResourceVersionTooLarge");
        assert!(answer.0 < 500 || typed || future, "{}: {text}", answer.0);
    }
}
