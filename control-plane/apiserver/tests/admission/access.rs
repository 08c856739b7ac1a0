//! Webhooks that say who somebody is, and what they may do.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::authn::webhook::TokenWebhookConfig;
use xebec_apiserver::authz::config::AuthorizationConfig;
use xebec_apiserver::webhook::kubeconfig::Kubeconfig;

use super::harness::{Cluster, standard, who};
use super::hook::Hook;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The file that reaches a webhook.
struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn of(hook: &Hook) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = format!("https://localhost:{}/review", hook.address.port());
        let file = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "hook", "user": "api"}}],
            "clusters": [{"name": "hook", "cluster": {"server": server, "certificate-authority": "ca.pem"}}],
            "users": [{"name": "api", "user": {"token": "secret"}}]});
        std::fs::write(dir.path().join("ca.pem"), &hook.authority).unwrap();
        std::fs::write(dir.path().join("config"), file.to_string()).unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("config")
    }
}

fn says(status: Value) -> (u16, Vec<u8>) {
    (200, json!({"status": status}).to_string().into_bytes())
}

#[tokio::test]
async fn a_webhook_knows_tokens() {
    let hook = Hook::local(|review| match review["spec"]["token"].as_str() {
        Some("jane's") => {
            says(json!({"authenticated": true, "user": {"username": "jane", "groups": ["dev"], "extra": {"k": ["v"]}}}))
        }
        Some("old") => says(json!({"error": "it is over"})),
        _ => says(json!({"authenticated": false})),
    })
    .await;
    let file = File::of(&hook);
    let mut standard = standard();
    let kubeconfig = Kubeconfig::read(&file.path()).unwrap();
    let cache_ttl = Duration::from_secs(3600);
    standard.options.token_webhook = Some(TokenWebhookConfig { kubeconfig, cache_ttl, version: "v1beta1".into() });
    let cluster = Cluster::with(standard).await;
    for _ in 0..2 {
        let (code, review) = who(&cluster, "jane's").await;
        assert_eq!(code, 201, "{review}");
        let user = json!({"username": "jane", "groups": ["dev", "system:authenticated"], "extra": {"k": ["v"]}});
        assert_eq!(review["status"]["userInfo"], user);
        assert_eq!(who(&cluster, "nobody's").await.0, 401);
    }
    let reviews = hook.reviews();
    assert_eq!(reviews.len(), 2, "yes and no are remembered: {reviews:?}");
    assert_eq!(reviews[0]["apiVersion"], "authentication.k8s.io/v1beta1");
    assert!(!reviews[0]["spec"]["audiences"].as_array().unwrap().is_empty());
    // A TokenReview is answered by it, too, and what it says is wrong is not remembered.
    for asked in 3..5 {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "old"}});
        let made = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201);
        assert!(made["status"]["error"].as_str().unwrap().contains("it is over"), "{made}");
        assert_eq!(hook.reviews().len(), asked);
    }
}

/// A cluster whose webhook is asked first, and RBAC after it.
async fn cluster(file: &File, policy: &str, ttl: &str) -> Cluster {
    let webhook = json!({"timeout": "5s", "subjectAccessReviewVersion": "v1", "failurePolicy": policy,
        "matchConditionSubjectAccessReviewVersion": "v1", "authorizedTTL": ttl, "unauthorizedTTL": ttl,
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": file.path()},
        "matchConditions": [{"expression": "request.user != 'rbac'"}, {"expression": "has(request.resourceAttributes)"}]});
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": [
        {"type": "Webhook", "name": "hook", "webhook": webhook}, {"type": "Node", "name": "node"},
        {"type": "RBAC", "name": "rbac"}]});
    let mut standard = standard();
    standard.options.authorization = Some(AuthorizationConfig::read(&config).unwrap());
    let cluster = Cluster::with(standard).await;
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"],
        "verbs": ["get", "list"]}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.expect(201);
    let user = |name: &str| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name});
    let binding = json!({"metadata": {"name": "reader"}, "subjects": [user("rbac"), user("both")],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"}});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.expect(201);
    cluster
}

fn user(name: &str) -> UserInfo {
    UserInfo { name: name.into(), groups: vec!["system:authenticated".into()], ..UserInfo::default() }
}

async fn list(cluster: &Cluster, name: &str) -> (u16, String) {
    let answer = cluster.send(user(name), "GET", MAPS, "application/json", &Value::Null).await;
    (answer.code, answer.message().to_owned())
}

#[tokio::test]
async fn a_webhook_decides_what_users_may_do() {
    let down = Arc::new(AtomicBool::new(false));
    let broken = down.clone();
    let hook = Hook::local(move |review| match review["spec"]["user"].as_str() {
        _ if broken.load(Ordering::SeqCst) => (404, Vec::new()),
        Some("allowed") => says(json!({"allowed": true, "reason": "because"})),
        Some("denied" | "both") => says(json!({"allowed": false, "denied": true, "reason": "never"})),
        _ => says(json!({"allowed": false, "reason": "who is it?"})),
    })
    .await;
    let file = File::of(&hook);
    let open = cluster(&file, "NoOpinion", "1h").await;
    let before = hook.reviews().len();
    assert_eq!(list(&open, "allowed").await.0, 200);
    assert_eq!(list(&open, "allowed").await.0, 200);
    assert_eq!(hook.reviews().len(), before + 1, "it is remembered");
    let asked = &hook.reviews()[before]["spec"];
    assert_eq!(asked["resourceAttributes"]["resource"], "configmaps");
    assert_eq!(asked["groups"], json!(["system:authenticated"]));
    // What it denies, nobody else permits; where it has no opinion, others may.
    let (code, message) = list(&open, "both").await;
    assert_eq!(code, 403);
    assert!(message.ends_with("in the namespace \"default\": never"), "{message}");
    let (code, message) = list(&open, "stranger").await;
    assert_eq!((code, message.ends_with("who is it?")), (403, true), "{message}");
    // Conditions: it is not asked about everybody.
    let before = hook.reviews().len();
    assert_eq!(list(&open, "rbac").await.0, 200);
    assert_eq!(hook.reviews().len(), before);

    // A review of access says the same as the request.
    let review = |name: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": name,
            "resourceAttributes": {"verb": "list", "resource": "configmaps", "namespace": "x"}}})
    };
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let denied = open.post(reviews, &review("denied")).await.expect(201);
    assert_eq!(denied["status"], json!({"allowed": false, "denied": true, "reason": "never"}));

    // It fails: others may still permit; nobody does, and that is nobody's no.
    let before = (list(&open, "allowed").await.0, cluster(&file, "Deny", "1h").await);
    down.store(true, Ordering::SeqCst);
    assert_eq!(list(&open, "allowed").await.0, before.0, "from memory");
    let (code, message) = list(&open, "newcomer").await;
    assert_eq!(code, 500, "{message}");
    assert!(message.contains("Internal Server Error: \"/api/v1/namespaces/default/configmaps\""), "{message}");
    let closed = before.1;
    assert_eq!(list(&closed, "rbac").await.0, 200);
    assert_eq!(list(&closed, "both").await.0, 500);
    let failed = open.post(reviews, &review("newcomer")).await.expect(201);
    assert_eq!(failed["status"]["allowed"], false);
    assert!(failed["status"]["evaluationError"].is_string(), "{failed}");
}

#[tokio::test]
async fn expressions_wait_for_a_webhook() {
    let hook = Hook::local(|review| {
        let allowed = review["spec"]["user"] == "jane" && review["spec"]["resourceAttributes"]["verb"] != "launch";
        says(json!({"allowed": allowed}))
    })
    .await;
    let file = File::of(&hook);
    let cluster = cluster(&file, "NoOpinion", "1ns").await;
    let policies = "/apis/admissionregistration.k8s.io/v1";
    let check = |verb: &str| format!("authorizer.group('').resource('configmaps').check('{verb}').allowed()");
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": ["configmaps"]}]},
        "validations": [{"expression": format!("{} && !{}", check("build"), check("launch")), "message": "not you"}]}});
    cluster.post(&format!("{policies}/validatingadmissionpolicies"), &policy).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    cluster.post(&format!("{policies}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    let before = hook.reviews().len();
    let map = json!({"metadata": {"name": "m"}});
    let made = cluster.send(user("jane"), "POST", MAPS, "application/json", &map).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let verbs: Vec<Value> =
        hook.reviews()[before..].iter().map(|review| review["spec"]["resourceAttributes"]["verb"].clone()).collect();
    assert_eq!(verbs, ["create", "build", "launch"], "each is asked for once, although nothing is remembered");
}
