use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::authn::UserInfo;

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: [system:kube-proxy]
  verbs: [watch]
- level: None
  nonResourceURLs: [/healthz*, /version]
- level: RequestResponse
  omitManagedFields: false
  resources:
  - group: ''
    resources: [secrets, pods/*, '*/status']
    resourceNames: []
- level: Request
  userGroups: [dev]
  namespaces: [prod]
  omitStages: [Panic]
- level: Metadata
  resources: [{group: apps}]
";

fn ask(user: &str, verb: &str, group: &str, resource: &str, subresource: &str) -> Attributes {
    Attributes {
        user: UserInfo { name: user.into(), groups: vec!["dev".into()], ..UserInfo::default() },
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: "ns".into(),
        is_resource: true,
        ..Attributes::default()
    }
}

#[test]
fn the_first_rule_that_matches_counts() {
    let policy = Policy::parse(POLICY).unwrap();
    let level = |request: &Attributes| policy.of(request).level;
    assert_eq!(level(&ask("system:kube-proxy", "watch", "", "secrets", "")), Level::None);
    assert_eq!(level(&ask("jane", "watch", "", "secrets", "")), Level::RequestResponse);
    assert_eq!(level(&ask("jane", "create", "", "pods", "exec")), Level::RequestResponse);
    assert_eq!(level(&ask("jane", "update", "", "nodes", "status")), Level::RequestResponse);
    assert_eq!(level(&ask("jane", "get", "", "configmaps", "")), Level::None);
    assert_eq!(level(&ask("jane", "get", "apps", "deployments", "scale")), Level::Metadata);
    let in_prod = Attributes { namespace: "prod".into(), ..ask("jane", "get", "", "configmaps", "") };
    let applied = policy.of(&in_prod);
    assert_eq!(applied.level, Level::Request);
    assert_eq!(applied.omit_stages.len(), 2);
    assert!(applied.omit_managed_fields && !policy.of(&ask("jane", "get", "", "secrets", "")).omit_managed_fields);
    let path = |path: &str| Attributes { path: path.into(), is_resource: false, ..ask("jane", "get", "", "", "") };
    assert_eq!(level(&path("/healthz/etcd")), Level::None);
}

#[test]
fn mistakes_are_named() {
    let with = |rule: &str| format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{rule}]");
    for (text, says) in [
        ("kind: Policy", "audit.k8s.io/v1"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []", "0 rules"),
        (&with("{level: Everything}"), "cannot be read"),
        (&with("{users: [x]}"), "rules[0].level"),
        (&with("{level: None, namespaces: [a], nonResourceURLs: [/x]}"), "both regular resources and non-resource"),
        (&with("{level: None, nonResourceURLs: [x]}"), "must begin with a '/'"),
        (&with("{level: None, nonResourceURLs: ['/a*b']}"), "final character"),
        (&with("{level: None, nonsense: 1}"), "nonsense"),
    ] {
        let error = Policy::parse(text).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
}

#[derive(Default)]
struct Kept(Mutex<Vec<Value>>);

impl Sink for Kept {
    fn put(&self, event: Vec<u8>) {
        self.0.lock().push(serde_json::from_slice(&event).unwrap());
    }
}

#[test]
fn events_look_as_upstreams() {
    let kept = Arc::new(Kept::default());
    let policy = Policy::parse(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitManagedFields: true\nrules: [{level: RequestResponse}]",
    )
    .unwrap();
    let auditor = Auditor::new(policy, kept.clone(), &Clock::system());
    let request = http::Request::get("/api/v1/namespaces/ns/pods?x=1")
        .header("user-agent", "kubectl/v1")
        .header("x-forwarded-for", "10.0.0.1, nonsense");
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let mut record = auditor.begin(&ask("jane", "create", "", "pods", ""), &parts, "id-1").unwrap();
    record.request(json!({"metadata": {"name": "p", "managedFields": []}}));
    record.annotate("authorization.k8s.io/decision", "allow");
    record.response(404, Some(&json!({"status": "Failure", "reason": "NotFound", "message": "m", "kind": "Status"})));
    record.response_object(json!({"metadata": {"name": "made"}}));
    record.emit(Stage::ResponseComplete);
    let events = kept.0.lock();
    assert_eq!(
        events.iter().map(|e| e["stage"].as_str().unwrap()).collect::<Vec<_>>(),
        ["RequestReceived", "ResponseComplete"]
    );
    assert_eq!(events[0]["stageTimestamp"], events[0]["requestReceivedTimestamp"]);
    let event = &events[1];
    assert_eq!(event["requestURI"], "/api/v1/namespaces/ns/pods?x=1");
    assert_eq!(event["user"], json!({"username": "jane", "groups": ["dev"]}));
    assert_eq!((&event["sourceIPs"], &event["userAgent"]), (&json!(["10.0.0.1"]), &json!("kubectl/v1")));
    assert_eq!(event["objectRef"], json!({"resource": "pods", "namespace": "ns", "name": "p"}));
    assert_eq!(event["requestObject"], json!({"metadata": {"name": "p"}}));
    assert_eq!(
        event["responseStatus"],
        json!({"metadata": {}, "code": 404, "status": "Failure", "reason": "NotFound", "message": "m"})
    );
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
    let stamp = event["stageTimestamp"].as_str().unwrap();
    assert!(stamp.ends_with('Z') && stamp.len() == "2026-01-01T00:00:00.000000Z".len(), "{stamp}");
}
