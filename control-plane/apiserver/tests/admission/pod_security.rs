//! Pods keep to the standard of their namespace.

use serde_json::{Value, json};

use crate::harness::{Cluster, standard};

const RESTRICTED: &str = "allowPrivilegeEscalation != false (container \"c\" must set \
    securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
    securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
    securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
    securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";

async fn namespace(cluster: &Cluster, name: &str, labels: Value) {
    let object = json!({"metadata": {"name": name, "labels": labels}});
    cluster.post("/api/v1/namespaces", &object).await.expect(201);
    let account = json!({"metadata": {"name": "default"}});
    cluster.post(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await.expect(201);
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "c", "image": "i"}]);
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn pods_are_refused_and_workloads_warned() {
    let cluster = Cluster::start().await;
    namespace(&cluster, "hard", json!({"pod-security.kubernetes.io/enforce": "restricted"})).await;
    let pods = "/api/v1/namespaces/hard/pods";
    let refused = cluster.post(pods, &pod("p", json!({}))).await;
    assert_eq!(
        refused.message(),
        format!("pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": {RESTRICTED}")
    );
    assert_eq!((refused.code, refused.warnings().len()), (403, 0));
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let warned = cluster.post("/apis/apps/v1/namespaces/hard/deployments", &deployment).await;
    assert_eq!(warned.warnings(), [format!("would violate PodSecurity \"restricted:latest\": {RESTRICTED}")]);
    warned.expect(201);
    let context = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}});
    let mut hardened = pod("p", context);
    hardened["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    cluster.post(pods, &hardened).await.expect(201);
}

#[tokio::test]
async fn a_label_that_changes_tells_of_the_pods_there_are() {
    let cluster = Cluster::start().await;
    namespace(&cluster, "old", json!({})).await;
    let pods = "/api/v1/namespaces/old/pods";
    for name in ["b", "a"] {
        cluster.post(pods, &pod(name, json!({"hostNetwork": true, "hostPID": true}))).await.expect(201);
    }
    cluster.post(pods, &pod("good", json!({}))).await.expect(201);
    let label = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let namespace = "/api/v1/namespaces/old";
    let answer = cluster.merge(namespace, &label("baseline")).await;
    assert_eq!(
        answer.warnings(),
        [
            "existing pods in namespace \"old\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): host namespaces",
        ]
    );
    answer.expect(200);
    assert!(cluster.merge(namespace, &label("privileged")).await.warnings().is_empty());
    let wrong = cluster.merge(namespace, &label("strict")).await;
    assert_eq!(
        wrong.message(),
        "Namespace \"old\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
         must be one of privileged, baseline, restricted"
    );
    assert_eq!(wrong.code, 422);
}

#[tokio::test]
async fn some_are_exempt_and_defaults_apply() {
    let mut standard = standard();
    let config = &mut standard.options.pod_security;
    config.defaults.insert("enforce".into(), "baseline".into());
    config.exemptions.namespaces.push("free".into());
    let cluster = Cluster::with(standard).await;
    for (name, code) in [("free", 201), ("bound", 403)] {
        namespace(&cluster, name, json!({})).await;
        let answer =
            cluster.post(&format!("/api/v1/namespaces/{name}/pods"), &pod("p", json!({"hostIPC": true}))).await;
        assert_eq!(answer.code, code, "{}", answer.value);
    }
}
