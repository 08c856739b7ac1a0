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
    assert_eq!(bound["status"]["conditions"][0]["observedGeneration"], 1);
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

#[tokio::test]
async fn a_pod_gets_an_ephemeral_container() {
    let api = Api::start().await;
    let made = api.post(PODS, &pod("p")).await.expect(201);
    let path = format!("{PODS}/p/ephemeralcontainers");
    let debugger =
        json!({"spec": {"nodeName": "elsewhere", "ephemeralContainers": [{"name": "d", "image": "busybox"}]}});
    let changed = api.patch(&path, "strategic-merge-patch", &debugger).await.expect(200);
    assert_eq!(changed["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"], "File");
    assert!(changed["spec"]["nodeName"].is_null(), "nothing else changes");
    assert_eq!(changed["metadata"]["generation"], made["metadata"]["generation"].as_i64().unwrap() + 1);
    let managers = changed["metadata"]["managedFields"].as_array().unwrap();
    let own = managers.iter().find(|m| m["subresource"] == "ephemeralcontainers").unwrap();
    assert_eq!(own["fieldsV1"]["f:spec"].as_object().unwrap().keys().collect::<Vec<_>>(), ["f:ephemeralContainers"]);
    let other = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "busybox"}]}});
    let both = api.patch(&path, "strategic-merge-patch", &other).await.expect(200);
    assert_eq!(both["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
    let mut without = api.get(&path).await.expect(200);
    without["spec"]["ephemeralContainers"].as_array_mut().unwrap().remove(0);
    let removed = api.put(&path, &without).await;
    assert_eq!(removed.code, 422);
    assert!(removed.message().contains("existing ephemeral containers"), "{}", removed.message());
    let mut born = pod("q");
    born["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "busybox"}]);
    assert!(
        api.post(PODS, &born).await.message().contains("spec.ephemeralContainers: Forbidden: cannot be set on create")
    );
}

#[tokio::test]
async fn a_pod_is_resized() {
    let api = Api::start().await;
    let mut object = pod("p");
    object["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}});
    let name = object["spec"]["containers"][0]["name"].clone();
    api.post(PODS, &object).await.expect(201);
    let to = |resources: serde_json::Value| json!({"spec": {"containers": [{"name": name, "resources": resources}]}});
    let asked = to(json!({"requests": {"cpu": "150m"}}));
    let refused = api.patch(&format!("{PODS}/p"), "strategic-merge-patch", &asked).await;
    assert_eq!(refused.code, 422, "only by the subresource");
    let path = format!("{PODS}/p/resize");
    let resized = api.patch(&path, "strategic-merge-patch", &asked).await.expect(200);
    assert_eq!(
        resized["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "150m"}, "limits": {"cpu": "200m"}})
    );
    assert_eq!(resized["metadata"]["generation"], 2);
    let managers = resized["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().any(|m| m["subresource"] == "resize"), "{managers:?}");
    let class = to(json!({"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}));
    let class = api.patch(&path, "strategic-merge-patch", &class).await;
    assert_eq!(
        class.message(),
        "Pod \"p\" is invalid: spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"
    );
}

#[tokio::test]
async fn bindings_name_their_pod() {
    let api = Api::start().await;
    api.post(PODS, &pod("p")).await.expect(201);
    let path = "/api/v1/namespaces/default/bindings";
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.post(path, &binding).await.expect(201)["status"], "Success");
    assert_eq!(api.get(&format!("{PODS}/p")).await.expect(200)["spec"]["nodeName"], "n1");
    let mut nobody = binding.clone();
    nobody["metadata"]["name"] = "nobody".into();
    assert_eq!(api.post(path, &nobody).await.message(), "pods \"nobody\" not found");
    assert_eq!(api.get(path).await.code, 405);
}

#[tokio::test]
async fn the_store_is_a_component() {
    let api = Api::start().await;
    let list = api.get("/api/v1/componentstatuses").await.expect(200);
    assert_eq!(
        (&list["kind"], &list["items"][0]["metadata"]["name"]),
        (&json!("ComponentStatusList"), &json!("etcd-0"))
    );
    let store = api.get("/api/v1/componentstatuses/etcd-0").await.expect(200);
    assert_eq!(store["conditions"], json!([{"type": "Healthy", "status": "True", "message": "ok"}]));
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = api.send("GET", "/api/v1/componentstatuses", &accept, "").await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
    assert_eq!(api.get("/api/v1/componentstatuses/nobody").await.code, 404);
    assert_eq!(api.post("/api/v1/componentstatuses", &store).await.code, 405);
}

#[tokio::test]
async fn two_budgets_are_one_too_many() {
    let api = Api::start().await;
    let mut object = pod("p");
    object["metadata"]["labels"] = json!({"app": "a"});
    object["spec"]["nodeName"] = "n".into();
    api.post(PODS, &object).await.expect(201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let path = format!("{PODS}/p/eviction");
    for name in ["a", "b"] {
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
            "spec": {"minAvailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": {"app": "a"}}}});
        api.post("/apis/policy/v1/namespaces/default/poddisruptionbudgets", &budget).await.expect(201);
    }
    let running = json!({"status": {"phase": "Running"}});
    api.patch(&format!("{PODS}/p/status"), "merge-patch", &running).await.expect(200);
    let refused = api.post(&path, &eviction).await;
    assert_eq!(
        refused.message(),
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
    let refused = refused.expect(500);
    assert!(refused.get("reason").is_none(), "{refused}");
    api.delete("/apis/policy/v1/namespaces/default/poddisruptionbudgets/b").await.expect(200);
    api.post(&format!("{path}?dryRun=All"), &eviction).await.expect(201);
    assert!(api.get(&format!("{PODS}/p")).await.expect(200)["metadata"]["deletionTimestamp"].is_null(), "a dry run");
    // It is not ready, and such pods are not counted.
    api.post(&path, &eviction).await.expect(201);
    let going = api.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(going["status"]["conditions"][0]["reason"], "EvictionByEvictionAPI");
    assert!(going["status"]["conditions"][0]["observedGeneration"].is_number(), "{going}");
}
