use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use xebec_controllers::runtime::kind::{DEPLOYMENT, NAMESPACE, NODE, POD, REPLICA_SET};

use crate::{Sim, Trace, simulate};

fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [{"name": "web", "image": image,
                        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}}}],
                    "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                        "effect": "NoExecute", "tolerationSeconds": 10}],
                },
            },
        },
    })
}

/// Whether all deployments are where they should be.
async fn settled(sim: &Sim) -> bool {
    sim.list(&DEPLOYMENT).await.iter().all(|d| {
        let (wanted, status) = (&d["spec"]["replicas"], &d["status"]);
        status["observedGeneration"] == d["metadata"]["generation"]
            && status["updatedReplicas"] == *wanted
            && status["availableReplicas"] == *wanted
            && status["replicas"] == *wanted
    })
}

async fn expect_settled(sim: &Sim, limit_seconds: u64) -> Duration {
    let took = sim.run_until(Duration::from_secs(limit_seconds), settled).await;
    let Some(took) = took else {
        let states: Vec<String> = sim.list(&DEPLOYMENT).await.iter().map(|d| d["status"].to_string()).collect();
        panic!("not settled after {limit_seconds} s: {states:#?}");
    };
    took
}

/// A busy life of a cluster; what happened in it.
async fn life(seed: u64, nodes: usize, deployments: usize, replicas: u32) -> Trace {
    let mut sim = Sim::new(seed, nodes).await;
    for i in 0..deployments {
        sim.create(&DEPLOYMENT, &deployment(&format!("web-{i}"), replicas, "web:1")).await.unwrap();
    }
    expect_settled(&sim, 60).await;

    for i in 0..deployments {
        let name = format!("web-{i}");
        let patch = if i % 2 == 0 {
            json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:2",
                "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}}}]}}}})
        } else {
            json!({"spec": {"replicas": replicas * 2}})
        };
        sim.patch(&DEPLOYMENT, "default", &name, &patch).await.unwrap();
    }
    expect_settled(&sim, 120).await;

    for i in 0..(nodes / 40).max(1) {
        sim.kill_node(&format!("node-{}", i * 7));
    }
    // Silence is noticed after 40 s, pods put up with it for 10 s, and a node is given up every 10 s.
    sim.run_for(Duration::from_secs(110)).await;
    expect_settled(&sim, 60).await;
    assert_eq!(sim.wrong().await, Vec::<String>::new());
    sim.trace()
}

#[test]
fn pods_come_up_spread_over_the_nodes() {
    simulate(async {
        let sim = Sim::new(1, 3).await;
        sim.create(&DEPLOYMENT, &deployment("web", 9, "web:1")).await.unwrap();
        let took = expect_settled(&sim, 10).await;
        assert!(took < Duration::from_secs(3), "{took:?}");
        let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
        for pod in sim.list(&POD).await {
            *by_node.entry(pod["spec"]["nodeName"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        assert_eq!(by_node.values().copied().collect::<Vec<_>>(), [3, 3, 3]);
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}

#[test]
fn a_deleted_pod_is_replaced_and_a_deleted_deployment_leaves_nothing() {
    simulate(async {
        let sim = Sim::new(2, 2).await;
        sim.create(&DEPLOYMENT, &deployment("web", 2, "web:1")).await.unwrap();
        expect_settled(&sim, 10).await;
        let pod = sim.list(&POD).await[0]["metadata"]["name"].as_str().unwrap().to_owned();
        sim.delete(&POD, "default", &pod).await.unwrap();
        sim.run_for(Duration::from_secs(2)).await;
        expect_settled(&sim, 60).await;
        assert!(sim.list(&POD).await.iter().all(|p| p["metadata"]["name"] != pod));
        sim.delete(&DEPLOYMENT, "default", "web").await.unwrap();
        let empty = sim.run_until(Duration::from_secs(60), async |sim: &Sim| {
            sim.list(&POD).await.is_empty() && sim.list(&REPLICA_SET).await.is_empty()
        });
        assert!(empty.await.is_some());
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}

#[test]
fn a_failed_roll_out_keeps_serving_and_is_undone() {
    simulate(async {
        let sim = Sim::new(3, 3).await;
        let mut web = deployment("web", 4, "web:1");
        web["spec"]["progressDeadlineSeconds"] = 60.into();
        sim.create(&DEPLOYMENT, &web).await.unwrap();
        expect_settled(&sim, 10).await;
        for i in 0..3 {
            let broken = xebec_node_agent::runtime::fake::Script {
                pull_error: Some("no such image".into()),
                ..Default::default()
            };
            sim.node(&format!("node-{i}")).unwrap().runtime.script("web:broken", broken);
        }
        let image =
            |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}});
        sim.patch(&DEPLOYMENT, "default", "web", &image("web:broken")).await.unwrap();
        sim.run_for(Duration::from_secs(90)).await;
        let web = &sim.list(&DEPLOYMENT).await[0];
        let progressing = web["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Progressing");
        assert_eq!(progressing.unwrap()["reason"], "ProgressDeadlineExceeded");
        assert_eq!(web["status"]["availableReplicas"], 3);
        let first = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:1",
            "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}}}]}}}});
        sim.patch(&DEPLOYMENT, "default", "web", &first).await.unwrap();
        expect_settled(&sim, 60).await;
        let web = &sim.list(&DEPLOYMENT).await[0];
        assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
        assert_eq!(sim.list(&REPLICA_SET).await.len(), 2);
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}

#[test]
fn a_dead_nodes_pods_come_up_elsewhere() {
    simulate(async {
        let mut sim = Sim::new(4, 3).await;
        sim.create(&DEPLOYMENT, &deployment("web", 6, "web:1")).await.unwrap();
        expect_settled(&sim, 10).await;
        sim.kill_node("node-1");
        sim.run_for(Duration::from_secs(60)).await;
        let node = sim.list(&NODE).await.into_iter().find(|n| n["metadata"]["name"] == "node-1").unwrap();
        let ready = node["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
        assert_eq!(ready["status"], "Unknown");
        sim.run_for(Duration::from_secs(30)).await;
        expect_settled(&sim, 60).await;
        sim.delete(&NODE, "", "node-1").await.unwrap();
        // With the node gone for good, nothing of it is left.
        sim.run_for(Duration::from_secs(80)).await;
        assert!(sim.list(&POD).await.iter().all(|p| p["spec"]["nodeName"] != "node-1"));
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}

#[test]
fn clocks_may_be_set() {
    simulate(async {
        let mut sim = Sim::new(6, 3).await;
        sim.create(&DEPLOYMENT, &deployment("web", 6, "web:1")).await.unwrap();
        expect_settled(&sim, 10).await;
        let is = async |sim: &Sim, name: &str, status: &str| {
            let node = sim.list(&NODE).await.into_iter().find(|n| n["metadata"]["name"] == name).unwrap();
            let conditions = node["status"]["conditions"].as_array().unwrap().clone();
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == status)
        };
        let pods = async |sim: &Sim| {
            let name = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
            sim.list(&POD).await.iter().map(name).collect::<std::collections::BTreeSet<_>>()
        };
        let before = pods(&sim).await;
        for hours in [3, -5] {
            sim.step_clock(SignedDuration::from_hours(hours));
            for _ in 0..100 {
                sim.run_for(Duration::from_secs(1)).await;
                for node in ["node-0", "node-1", "node-2"] {
                    assert!(is(&sim, node, "True").await, "{node}, after a step of {hours} h");
                }
                let web = &sim.list(&DEPLOYMENT).await[0];
                assert_eq!(web["status"]["availableReplicas"], 6, "after a step of {hours} h");
            }
        }
        assert_eq!(pods(&sim).await, before);
        // What really dies is noticed as soon as ever, also when all it said is of the future.
        sim.step_clock(SignedDuration::from_hours(-2));
        sim.kill_node("node-1");
        sim.run_for(Duration::from_secs(60)).await;
        assert!(is(&sim, "node-1", "Unknown").await);
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}

#[test]
fn a_deleted_namespace_takes_its_contents_along() {
    simulate(async {
        let sim = Sim::new(5, 2).await;
        sim.create(&NAMESPACE, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}))
            .await
            .unwrap();
        let mut web = deployment("web", 3, "web:1");
        web["metadata"]["namespace"] = "shop".into();
        sim.create(&DEPLOYMENT, &web).await.unwrap();
        expect_settled(&sim, 10).await;
        sim.delete(&NAMESPACE, "", "shop").await.unwrap();
        let gone = sim.run_until(Duration::from_secs(60), async |sim: &Sim| {
            sim.list(&NAMESPACE).await.iter().all(|n| n["metadata"]["name"] != "shop")
        });
        assert!(gone.await.is_some(), "{:#?}", sim.list(&NAMESPACE).await);
        assert!(sim.list(&POD).await.is_empty());
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}

#[test]
fn the_same_seed_gives_the_same_life() {
    let first = simulate(life(7, 5, 2, 5));
    let second = simulate(life(7, 5, 2, 5));
    if first.hash != second.hash {
        let at = first.lines.iter().zip(&second.lines).position(|(a, b)| a != b);
        let at = at.unwrap_or(first.lines.len().min(second.lines.len()));
        let around = |t: &Trace| t.lines[at.saturating_sub(5)..(at + 3).min(t.lines.len())].join("\n");
        panic!("they part at write {at}:\n{}\n\n{}", around(&first), around(&second));
    }
    assert_ne!(simulate(life(8, 5, 2, 5)).hash, first.hash);
}

#[test]
fn two_hundred_nodes() {
    let trace = simulate(life(11, 200, 10, 20));
    println!("{} writes", trace.writes);
}

#[test]
fn other_seeds_live_as_well() {
    for seed in 100..120 {
        let trace = simulate(life(seed, 5, 3, 4));
        assert!(trace.writes > 0, "seed {seed}");
    }
}
