//! What is noted of requests.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use xebec_apiserver::audit::{Policy, Sink};
use xebec_apiserver::authn::UserInfo;

use crate::harness::{Cluster, standard};

#[derive(Default)]
struct Kept(Mutex<Vec<Value>>);

impl Sink for Kept {
    fn put(&self, event: Vec<u8>) {
        self.0.lock().push(serde_json::from_slice(&event).unwrap());
    }
}

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: RequestResponse, users: [jane], resources: [{group: '', resources: [configmaps]}]}
- {level: Metadata, users: [jane]}
- {level: None}
";

async fn audited() -> (Cluster, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let mut standard = standard();
    standard.options.audit = Some((Policy::parse(POLICY).unwrap(), kept.clone()));
    (Cluster::with(standard).await, kept)
}

fn jane() -> UserInfo {
    UserInfo { name: "jane".into(), groups: vec!["system:masters".into()], ..UserInfo::default() }
}

#[tokio::test]
async fn requests_are_noted_as_the_policy_says() {
    let (cluster, kept) = audited().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    cluster.post(maps, &map).await.expect(201);
    assert!(kept.0.lock().is_empty(), "nothing is noted of others");
    let map = json!({"metadata": {"name": "b"}, "data": {"k": "v"}});
    cluster.send(jane(), "POST", maps, "application/json", &map).await.expect(201);
    let events = std::mem::take(&mut *kept.0.lock());
    let [event] = events.as_slice() else { panic!("one event, not {events:?}") };
    assert_eq!(
        (&event["stage"], &event["verb"], &event["level"]),
        (&json!("ResponseComplete"), &json!("create"), &json!("RequestResponse"))
    );
    assert_eq!(
        event["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "b", "apiVersion": "v1"})
    );
    assert_eq!(event["requestObject"], map);
    assert_eq!(event["responseObject"]["metadata"]["name"], "b");
    assert_eq!(event["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");

    let nobody = cluster.send(jane(), "GET", "/api/v1/nodes/none", "application/json", &Value::Null).await;
    let id = nobody.headers["audit-id"].to_str().unwrap().to_owned();
    nobody.expect(404);
    let events = std::mem::take(&mut *kept.0.lock());
    assert_eq!((&events[0]["auditID"], &events[0]["level"]), (&json!(id), &json!("Metadata")));
    assert_eq!(events[0]["responseStatus"]["reason"], "NotFound");
}

#[tokio::test]
async fn plugins_have_their_say_and_watches_end() {
    let (cluster, kept) = audited().await;
    let labels = json!({"pod-security.kubernetes.io/audit": "baseline"});
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "ns", "labels": labels}})).await.expect(201);
    cluster.post("/api/v1/namespaces/ns/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"hostPID": true, "containers": [{"name": "c", "image": "i"}]}});
    cluster.send(jane(), "POST", "/api/v1/namespaces/ns/pods", "application/json", &pod).await.expect(201);
    let events = std::mem::take(&mut *kept.0.lock());
    assert_eq!(
        events[0]["annotations"]["pod-security.kubernetes.io/audit"],
        "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"
    );
    let path = "/api/v1/pods?watch=1&resourceVersion=1&timeoutSeconds=1";
    cluster.send(jane(), "GET", path, "application/json", &Value::Null).await;
    let stages: Vec<Value> = kept.0.lock().iter().map(|event| event["stage"].clone()).collect();
    assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
}
