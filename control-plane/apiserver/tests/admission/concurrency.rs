//! Hundreds of writers at once: nobody's update is lost, and no quota is exceeded.

use serde_json::{Value, json};

use crate::harness::{Cluster, PODS, pod};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

/// A quota as the controller leaves it when there is nothing yet.
pub async fn quota(cluster: &Cluster, name: &str, spec: Value) {
    let used: serde_json::Map<_, _> =
        spec["hard"].as_object().unwrap().keys().map(|key| (key.clone(), json!("0"))).collect();
    let mut quota = cluster.post(QUOTAS, &json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
    quota["status"] = json!({"hard": spec["hard"], "used": used});
    cluster.put(&format!("{QUOTAS}/{name}/status"), &quota).await.expect(200);
}

async fn used(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&format!("{QUOTAS}/{name}")).await.expect(200)["status"]["used"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_is_never_exceeded() {
    let cluster = std::sync::Arc::new(Cluster::start().await);
    quota(&cluster, "pods", json!({"hard": {"pods": "40", "requests.cpu": "3"}})).await;
    quota(&cluster, "all", json!({"hard": {"count/pods": "1000"}})).await;
    let writers = (0..300).map(|n| {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            let mut pod = pod(&format!("p{n}"));
            pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
            cluster.post(PODS, &pod).await
        })
    });
    // Somebody who writes the quota all the time, as its controller does.
    let touching = {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let labels = json!({"metadata": {"labels": {"n": n.to_string()}}});
                cluster.merge(&format!("{QUOTAS}/pods"), &labels).await.expect(200);
            }
        })
    };
    let answers: Vec<_> = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
    touching.await.unwrap();
    let made = answers.iter().filter(|a| a.code == 201).count();
    assert_eq!(made, 30, "3 CPUs are 30 times 100m");
    for refused in answers.iter().filter(|a| a.code != 201) {
        assert_eq!(refused.code, 403);
        let words = "is forbidden: exceeded quota: pods, requested: requests.cpu=100m, used: requests.cpu=3, limited: requests.cpu=3";
        assert!(refused.message().ends_with(words), "{}", refused.message());
    }
    assert_eq!(used(&cluster, "pods").await, json!({"pods": "30", "requests.cpu": "3"}));
    assert_eq!(used(&cluster, "all").await, json!({"count/pods": "30"}), "what one quota refuses no other charges");
    let pods = cluster.get(PODS).await.expect(200);
    assert_eq!(pods["items"].as_array().unwrap().len(), 30);
}

#[tokio::test]
async fn what_is_not_stored_is_not_charged() {
    let cluster = Cluster::start().await;
    quota(&cluster, "q", json!({"hard": {"pods": "5", "services": "1", "services.nodeports": "1"}})).await;
    cluster.post(PODS, &pod("a")).await.expect(201);
    cluster.post(PODS, &pod("a")).await.expect(409);
    cluster.post(&format!("{PODS}?dryRun=All"), &pod("b")).await.expect(201);
    cluster.post(PODS, &pod("Not A Name")).await.expect(422);
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}, {"name": "b", "port": 81}]}});
    assert!(cluster.post(services, &service).await.code == 422, "ports need names");
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    cluster.post(services, &service).await.expect(201);
    assert_eq!(used(&cluster, "q").await, json!({"pods": "1", "services": "1", "services.nodeports": "0"}));
    let to_node_port = json!({"spec": {"type": "NodePort"}});
    cluster.merge(&format!("{services}/s"), &to_node_port).await.expect(200);
    assert_eq!(used(&cluster, "q").await["services.nodeports"], "1");
    let two = json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}});
    let refused = cluster.merge(&format!("{services}/s"), &two).await;
    assert_eq!(
        refused.message(),
        "services \"s\" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, \
         limited: services.nodeports=1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_update_is_lost() {
    let cluster = std::sync::Arc::new(Cluster::start().await);
    let path = "/api/v1/namespaces/default/configmaps";
    cluster.post(path, &json!({"metadata": {"name": "counter"}, "data": {"n": "0"}})).await.expect(201);
    let writers = (0..200).map(|_| {
        let (cluster, path) = (cluster.clone(), format!("{path}/counter"));
        tokio::spawn(async move {
            let mut done = 0;
            for _ in 0..3 {
                let mut map = cluster.get(&path).await.expect(200);
                let n: u64 = map["data"]["n"].as_str().unwrap().parse().unwrap();
                map["data"]["n"] = (n + 1).to_string().into();
                let answer = cluster.put(&path, &map).await;
                match answer.code {
                    200 => done += 1,
                    409 => assert!(answer.message().contains("the object has been modified"), "{}", answer.message()),
                    other => panic!("{other}: {}", answer.value),
                }
            }
            done
        })
    });
    let done: u64 = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).sum();
    let map = cluster.get(&format!("{path}/counter")).await.expect(200);
    assert_eq!(map["data"]["n"], done.to_string(), "each accepted update was made from the one before");
    assert!(done >= 1);
}
