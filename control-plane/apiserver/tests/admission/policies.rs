//! Admission policies: from the create of a policy to what it does with requests.

use serde_json::{Value, json};
use xebec_apiserver::authn::UserInfo;

use super::harness::Cluster;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn maps(operations: &[&str]) -> Value {
    json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
        "operations": operations}]})
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A policy for new ConfigMaps, and its binding.
async fn validating(cluster: &Cluster, policy: Value, binding: Value) {
    let mut spec = json!({"matchConstraints": maps(&["CREATE", "UPDATE"])});
    merge(&mut spec, &policy);
    let path = format!("{GROUP}/validatingadmissionpolicies");
    cluster.post(&path, &object("ValidatingAdmissionPolicy", "p", spec)).await.expect(201);
    let mut spec = json!({"policyName": "p", "validationActions": ["Deny"]});
    merge(&mut spec, &binding);
    let path = format!("{GROUP}/validatingadmissionpolicybindings");
    cluster.post(&path, &object("ValidatingAdmissionPolicyBinding", "b", spec)).await.expect(201);
}

async fn mutating(cluster: &Cluster, policy: Value) {
    let mut spec = json!({"matchConstraints": maps(&["CREATE"]), "reinvocationPolicy": "Never"});
    merge(&mut spec, &policy);
    let path = format!("{GROUP}/mutatingadmissionpolicies");
    cluster.post(&path, &object("MutatingAdmissionPolicy", "m", spec)).await.expect(201);
    let path = format!("{GROUP}/mutatingadmissionpolicybindings");
    cluster.post(&path, &object("MutatingAdmissionPolicyBinding", "b", json!({"policyName": "m"}))).await.expect(201);
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

#[tokio::test]
async fn a_policy_denies_at_once() {
    let cluster = Cluster::start().await;
    let policy = json!({
        "variables": [{"name": "keys", "expression": "has(object.data) ? object.data.map(k, k) : []"}],
        "validations": [
            {"expression": "variables.keys.size() < 3", "messageExpression": "'too many: ' + string(variables.keys.size())"},
            {"expression": "!('bad' in variables.keys)", "message": "bad key", "reason": "Forbidden"},
            {"expression": "!has(object.data) || object.data.all(k, object.data[k] != 'x')"}]});
    validating(&cluster, policy, json!({})).await;
    cluster.post(MAPS, &map("good", json!({"a": "1"}))).await.expect(201);
    let denied = cluster.post(MAPS, &map("m", json!({"a": "1", "b": "2", "c": "3"}))).await;
    let by = "configmaps \"m\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request:";
    assert_eq!((denied.code, denied.value["reason"].as_str()), (422, Some("Invalid")));
    assert_eq!(denied.message(), format!("{by} too many: 3"));
    let denied = cluster.post(MAPS, &map("m", json!({"bad": "1"}))).await;
    assert_eq!((denied.code, denied.message()), (403, format!("{by} bad key").as_str()));
    let denied = cluster.post(MAPS, &map("m", json!({"a": "x"}))).await;
    let expression = "!has(object.data) || object.data.all(k, object.data[k] != 'x')";
    assert_eq!(denied.message(), format!("{by} failed expression: {expression}"));
    let patch = json!({"data": {"bad": "1"}});
    assert_eq!(cluster.merge(&format!("{MAPS}/good"), &patch).await.code, 403);
}

#[tokio::test]
async fn actions_and_failures_follow_the_configuration() {
    let cluster = Cluster::start().await;
    let policy = json!({"failurePolicy": "Ignore", "validations": [
        {"expression": "object.data.missing == 'x'"}, {"expression": "object.data.a == '1'"}]});
    validating(&cluster, policy, json!({"validationActions": ["Warn", "Audit"]})).await;
    let made = cluster.post(MAPS, &map("m", json!({"a": "2"}))).await;
    assert_eq!(made.code, 201);
    let words =
        "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: object.data.a == '1'";
    assert_eq!(made.warnings(), [words]);
    cluster
        .merge(&format!("{GROUP}/validatingadmissionpolicies/p"), &json!({"spec": {"failurePolicy": "Fail"}}))
        .await
        .expect(200);
    cluster
        .merge(
            &format!("{GROUP}/validatingadmissionpolicybindings/b"),
            &json!({"spec": {"validationActions": ["Deny"]}}),
        )
        .await
        .expect(200);
    let denied = cluster.post(MAPS, &map("n", json!({"a": "1"}))).await;
    let error = "expression 'object.data.missing == 'x'' resulted in error: no such key: missing";
    assert!(denied.message().ends_with(error), "{}", denied.message());
}

#[tokio::test]
async fn parameters_are_found_or_not() {
    let cluster = Cluster::start().await;
    let policy = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-params", "expression": "!object.metadata.name.startsWith('params')"}],
        "validations": [{"expression": "object.data.size <= int(params.data.max)", "message": "too large"}]});
    // The type of a value is known only when it is there.
    let mut policy = policy;
    policy["validations"][0]["expression"] = "int(object.data.size) <= int(params.data.max)".into();
    let reference = json!({"selector": {"matchLabels": {"params": "yes"}}, "parameterNotFoundAction": "Deny"});
    validating(&cluster, policy, json!({"paramRef": reference})).await;
    let denied = cluster.post(MAPS, &map("m", json!({"size": "5"}))).await;
    assert!(
        denied.message().contains("no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{}",
        denied.message()
    );
    let allow = json!({"spec": {"paramRef": {"parameterNotFoundAction": "Allow"}}});
    cluster.merge(&format!("{GROUP}/validatingadmissionpolicybindings/b"), &allow).await.expect(200);
    cluster.post(MAPS, &map("m", json!({"size": "5"}))).await.expect(201);
    for (name, max) in [("params-a", "10"), ("params-b", "7")] {
        let mut params = map(name, json!({"max": max}));
        params["metadata"]["labels"] = json!({"params": "yes"});
        cluster.post(MAPS, &params).await.expect(201);
    }
    cluster.post(MAPS, &map("n", json!({"size": "7"}))).await.expect(201);
    let denied = cluster.post(MAPS, &map("o", json!({"size": "8"}))).await;
    assert!(denied.message().ends_with("denied request: too large"), "{}", denied.message());
}

#[tokio::test]
async fn expressions_ask_for_rights_and_see_the_namespace() {
    let cluster = Cluster::start().await;
    let policy = json!({"validations": [{"expression":
        "authorizer.group('').resource('secrets').namespace(request.namespace).check('get').allowed() && \
         namespaceObject.metadata.name == 'default' && request.userInfo.username != ''"}]});
    validating(&cluster, policy, json!({})).await;
    cluster.post(MAPS, &map("m", json!({}))).await.expect(201);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "maps"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    cluster.post(&format!("{rbac}/roles"), &role).await.expect(201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "maps"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maps"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    cluster.post(&format!("{rbac}/rolebindings"), &binding).await.expect(201);
    let jane = UserInfo { name: "jane".into(), groups: vec!["system:authenticated".into()], ..UserInfo::default() };
    let answer = cluster.send(jane, "POST", MAPS, "application/json", &map("n", json!({}))).await;
    assert_eq!(answer.code, 422, "{}", answer.value);
}

#[tokio::test]
async fn expressions_that_cannot_be_right_are_refused() {
    let cluster = Cluster::start().await;
    let refused = async |validation: Value| {
        let spec = json!({"matchConstraints": maps(&["CREATE"]), "validations": [validation]});
        let path = format!("{GROUP}/validatingadmissionpolicies");
        let answer = cluster.post(&path, &object("ValidatingAdmissionPolicy", "bad", spec)).await;
        assert_eq!(answer.code, 422, "{}", answer.value);
        answer.message().to_owned()
    };
    let message = refused(json!({"expression": "objct.spec"})).await;
    assert!(message.contains("spec.validations[0].expression: Invalid value: \"objct.spec\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'objct' (in container '')"), "{message}");
    let message = refused(json!({"expression": "1 + 1"})).await;
    assert!(
        message.ends_with("spec.validations[0].expression: Invalid value: \"1 + 1\": must evaluate to bool"),
        "{message}"
    );
    let message = refused(json!({"expression": "params.x == 1"})).await;
    assert!(message.contains("undeclared reference to 'params'"), "{message}");
    let message = refused(json!({"expression": "true", "messageExpression": "1"})).await;
    assert!(
        message.contains("spec.validations[0].messageExpression: Invalid value: \"1\": must evaluate to string"),
        "{message}"
    );
}

#[tokio::test]
async fn policies_change_objects() {
    let cluster = Cluster::start().await;
    let policy = json!({"mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{labels: {'by': request.userInfo.username}}, data: {'added': 'yes'}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'test', path: '/data/added', value: 'yes'}, \
              JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('example.com/x'), value: 'y'}]"}}],
        "matchConditions": [{"name": "c", "expression": "object.metadata.name != 'exempt'"}]});
    mutating(&cluster, policy).await;
    let made = cluster.post(MAPS, &map("m", json!({"a": "1"}))).await.expect(201);
    assert_eq!(made["data"], json!({"a": "1", "added": "yes"}));
    assert_eq!(made["metadata"]["labels"], json!({"by": "admin", "example.com/x": "y"}));
    let made = cluster.post(MAPS, &map("exempt", json!({"a": "1"}))).await.expect(201);
    assert_eq!(made["data"], json!({"a": "1"}));
}
