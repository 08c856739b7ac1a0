//! Policies and webhooks on what is below objects: streams, scales, bindings, statuses.

use serde_json::{Value, json};

use super::harness::{Cluster, PODS, pod};
use super::hook::{Hook, allow};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn rules(resource: &str, operation: &str) -> Value {
    let (group, resource) = resource.split_once(':').unwrap_or(("", resource));
    json!({"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "resources": [resource],
        "operations": [operation]}]})
}

/// A cluster with a policy for a subresource.
async fn validating(resource: &str, operation: &str, expression: &str) -> Cluster {
    let cluster = Cluster::start().await;
    let spec = json!({"matchConstraints": rules(resource, operation),
        "validations": [{"expression": expression, "message": "not like that"}]});
    let path = format!("{GROUP}/validatingadmissionpolicies");
    cluster.post(&path, &object("ValidatingAdmissionPolicy", "p", spec)).await.expect(201);
    let spec = json!({"policyName": "p", "validationActions": ["Deny"]});
    let path = format!("{GROUP}/validatingadmissionpolicybindings");
    cluster.post(&path, &object("ValidatingAdmissionPolicyBinding", "b", spec)).await.expect(201);
    cluster.post(PODS, &pod("p")).await.expect(201);
    cluster
}

#[track_caller]
fn denied(answer: super::harness::Answer) {
    let words = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not like that";
    assert!(answer.code == 422 && answer.message().ends_with(words), "{}", answer.value);
}

#[tokio::test]
async fn policies_see_what_streams_are_opened_with() {
    let expression = "object.kind == 'PodExecOptions' && request.operation == 'CONNECT' && oldObject == null && \
                      !('rm' in object.command) && object.?container.orValue('c') == 'c'";
    let cluster = validating("pods/exec", "CONNECT", expression).await;
    denied(cluster.post(&format!("{PODS}/p/exec?command=rm&command=-rf"), &Value::Null).await);
    denied(cluster.get(&format!("{PODS}/p/exec?command=ls&container=d")).await);
    let passed = cluster.post(&format!("{PODS}/p/exec?command=ls&stdout=true"), &Value::Null).await;
    assert_eq!((passed.code, passed.message()), (400, "pod p does not have a host assigned"));
    // Other streams are other subresources.
    let attached = cluster.post(&format!("{PODS}/p/attach"), &Value::Null).await;
    assert_eq!(attached.message(), "pod p does not have a host assigned");
}

#[tokio::test]
async fn every_stream_can_be_denied() {
    for (subresource, kind) in
        [("attach", "PodAttachOptions"), ("portforward", "PodPortForwardOptions"), ("proxy", "PodProxyOptions")]
    {
        let expression = format!("object.kind != '{kind}'");
        let cluster = validating(&format!("pods/{subresource}"), "CONNECT", &expression).await;
        denied(cluster.post(&format!("{PODS}/p/{subresource}/"), &Value::Null).await);
    }
    let cluster = validating("services/proxy", "CONNECT", "object.path != '/secret'").await;
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    cluster.post(services, &service).await.expect(201);
    denied(cluster.get(&format!("{services}/s/proxy/secret")).await);
    cluster.get(&format!("{services}/s/proxy/public")).await.expect(503);
    let cluster = validating("nodes/proxy", "CONNECT", "object.path != '/pods'").await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    cluster.post("/api/v1/nodes", &node).await.expect(201);
    denied(cluster.get("/api/v1/nodes/n/proxy/pods").await);
}

#[tokio::test]
async fn policies_see_bindings_and_statuses() {
    let cluster = validating("pods/binding", "CREATE", "object.kind == 'Binding' && object.target.name != 'bad'").await;
    let binding = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    denied(cluster.post(&format!("{PODS}/p/binding"), &binding("bad")).await);
    cluster.post(&format!("{PODS}/p/binding"), &binding("good")).await.expect(201);

    let expression = "oldObject.status.phase == 'Pending' && object.status.phase != 'Failed'";
    let cluster = validating("pods/status", "UPDATE", expression).await;
    denied(cluster.merge(&format!("{PODS}/p/status"), &json!({"status": {"phase": "Failed"}})).await);
    cluster.merge(&format!("{PODS}/p/status"), &json!({"status": {"phase": "Running"}})).await.expect(200);
    denied(cluster.merge(&format!("{PODS}/p/status"), &json!({"status": {"reason": "x"}})).await);
}

#[tokio::test]
async fn policies_change_scales() {
    let cluster = Cluster::start().await;
    let expression = "Object{spec: Object.spec{replicas: object.spec.replicas > 3 ? 3 : object.spec.replicas}}";
    let spec = json!({"matchConstraints": rules("apps:deployments/scale", "UPDATE"), "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
    let path = format!("{GROUP}/mutatingadmissionpolicies");
    cluster.post(&path, &object("MutatingAdmissionPolicy", "m", spec)).await.expect(201);
    let path = format!("{GROUP}/mutatingadmissionpolicybindings");
    cluster.post(&path, &object("MutatingAdmissionPolicyBinding", "b", json!({"policyName": "m"}))).await.expect(201);
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    cluster.post(deployments, &deployment).await.expect(201);
    let scaled = cluster.merge(&format!("{deployments}/d/scale"), &json!({"spec": {"replicas": 7}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    assert_eq!(cluster.get(&format!("{deployments}/d")).await.expect(200)["spec"]["replicas"], 3);
}

#[tokio::test]
async fn webhooks_are_asked_about_streams() {
    let hook = Hook::local(allow).await;
    let cluster = Cluster::start().await;
    let webhook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "w"}, "webhooks": [{"name": "w.example.com", "clientConfig": hook.config(),
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "rules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods/exec", "pods/portforward"], "operations": ["CONNECT"]}]}]});
    cluster.post(&format!("{GROUP}/validatingwebhookconfigurations"), &webhook).await.expect(201);
    cluster.post(PODS, &pod("p")).await.expect(201);
    cluster.post(&format!("{PODS}/p/exec?command=ls&tty=true"), &Value::Null).await.expect(400);
    cluster.post(&format!("{PODS}/p/portforward?ports=80"), &Value::Null).await.expect(400);
    cluster.post(&format!("{PODS}/p/attach"), &Value::Null).await.expect(400);
    let reviews = hook.reviews();
    assert_eq!(reviews.len(), 2);
    let request = &reviews[0]["request"];
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "PodExecOptions"}));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "pods"}));
    assert_eq!(
        (&request["subResource"], &request["operation"], &request["name"], &request["namespace"]),
        (&json!("exec"), &json!("CONNECT"), &json!("p"), &json!("default"))
    );
    assert_eq!((&request["object"]["command"], &request["object"]["tty"]), (&json!(["ls"]), &json!(true)));
    assert_eq!((&request["oldObject"], &request["options"]), (&Value::Null, &Value::Null));
    assert_eq!(reviews[1]["request"]["object"]["ports"], json!([80]));
}
