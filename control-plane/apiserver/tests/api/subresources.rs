use serde_json::json;

use crate::harness::{Api, DEPLOYMENTS, PODS, deployment, pod};

#[tokio::test]
async fn a_deployment_is_scaled() {
    let api = Api::start().await;
    api.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let mut scale = api.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "app=d");
    scale["spec"]["replicas"] = 5.into();
    let scaled = api.put(&path, &scale).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 5);
    assert_eq!(api.put(&path, &scale).await.code, 409, "the scale was of an older version");
    api.patch(&path, "merge-patch", &json!({"spec": {"replicas": 7}})).await.expect(200);
    let object = api.get(&format!("{DEPLOYMENTS}/d")).await.expect(200);
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(7), &json!(3)));
    let negative = api.patch(&path, "merge-patch", &json!({"spec": {"replicas": -1}})).await;
    assert_eq!(negative.code, 422);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let api = Api::start().await;
    api.post(PODS, &pod("p")).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"}});
    let path = format!("{PODS}/p/binding");
    let status = api.post(&path, &binding).await.expect(201);
    assert_eq!(status["status"], "Success");
    let bound = api.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let again = api.post(&path, &binding).await;
    assert!(again.message().ends_with("pod p is already assigned to node \"n1\""), "{}", again.message());
    assert_eq!(again.code, 409);
    let selected = api.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.expect(200);
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_budget_is_respected() {
    let api = Api::start().await;
    for name in ["p", "q"] {
        let mut object = pod(name);
        object["metadata"]["labels"] = json!({"app": "a"});
        object["spec"]["nodeName"] = "n".into();
        api.post(PODS, &object).await.expect(201);
        let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch(&format!("{PODS}/{name}/status"), "merge-patch", &running).await.expect(200);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    api.post(budgets, &budget).await.expect(201);
    let evict = async |name: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        api.post(&format!("{PODS}/{name}/eviction"), &eviction).await
    };
    assert_eq!(evict("p").await.code, 429, "the controller has not seen the budget");
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 2}});
    api.patch(&format!("{budgets}/b/status"), "merge-patch", &status).await.expect(200);
    evict("p").await.expect(201);
    assert!(api.get(&format!("{PODS}/p")).await.expect(200)["metadata"]["deletionTimestamp"].is_string());
    let refused = evict("q").await;
    assert_eq!(refused.message(), "Cannot evict pod as it would violate the pod's disruption budget.");
    let refused = refused.expect(429);
    assert_eq!(refused["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(
        refused["details"]["causes"][0]["message"],
        "The disruption budget b needs 1 healthy pods and has 2 currently"
    );
    let budget = api.get(&format!("{budgets}/b")).await.expect(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["p"].is_string());
    evict("p").await.expect(201);
}

#[tokio::test]
async fn streams_need_a_node() {
    let api = Api::start().await;
    api.post(PODS, &pod("p")).await.expect(201);
    let log = api.get(&format!("{PODS}/p/log")).await;
    assert_eq!((log.code, log.bytes.len()), (200, 0));
    let exec = api.get(&format!("{PODS}/p/exec?command=ls")).await;
    assert_eq!(exec.message(), "pod p does not have a host assigned");
    assert_eq!(api.get(&format!("{PODS}/p/nonsense")).await.code, 404);
    assert_eq!(api.get(&format!("{PODS}/p/binding")).await.code, 405);
}
