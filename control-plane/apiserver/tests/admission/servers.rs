//! Several servers on one store, each of which learns a moment later what the others wrote.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use xebec_store::memory::MemoryStore;
use xebec_store::shared::Shared;

use crate::concurrency::quota;
use crate::harness::{Cluster, PODS, pod, standard};

/// Two servers, the first of which has made what every cluster has.
async fn two(standard: impl Fn() -> xebec_apiserver::standard::Standard) -> [Cluster; 2] {
    let store = Arc::new(MemoryStore::new());
    let over = async |late_ms| {
        let store = Shared::new(store.clone(), Duration::from_millis(late_ms));
        Cluster::over(Arc::new(store), standard()).await
    };
    let first = over(1).await;
    first.make_first_objects().await;
    [first, over(20).await]
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(start_paused = true)]
async fn what_one_acknowledged_the_other_knows() {
    let [a, b] = two(standard).await;
    let map = format!("{MAPS}/m");
    for round in 0..5 {
        a.post(MAPS, &json!({"metadata": {"name": "m"}, "data": {"n": "0"}})).await.expect(201);
        assert_eq!(b.get(&map).await.expect(200)["data"]["n"], "0", "round {round}");
        b.merge(&map, &json!({"data": {"n": "1"}})).await.expect(200);
        let mut read = a.get(&map).await.expect(200);
        assert_eq!(read["data"]["n"], "1");
        read["data"]["n"] = "2".into();
        a.put(&map, &read).await.expect(200);
        let listed = b.get(MAPS).await.expect(200);
        let seen = listed["items"].as_array().unwrap().iter().find(|m| m["metadata"]["name"] == "m").unwrap();
        assert_eq!(seen["data"]["n"], "2");
        b.ask("DELETE", &map, &Value::Null).await.expect(200);
        a.get(&map).await.expect(404);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_content_with_any_state_does_not_wait() {
    let [a, b] = two(standard).await;
    b.get(MAPS).await.expect(200);
    a.post(MAPS, &json!({"metadata": {"name": "m"}})).await.expect(201);
    let any = b.get(&format!("{MAPS}/m?resourceVersion=0")).await;
    assert_eq!(any.code, 404, "what is there now is what the other has seen so far");
    b.get(&format!("{MAPS}/m")).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_one_has_given_is_good_at_the_other() {
    let keys = Arc::new(xebec_pki::ServiceAccountKeys::ephemeral(xebec_pki::DEFAULT_ISSUER).unwrap());
    let [a, b] = two(|| xebec_apiserver::standard::Standard { keys: keys.clone(), ..standard() }).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    a.post(accounts, &json!({"metadata": {"name": "new"}})).await.expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = a.post(&format!("{accounts}/new/token"), &request).await.expect(201);
    let (code, review) = crate::harness::who(&b, made["status"]["token"].as_str().unwrap()).await;
    assert_eq!((code, &review["status"]["userInfo"]["username"]), (201, &json!("system:serviceaccount:default:new")));
}

#[tokio::test(start_paused = true)]
async fn no_two_services_get_the_same() {
    let narrow = || {
        let mut standard = standard();
        standard.service_cidrs = vec!["10.96.0.0/28".parse().unwrap()];
        standard.node_ports = (30000, 30007);
        standard
    };
    let servers = two(narrow).await;
    let path = "/api/v1/namespaces/default/services";
    let make = async |n: usize, kind: &str| {
        let service = json!({"metadata": {"name": format!("{}-{n}", kind.to_lowercase())},
            "spec": {"type": kind, "ports": [{"port": 80}]}});
        servers[n % 2].post(path, &service).await
    };
    let ports = join_all((0..16).map(|n| make(n, "NodePort"))).await;
    let made: Vec<&Value> = ports.iter().filter(|answer| answer.code == 201).map(|answer| &answer.value).collect();
    let given: BTreeSet<u64> = made.iter().map(|s| s["spec"]["ports"][0]["nodePort"].as_u64().unwrap()).collect();
    assert_eq!((made.len(), given), (8, (30000..=30007).collect()));
    for refused in ports.iter().filter(|answer| answer.code != 201) {
        assert!(refused.message().ends_with("range is full"), "{}", refused.message());
    }
    // Of fourteen addresses, ten are taken: by these and two that every cluster has.
    let addresses = join_all((0..8).map(|n| make(n, "ClusterIP"))).await;
    assert_eq!(addresses.iter().filter(|answer| answer.code == 201).count(), 4);
    let listed = servers[1].get("/api/v1/services").await.expect(200);
    let held: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|s| s["spec"]["clusterIP"].as_str().unwrap()).collect();
    assert_eq!(held.len(), 14);
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), 14);
    // What goes is free at once, at either.
    servers[0]
        .ask("DELETE", &format!("{path}/{}", made[0]["metadata"]["name"].as_str().unwrap()), &Value::Null)
        .await
        .expect(200);
    let asked = json!({"metadata": {"name": "again"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": made[0]["spec"]["ports"][0]["nodePort"]}]}});
    servers[1].post(path, &asked).await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn a_quota_holds_for_all_servers_together() {
    let servers = two(standard).await;
    quota(&servers[0], "pods", json!({"hard": {"pods": "5"}})).await;
    let answers = join_all((0..24).map(|n| {
        let server = &servers[n % 2];
        async move { server.post(PODS, &pod(&format!("p{n}"))).await }
    }))
    .await;
    let codes: Vec<u16> = answers.iter().map(|answer| answer.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 5, "{codes:?}");
    assert!(codes.iter().all(|code| [201, 403].contains(code)), "{codes:?}");
}
