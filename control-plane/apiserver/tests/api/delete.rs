use serde_json::{Value, json};

use crate::harness::{Api, MAPS, PODS, config_map, pod};

#[tokio::test]
async fn a_plain_object_is_gone_at_once() {
    let api = Api::start().await;
    let made = api.config_map("a").await;
    let status = api.delete(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    let uid = &made["metadata"]["uid"];
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps", "uid": uid}));
    assert_eq!(api.delete(&format!("{MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn preconditions_hold_or_nothing_happens() {
    let api = Api::start().await;
    let made = api.config_map("a").await;
    let path = format!("{MAPS}/a");
    let wrong = json!({"preconditions": {"uid": "other"}});
    let answer = api.send("DELETE", &path, &[], wrong.to_string()).await;
    assert!(answer.message().contains("Precondition failed: UID in precondition: other"), "{}", answer.message());
    assert_eq!(answer.code, 409);
    let right = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {
        "uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}});
    api.send("DELETE", &format!("{path}?dryRun=All"), &[], right.to_string()).await.expect(200);
    api.send("DELETE", &path, &[], right.to_string()).await.expect(200);
}

#[tokio::test]
async fn finalizers_come_first() {
    let api = Api::start().await;
    let mut map = config_map("a");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(MAPS, &map).await.expect(201);
    let path = format!("{MAPS}/a");
    let marked = api.delete(&path).await.expect(200);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = api.delete(&path).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], marked["metadata"]["resourceVersion"]);
    let added = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    assert_eq!(api.patch(&path, "merge-patch", &added).await.code, 422);
    api.patch(&path, "merge-patch", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let api = Api::start().await;
    for (policy, finalizer, code) in [("Foreground", "foregroundDeletion", 202), ("Orphan", "orphan", 200)] {
        api.config_map(policy.to_lowercase().as_str()).await;
        let path = format!("{MAPS}/{}", policy.to_lowercase());
        let options = json!({"propagationPolicy": policy});
        let marked = api.send("DELETE", &path, &[], options.to_string()).await.expect(code);
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
    }
    api.config_map("b").await;
    api.delete(&format!("{MAPS}/b?propagationPolicy=Background")).await.expect(200);
    assert_eq!(api.get(&format!("{MAPS}/b")).await.code, 404);
    assert_eq!(api.delete(&format!("{MAPS}/foreground?propagationPolicy=Sideways")).await.code, 422);
}

#[tokio::test]
async fn a_running_pod_is_given_time() {
    let api = Api::start().await;
    let path = format!("{PODS}/p");
    api.post(PODS, &pod("p")).await.expect(201);
    let gone = api.delete(&path).await.expect(200);
    assert_eq!(gone["kind"], "Pod", "an unscheduled pod is gone, and shown");
    assert_eq!(api.get(&path).await.code, 404);

    let mut scheduled = pod("p");
    scheduled["spec"]["nodeName"] = "n".into();
    api.post(PODS, &scheduled).await.expect(201);
    let marked = api.delete(&path).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    let longer = api.delete(&format!("{path}?gracePeriodSeconds=60")).await.expect(200);
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = api.delete(&format!("{path}?gracePeriodSeconds=5")).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
    api.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200);
    assert_eq!(api.get(&path).await.code, 404);
}

#[tokio::test]
async fn a_namespace_waits_for_its_contents() {
    let api = Api::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let made = api.post("/api/v1/namespaces", &namespace).await.expect(201);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    let marked = api.delete("/api/v1/namespaces/n").await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(api.delete("/api/v1/namespaces/n").await.expect(200), marked);
    let mut finalized = marked.clone();
    finalized["spec"]["finalizers"] = json!([]);
    api.put("/api/v1/namespaces/n/finalize", &finalized).await.expect(200);
    assert_eq!(api.get("/api/v1/namespaces/n").await.code, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let api = Api::start().await;
    for i in 0..6 {
        let mut map = config_map(&format!("m{i}"));
        map["metadata"]["labels"] = json!({"odd": (i % 2 == 1).to_string()});
        api.post(MAPS, &map).await.expect(201);
    }
    let deleted = api.delete(&format!("{MAPS}?labelSelector=odd%3Dtrue")).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 3);
    let left: Value = api.get(MAPS).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 3);
    api.delete(MAPS).await.expect(200);
    assert_eq!(api.get(MAPS).await.expect(200)["items"], json!([]));
}
