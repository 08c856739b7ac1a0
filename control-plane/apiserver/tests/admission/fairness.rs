//! Priority and fairness, as clients see it.

use serde_json::{Value, json};
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::bootstrap;

use crate::harness::{Cluster, PODS, pod};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

#[tokio::test]
async fn answers_say_how_requests_were_treated() {
    let cluster = Cluster::start().await;
    let uid = async |path: &str| {
        let object = cluster.get(&format!("{GROUP}/{path}")).await.expect(200);
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let headers = |answer: &crate::harness::Answer| {
        let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
        (header("x-kubernetes-pf-flowschema-uid"), header("x-kubernetes-pf-prioritylevel-uid"))
    };
    let exempt = (uid("flowschemas/exempt").await, uid("prioritylevelconfigurations/exempt").await);
    assert_eq!(headers(&cluster.get("/api/v1/pods").await), exempt);
    let jane = UserInfo { name: "jane".into(), groups: vec!["system:authenticated".into()], ..UserInfo::default() };
    let refused = cluster.send(jane, "GET", "/api/v1/pods", "application/json", &Value::Null).await;
    let default = (uid("flowschemas/global-default").await, uid("prioritylevelconfigurations/global-default").await);
    assert_eq!((refused.code, headers(&refused)), (403, default));
}

#[tokio::test]
async fn too_many_are_sent_away() {
    let cluster = Cluster::start().await;
    // A level of which nobody gets a seat: one is what the level has, and a watch that waits holds it.
    let limited = json!({"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}, "lendablePercent": 0, "borrowingLimitPercent": 0});
    let level = json!({"metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": limited}});
    cluster.post(&format!("{GROUP}/prioritylevelconfigurations"), &level).await.expect(201);
    let rule = json!({"subjects": [{"kind": "User", "user": {"name": "eve"}}], "resourceRules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]});
    let spec = json!({"priorityLevelConfiguration": {"name": "narrow"}, "matchingPrecedence": 50, "rules": [rule]});
    cluster
        .post(&format!("{GROUP}/flowschemas"), &json!({"metadata": {"name": "eve"}, "spec": spec}))
        .await
        .expect(201);
    let role = json!({"metadata": {"name": "eve"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}]});
    cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &role).await.expect(201);
    let eve = || UserInfo { name: "eve".into(), groups: vec!["system:authenticated".into()], ..UserInfo::default() };
    let cluster = std::sync::Arc::new(cluster);
    let many = (0..20).map(|n| {
        let (cluster, eve) = (cluster.clone(), eve());
        async move { cluster.send(eve, "POST", PODS, "application/json", &pod(&format!("p{n}"))).await }
    });
    let answers = futures::future::join_all(many).await;
    let made = answers.iter().filter(|a| a.code == 201).count();
    let refused: Vec<_> = answers.iter().filter(|a| a.code == 429).collect();
    assert!(made >= 1 && !refused.is_empty() && made + refused.len() == 20, "{made} made");
    assert_eq!(refused[0].headers["retry-after"], "1");
    assert_eq!(cluster.send(eve(), "GET", PODS, "application/json", &Value::Null).await.code, 200, "seats come back");
}

#[tokio::test]
async fn what_is_mandatory_is_put_right() {
    let cluster = Cluster::start().await;
    let path = format!("{GROUP}/flowschemas");
    let spoil = |annotated: &str| json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": annotated}}, "spec": {"matchingPrecedence": 77}});
    cluster.merge(&format!("{path}/global-default"), &spoil("false")).await.expect(200);
    cluster.merge(&format!("{path}/service-accounts"), &spoil("true")).await.expect(200);
    cluster.merge(&format!("{path}/catch-all"), &spoil("false")).await.expect(200);
    let client = cluster.server.client(UserInfo::system("system:apiserver"));
    bootstrap::reconcile(&client, bootstrap::flow_control()).await.unwrap();
    let precedence = async |name: &str| {
        cluster.get(&format!("{path}/{name}")).await.expect(200)["spec"]["matchingPrecedence"].clone()
    };
    assert_eq!(precedence("global-default").await, 77, "somebody's own decision");
    assert_eq!(precedence("service-accounts").await, 9000);
    assert_eq!(precedence("catch-all").await, 10_000);
}
