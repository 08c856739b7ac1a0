use serde_json::json;

use crate::harness::{Api, DEPLOYMENTS, MAPS, deployment};

#[tokio::test]
async fn an_update_needs_the_latest_version_or_none() {
    let api = Api::start().await;
    let path = format!("{MAPS}/a");
    let first = api.config_map("a").await;
    let mut second = first.clone();
    second["data"]["a"] = "2".into();
    let second = api.put(&path, &second).await.expect(200);
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let stale = api.put(&path, &first).await;
    assert_eq!(
        stale.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    assert_eq!(stale.expect(409)["reason"], "Conflict");
    let mut any = first.clone();
    any["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    any["data"]["a"] = "3".into();
    let third = api.put(&path, &any).await.expect(200);
    assert_eq!(third["data"]["a"], "3");
    assert_eq!(third["metadata"]["uid"], first["metadata"]["uid"]);
    // The same again changes nothing.
    assert_eq!(api.put(&path, &third).await.expect(200), third);
}

#[tokio::test]
async fn what_a_client_cannot_change_stays() {
    let api = Api::start().await;
    let path = format!("{MAPS}/a");
    let made = api.config_map("a").await;
    let mut other = made.clone();
    other["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
    let updated = api.put(&path, &other).await.expect(200);
    assert_eq!(updated["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
    other["metadata"]["uid"] = "another".into();
    let answer = api.put(&path, &other).await;
    assert!(answer.message().contains("Precondition failed: UID in precondition: another"), "{}", answer.message());
    let mut renamed = made.clone();
    renamed["metadata"]["name"] = "b".into();
    let answer = api.put(&path, &renamed).await;
    assert_eq!(answer.message(), "the name of the object (b) does not match the name on the URL (a)");
    assert_eq!(api.put(&format!("{MAPS}/b"), &renamed).await.code, 404);
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_spec() {
    let api = Api::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut object = api.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    object["metadata"]["labels"] = json!({"a": "b"});
    let mut object = api.put(&path, &object).await.expect(200);
    assert_eq!(object["metadata"]["generation"], 1);
    object["spec"]["replicas"] = 3.into();
    object["status"] = json!({"replicas": 9});
    let mut object = api.put(&path, &object).await.expect(200);
    assert_eq!(object["metadata"]["generation"], 2);
    assert_eq!(object["status"]["replicas"], json!(null), "the status is for its subresource");
    object["status"] = json!({"replicas": 9});
    object["spec"]["replicas"] = 7.into();
    let object = api.put(&format!("{path}/status"), &object).await.expect(200);
    assert_eq!((&object["status"]["replicas"], &object["spec"]["replicas"]), (&json!(9), &json!(3)));
    assert_eq!(object["metadata"]["generation"], 2);
}

#[tokio::test]
async fn leases_are_created_by_updates() {
    let api = Api::start().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "me"}});
    api.put(path, &lease).await.expect(201);
    api.put(path, &lease).await.expect(200);
}

#[tokio::test]
async fn immutable_fields_are_immutable() {
    let api = Api::start().await;
    let mut object = api.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    object["spec"]["selector"]["matchLabels"] = json!({"app": "other"});
    object["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    let answer = api.put(&format!("{DEPLOYMENTS}/d"), &object).await;
    assert!(answer.message().contains("field is immutable"), "{}", answer.message());
    assert_eq!(answer.expect(422)["reason"], "Invalid");
}
