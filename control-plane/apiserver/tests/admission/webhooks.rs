//! Admission webhooks over real connections: what they are sent, what they may say, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use xebec_apiserver::reader::{Entry, Reader};
use xebec_apiserver::webhook::{Target, WebhookClient};

use super::harness::{Cluster, PODS, pod};
use super::hook::{Hook, allow, answer, patch};

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

/// A webhook for all that is done to ConfigMaps, with what a test says beyond.
fn webhook(name: &str, hook: &Hook, more: Value) -> Value {
    let mut webhook = json!({
        "name": name, "clientConfig": hook.config(), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["*"]}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        webhook[key] = value.clone();
    }
    webhook
}

fn configuration(path: &str, webhooks: Vec<Value>) -> Value {
    let kind = if path == MUTATING { "MutatingWebhookConfiguration" } else { "ValidatingWebhookConfiguration" };
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "test"},
        "webhooks": webhooks})
}

async fn with(path: &str, webhooks: Vec<Value>) -> Cluster {
    let cluster = Cluster::start().await;
    cluster.post(path, &configuration(path, webhooks)).await.expect(201);
    cluster
}

#[tokio::test]
async fn a_mutating_webhook_changes_the_object() {
    let hook = Hook::local(|review| patch(review, &json!([{"op": "add", "path": "/data/b", "value": "2"}]))).await;
    let cluster = with(MUTATING, vec![webhook("a.example.com", &hook, json!({}))]).await;
    let made = cluster.post(MAPS, &map("m")).await.expect(201);
    assert_eq!(made["data"], json!({"a": "1", "b": "2"}));
    let stored = cluster.get(&format!("{MAPS}/m")).await.expect(200);
    assert_eq!(stored["data"], json!({"a": "1", "b": "2"}));
    cluster.merge(&format!("{MAPS}/m"), &json!({"data": {"c": "3"}})).await.expect(200);
    cluster.ask("DELETE", &format!("{MAPS}/m"), &json!({"gracePeriodSeconds": 3})).await.expect(500);
    let reviews = hook.reviews();
    let request = &reviews[0]["request"];
    assert_eq!(
        (&reviews[0]["kind"], &reviews[0]["apiVersion"]),
        (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
    );
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["requestKind"], &request["requestResource"]), (&request["kind"], &request["resource"]));
    assert_eq!((&request["name"], &request["namespace"]), (&json!("m"), &json!("default")));
    assert_eq!((&request["operation"], &request["dryRun"]), (&json!("CREATE"), &json!(false)));
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["object"]["data"], json!({"a": "1"}));
    assert_eq!(request["oldObject"], Value::Null);
    assert_eq!(request["options"]["kind"], "CreateOptions");
    let request = &reviews[1]["request"];
    assert_eq!((&request["operation"], &request["options"]["kind"]), (&json!("UPDATE"), &json!("PatchOptions")));
    assert_eq!(request["oldObject"]["data"], json!({"a": "1", "b": "2"}));
    let request = &reviews[2]["request"];
    assert_eq!((&request["operation"], &request["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(request["oldObject"]["metadata"]["name"], "m");
    assert_eq!(request["options"]["gracePeriodSeconds"], 3);
    assert_eq!(hook.connections(), 1, "the connection is kept");
}

#[tokio::test]
async fn a_denial_is_in_the_webhooks_words() {
    let hook = Hook::local(|review| {
        let warnings = json!(["careful"]);
        match review["request"]["name"].as_str() {
            Some("plain") => answer(review, json!({"allowed": false})),
            Some("worded") => answer(
                review,
                json!({"allowed": false, "warnings": warnings,
                "status": {"message": "no maps today", "code": 403, "reason": "Forbidden"}}),
            ),
            _ => answer(review, json!({"allowed": true, "warnings": warnings})),
        }
    })
    .await;
    let cluster = with(VALIDATING, vec![webhook("v.example.com", &hook, json!({}))]).await;
    let denied = cluster.post(MAPS, &map("plain")).await;
    assert_eq!(denied.code, 400);
    assert_eq!(denied.message(), "admission webhook \"v.example.com\" denied the request without explanation");
    let denied = cluster.post(MAPS, &map("worded")).await;
    assert_eq!((denied.code, &denied.value["reason"]), (403, &json!("Forbidden")));
    assert_eq!(denied.message(), "admission webhook \"v.example.com\" denied the request: no maps today");
    let made = cluster.post(MAPS, &map("fine")).await;
    assert_eq!((made.code, made.warnings()), (201, vec!["careful".to_owned()]));
}

#[tokio::test]
async fn what_fails_is_told_as_go_tells_it() {
    let hook = Hook::local(|review| match review["request"]["name"].as_str() {
        Some("slow") => (0, Vec::new()),
        Some("garbage") => (200, b"<html>".to_vec()),
        Some("other-uid") => {
            let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "response": {"uid": "x", "allowed": true}});
            (200, answer.to_string().into_bytes())
        }
        Some("broken") => (500, b"oops".to_vec()),
        Some("huge") => (200, vec![b' '; 40 << 20]),
        Some("bad-patch") => patch(review, &json!([{"op": "remove", "path": "/nothing/there"}])),
        Some("mistyped") => patch(review, &json!([{"op": "add", "path": "/data", "value": 1}])),
        _ => allow(review),
    })
    .await;
    let cluster = with(MUTATING, vec![webhook("f.example.com", &hook, json!({"timeoutSeconds": 1}))]).await;
    let url = format!("https://localhost:{}/hook?timeout=1s", hook.address.port());
    let uid = cluster.post(MAPS, &map("other-uid")).await;
    let sent = hook.reviews()[0]["request"]["uid"].as_str().unwrap().to_owned();
    let failed = "Internal error occurred: failed calling webhook \"f.example.com\":";
    assert_eq!((uid.code, uid.value["reason"].as_str()), (500, Some("InternalError")));
    assert_eq!(
        uid.message(),
        format!("{failed} received invalid webhook response: expected response.uid={sent:?}, got \"x\"")
    );
    let expect = |name: &'static str, words: String| {
        let cluster = &cluster;
        async move {
            let answer = cluster.post(MAPS, &map(name)).await;
            assert_eq!(answer.code, 500, "{name}: {}", answer.value);
            assert!(answer.message().starts_with(&words), "{name}: {}", answer.message());
        }
    };
    expect("slow", format!("{failed} failed to call webhook: Post {url:?}: context deadline exceeded")).await;
    expect("garbage", format!("{failed} failed to call webhook: couldn't get version/kind; json parse error")).await;
    let words = "an error on the server (\"oops\") has prevented the request from succeeding";
    expect("broken", format!("{failed} failed to call webhook: {words}")).await;
    expect("huge", format!("{failed} failed to call webhook: the answer is longer than")).await;
    expect("bad-patch", "Internal error occurred: ".into()).await;
    expect("mistyped", "Internal error occurred: ".into()).await;
    cluster.post(MAPS, &map("fine")).await.expect(201);
}

#[tokio::test]
async fn a_webhook_has_to_prove_who_it_is() {
    let (hook, other) = (Hook::local(allow).await, Hook::start(&["elsewhere.example.com"], allow).await);
    let cluster = with(VALIDATING, vec![webhook("c.example.com", &hook, json!({}))]).await;
    cluster.post(MAPS, &map("good")).await.expect(201);
    let reconfigure = async |config: Value| {
        let new = configuration(VALIDATING, vec![webhook("c.example.com", &hook, json!({"clientConfig": config}))]);
        cluster.merge(&format!("{VALIDATING}/test"), &new).await.expect(200);
    };
    let mut config = hook.config();
    config["caBundle"] = other.bundle().into();
    reconfigure(config).await;
    let answer = cluster.post(MAPS, &map("a")).await;
    let words = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert!(answer.code == 500 && answer.message().ends_with(words), "{}", answer.message());
    reconfigure(other.config()).await;
    let answer = cluster.post(MAPS, &map("a")).await;
    let words = "x509: certificate is not valid for any names, but wanted to match localhost";
    assert!(answer.code == 500 && answer.message().ends_with(words), "{}", answer.message());
    drop(hook);
}

#[tokio::test]
async fn a_webhook_that_may_fail_does() {
    let hook = Hook::local(allow).await;
    let dead =
        json!({"failurePolicy": "Ignore", "clientConfig": {"url": "https://127.0.0.1:1/x", "caBundle": hook.bundle()}});
    let cluster = with(VALIDATING, vec![webhook("o.example.com", &hook, dead.clone())]).await;
    cluster.post(MAPS, &map("m")).await.expect(201);
    let mut closed = dead;
    closed["failurePolicy"] = "Fail".into();
    let new = configuration(VALIDATING, vec![webhook("o.example.com", &hook, closed)]);
    cluster.merge(&format!("{VALIDATING}/test"), &new).await.expect(200);
    let answer = cluster.post(MAPS, &map("n")).await;
    assert_eq!(
        answer.message(),
        "Internal error occurred: failed calling webhook \"o.example.com\": failed to call webhook: Post \
         \"https://127.0.0.1:1/x?timeout=10s\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
}

#[tokio::test]
async fn services_are_reached_at_their_endpoints() {
    let hook = Hook::start(&["hook.default.svc"], allow).await;
    let client = json!({"service": {"name": "hook", "namespace": "default", "path": "/x"}, "caBundle": hook.bundle()});
    let cluster = with(VALIDATING, vec![webhook("s.example.com", &hook, json!({"clientConfig": client}))]).await;
    let failed = |why: &str| {
        format!("Internal error occurred: failed calling webhook \"s.example.com\": failed to call webhook: {why}")
    };
    assert_eq!(cluster.post(MAPS, &map("a")).await.message(), failed("service \"hook\" not found"));
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443, "targetPort": 8443}]}});
    cluster.post("/api/v1/namespaces/default/services", &service).await.expect(201);
    let message = failed("no endpoints available for service \"hook\"");
    assert_eq!(cluster.post(MAPS, &map("a")).await.message(), message);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "ports": [{"name": "", "port": hook.address.port()}],
        "endpoints": [{"addresses": ["10.9.9.9"], "conditions": {"ready": false}}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    cluster.post(slices, &slice).await.expect(201);
    assert_eq!(cluster.post(MAPS, &map("a")).await.message(), message);
}

/// A service `hook` in `default` whose only endpoint is on loopback, as the API would not have it.
struct OneService(std::net::SocketAddr);

impl Reader for OneService {
    fn get(&self, _: &str, plural: &str, _: &str, name: &str) -> Option<Arc<Entry>> {
        let service = json!({"spec": {"ports": [{"name": "https", "port": 443}]}});
        (plural == "services" && name == "hook").then(|| entry(&service, &[]))
    }

    fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<Entry>> {
        let slice = json!({"ports": [{"name": "https", "port": self.0.port()}],
            "endpoints": [{"addresses": [self.0.ip().to_string()]}]});
        vec![entry(&slice, &[("kubernetes.io/service-name".into(), "hook".into())])]
    }

    fn generation(&self, _: &str, _: &str) -> u64 {
        0
    }
}

fn entry(object: &Value, labels: &[(Box<str>, Box<str>)]) -> Arc<Entry> {
    Arc::new(Entry {
        namespace: "default".into(),
        name: "hook".into(),
        uid: "u".into(),
        revision: 1,
        labels: labels.into(),
        fields: Arc::new([]),
        bytes: object.to_string().into(),
    })
}

#[tokio::test]
async fn a_service_proves_to_be_itself() {
    let hook = Hook::start(&["hook.default.svc"], allow).await;
    let client = WebhookClient::new(Arc::new(OneService(hook.address)));
    let config = json!({"service": {"name": "hook", "namespace": "default"}, "caBundle": hook.bundle()});
    let target = Target::from_client_config(&config).unwrap();
    for _ in 0..3 {
        client.post(&target, "{}".into(), Duration::from_secs(5)).await.unwrap();
    }
    assert_eq!(hook.connections(), 1);
    let impostor = Hook::start(&["other.default.svc"], allow).await;
    let client = WebhookClient::new(Arc::new(OneService(impostor.address)));
    let config = json!({"service": {"name": "hook", "namespace": "default"}, "caBundle": impostor.bundle()});
    let error = client.post(&Target::from_client_config(&config).unwrap(), "{}".into(), Duration::from_secs(5)).await;
    let words = "wanted to match hook.default.svc";
    assert!(error.as_ref().is_err_and(|e| e.to_string().ends_with(words)), "{error:?}");
}

#[tokio::test]
async fn rules_selectors_and_conditions_choose() {
    let hook = Hook::local(|review| answer(review, json!({"allowed": false, "status": {"message": "seen"}}))).await;
    let more = json!({
        "objectSelector": {"matchLabels": {"watched": "yes"}},
        "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]}]},
        "matchConditions": [
            {"name": "not-exempt", "expression": "!has(object.data) || !('exempt' in object.data)"},
            {"name": "not-root", "expression": "request.userInfo.username != 'root'"}],
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"], "scope": "Namespaced"}]});
    let cluster = with(VALIDATING, vec![webhook("r.example.com", &hook, more)]).await;
    let labelled = |name: &str, data: Value| {
        let mut map = map(name);
        map["metadata"]["labels"] = json!({"watched": "yes"});
        map["data"] = data;
        map
    };
    let denied = cluster.post(MAPS, &labelled("a", json!({}))).await;
    assert_eq!(denied.message(), "admission webhook \"r.example.com\" denied the request: seen");
    cluster.post(MAPS, &map("unlabelled")).await.expect(201);
    cluster.post(MAPS, &labelled("exempt", json!({"exempt": "1"}))).await.expect(201);
    cluster.post("/api/v1/namespaces/kube-system/configmaps", &labelled("system", json!({}))).await.expect(201);
    let root = xebec_apiserver::authn::UserInfo::system("root");
    cluster.send(root, "POST", MAPS, "application/json", &labelled("root", json!({}))).await.expect(201);
    cluster.merge(&format!("{MAPS}/exempt"), &json!({"data": {"exempt": null}})).await.expect(200);
    assert_eq!(hook.reviews().len(), 1);
}

#[tokio::test]
async fn dry_runs_are_for_those_without_side_effects() {
    let hook = Hook::local(allow).await;
    let cluster = with(VALIDATING, vec![webhook("d.example.com", &hook, json!({"sideEffects": "NoneOnDryRun"}))]).await;
    cluster.post(&format!("{MAPS}?dryRun=All"), &map("a")).await.expect(201);
    let request = &hook.reviews()[0]["request"];
    assert_eq!((&request["dryRun"], &request["options"]["dryRun"]), (&json!(true), &json!(["All"])));
    cluster.get(&format!("{MAPS}/a")).await.expect(404);
}

#[tokio::test]
async fn webhooks_are_called_again_if_they_ask() {
    let first = Hook::local(|review| {
        // Copies what the second has set, once it has.
        match review["request"]["object"]["data"]["second"].as_str() {
            Some(value) => patch(review, &json!([{"op": "add", "path": "/data/copied", "value": value}])),
            None => allow(review),
        }
    })
    .await;
    let second =
        Hook::local(|review| patch(review, &json!([{"op": "add", "path": "/data/second", "value": "2"}]))).await;
    let cluster = with(
        MUTATING,
        vec![
            webhook("a.example.com", &first, json!({"reinvocationPolicy": "IfNeeded"})),
            webhook("b.example.com", &second, json!({})),
        ],
    )
    .await;
    let made = cluster.post(MAPS, &map("m")).await.expect(201);
    assert_eq!(made["data"], json!({"a": "1", "second": "2", "copied": "2"}));
    assert_eq!((first.reviews().len(), second.reviews().len()), (2, 1));
}

#[tokio::test]
async fn configurations_are_never_put_before_webhooks() {
    let hook = Hook::local(|review| answer(review, json!({"allowed": false}))).await;
    let all = json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "operations": ["*"]}]});
    let cluster = with(VALIDATING, vec![webhook("all.example.com", &hook, all)]).await;
    assert_eq!(cluster.post(MAPS, &map("m")).await.code, 400);
    cluster.ask("DELETE", &format!("{VALIDATING}/test"), &Value::Null).await.expect(200);
    cluster.post(MAPS, &map("m")).await.expect(201);
}

#[tokio::test]
async fn subresources_and_other_versions_are_reviewed() {
    let hook = Hook::local(allow).await;
    let rules = json!({"rules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/status", "pods/binding", "events"], "operations": ["*"]},
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"], "operations": ["*"]}]});
    let cluster = with(VALIDATING, vec![webhook("s.example.com", &hook, rules)]).await;
    cluster.post(PODS, &pod("p")).await.expect(201);
    cluster.merge(&format!("{PODS}/p/status"), &json!({"status": {"phase": "Running"}})).await.expect(200);
    let reviews = hook.reviews();
    assert_eq!(reviews.len(), 1);
    let request = &reviews[0]["request"];
    assert_eq!((&request["subResource"], &request["requestSubResource"]), (&json!("status"), &json!("status")));
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c.example.com/x", "reportingInstance": "i",
        "action": "A", "reason": "R", "type": "Normal", "note": "hello",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    cluster.post("/apis/events.k8s.io/v1/namespaces/default/events", &event).await.expect(201);
    let request = &hook.reviews()[1]["request"];
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "Event"}));
    assert_eq!(request["requestKind"], json!({"group": "events.k8s.io", "version": "v1", "kind": "Event"}));
    assert_eq!(request["object"]["message"], "hello", "converted to the version that the rule names");
}

#[tokio::test]
async fn custom_resources_are_shown_in_the_version_of_the_rule() {
    let hook = Hook::local(|review| patch(review, &json!([{"op": "add", "path": "/spec/size", "value": 7}]))).await;
    let rules = json!({"rules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["widgets"], "operations": ["CREATE"]}]});
    let cluster = with(MUTATING, vec![webhook("w.example.com", &hook, rules)]).await;
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": {
                "size": {"type": "integer"}, "color": {"type": "string", "default": "red"}}}}}}})
    };
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [version("v1", true), version("v2", false)]}});
    cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await.expect(201);
    let path = "/apis/example.com/v2/namespaces/default/widgets";
    let widget = json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "w"}, "spec": {}});
    let served = async {
        while cluster.get(path).await.code != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), served).await.expect("the kind is served");
    let made = cluster.post(path, &widget).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["spec"]), (&json!("example.com/v2"), &json!({"size": 7, "color": "red"})));
    let reviews = hook.reviews();
    let request = &reviews[0]["request"];
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(request["object"]["apiVersion"], "example.com/v1");
    assert_eq!(reviews.len(), 1);
}

#[tokio::test]
async fn ten_webhooks_take_little_time() {
    let mut hooks = Vec::new();
    for n in 0..10 {
        hooks.push(
            Hook::local(move |review| {
                patch(review, &json!([{"op": "add", "path": format!("/data/k{n}"), "value": "v"}]))
            })
            .await,
        );
    }
    let webhooks = hooks.iter().enumerate();
    let webhooks = webhooks.map(|(n, hook)| webhook(&format!("h{n}.example.com"), hook, json!({}))).collect();
    let cluster = with(MUTATING, webhooks).await;
    cluster.post(MAPS, &map("warm")).await.expect(201);
    let start = tokio::time::Instant::now();
    for n in 0..20 {
        let made = cluster.post(MAPS, &map(&format!("m{n}"))).await.expect(201);
        assert_eq!(made["data"].as_object().unwrap().len(), 11);
    }
    // The figure is the bench's; this is against a connection or a wait a call.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(hooks.iter().all(|hook| hook.connections() == 1));
}

#[tokio::test]
async fn an_eviction_is_reviewed_as_what_it_is() {
    let hook = Hook::local(|review| {
        let dry = review["request"]["dryRun"] == true;
        answer(review, json!({"allowed": dry, "status": {"message": "it stays"}}))
    })
    .await;
    let rules = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["pods/eviction", "pods"],
        "operations": ["CREATE", "DELETE"]}]);
    let cluster = Cluster::start().await;
    cluster.post(PODS, &pod("p")).await.expect(201);
    let webhook = webhook("v.example.com", &hook, json!({"rules": rules}));
    cluster.post(VALIDATING, &configuration(VALIDATING, vec![webhook])).await.expect(201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let path = format!("{PODS}/p/eviction");
    let refused = cluster.post(&path, &eviction).await;
    assert_eq!(refused.message(), "admission webhook \"v.example.com\" denied the request: it stays");
    cluster.post(&format!("{path}?dryRun=All"), &eviction).await.expect(201);
    let reviews = hook.reviews();
    assert_eq!(reviews.len(), 2, "the deletion is none of its business: {reviews:?}");
    let request = &reviews[0]["request"];
    assert_eq!((&request["operation"], &request["subResource"]), (&json!("CREATE"), &json!("eviction")));
    assert_eq!(request["kind"], json!({"group": "policy", "version": "v1", "kind": "Eviction"}));
    assert_eq!(request["object"]["metadata"]["name"], "p");
}

#[tokio::test]
async fn calls_are_counted() {
    let no = Hook::local(|review| match review["request"]["name"].as_str() {
        Some("no") => answer(review, json!({"allowed": false, "status": {"code": 418, "message": "tea"}})),
        Some("bad") => (500, Vec::new()),
        _ => allow(review),
    })
    .await;
    let failing = Hook::local(|_| (503, Vec::new())).await;
    let hooks = vec![
        webhook("no.example.com", &no, json!({})),
        webhook("open.example.com", &failing, json!({"failurePolicy": "Ignore"})),
    ];
    let cluster = with(VALIDATING, hooks).await;
    cluster.post(MAPS, &map("yes")).await.expect(201);
    cluster.post(MAPS, &map("no")).await.expect(418);
    cluster.post(MAPS, &map("bad")).await.expect(500);
    let metrics = cluster.text("/metrics").await;
    let labels = |name: &str, rejected: &str| {
        format!("name=\"{name}.example.com\",operation=\"CREATE\",rejected=\"{rejected}\",type=\"validating\"}} ")
    };
    let rejection = |error: &str, code: u16| {
        format!(
            "{{error_type=\"{error}\",name=\"no.example.com\",operation=\"CREATE\",rejection_code=\"{code}\",type=\"validating\"}} 1\n"
        )
    };
    const PREFIX: &str = "apiserver_admission_webhook_";
    for line in [
        format!("{PREFIX}request_total{{code=\"200\",{}1\n", labels("no", "false")),
        format!("{PREFIX}request_total{{code=\"418\",{}1\n", labels("no", "true")),
        format!("{PREFIX}request_total{{code=\"500\",{}1\n", labels("no", "true")),
        format!("{PREFIX}request_total{{code=\"503\",{}3\n", labels("open", "false")),
        format!("{PREFIX}admission_duration_seconds_count{{{}2\n", labels("no", "true")),
        format!("{PREFIX}rejection_count{}", rejection("no_error", 418)),
        format!("{PREFIX}rejection_count{}", rejection("calling_webhook_error", 500)),
        format!("{PREFIX}fail_open_count{{name=\"open.example.com\",type=\"validating\"}} 3\n"),
        "apiserver_admission_controller_admission_duration_seconds_count{name=\"ValidatingAdmissionWebhook\",\
         operation=\"CREATE\",rejected=\"true\",type=\"validate\"} 2\n"
            .to_owned(),
        "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"true\",\
         type=\"validate\"} 2\n"
            .to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}
