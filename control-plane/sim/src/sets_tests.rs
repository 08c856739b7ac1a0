//! StatefulSets, DaemonSets, ReplicationControllers and CronJobs through their life, on virtual time.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use xebec_controllers::runtime::kind::{
    CONTROLLER_REVISION, CRON_JOB, DAEMON_SET, JOB, POD, REPLICATION_CONTROLLER, STATEFUL_SET,
};

use crate::{Sim, simulate};

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn set(kind: &str, name: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({"matchLabels": {"app": name}});
    spec["template"] = template(name, "i:1");
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

async fn names(sim: &Sim) -> BTreeSet<String> {
    sim.list(&POD).await.iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn images(sim: &Sim) -> Vec<String> {
    let mut pods = sim.list(&POD).await;
    pods.sort_by_key(|p| p["metadata"]["name"].as_str().unwrap().to_owned());
    pods.iter().map(|p| p["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()).collect()
}

/// Waits until a field of the status of the kind's only object is so, and the controller has seen the newest spec.
async fn expect(sim: &Sim, kind: &xebec_controllers::runtime::kind::Kind, fields: &[(&str, i64)]) {
    let done = sim.run_until(Duration::from_secs(120), async |sim: &Sim| {
        let object = &sim.list(kind).await[0];
        object["status"]["observedGeneration"] == object["metadata"]["generation"]
            && fields.iter().all(|(field, is)| object["status"][field].as_i64().unwrap_or_default() == *is)
    });
    if done.await.is_none() {
        panic!("not {fields:?}: {}", sim.list(kind).await[0]["status"]);
    }
}

#[test]
fn a_stateful_set_lives() {
    simulate(async {
        let sim = Sim::new(11, 3).await;
        sim.create(&STATEFUL_SET, &set("StatefulSet", "db", json!({"serviceName": "db", "replicas": 3})))
            .await
            .unwrap();
        expect(&sim, &STATEFUL_SET, &[("readyReplicas", 3), ("availableReplicas", 3), ("currentReplicas", 3)]).await;
        assert_eq!(names(&sim).await, ["db-0", "db-1", "db-2"].map(str::to_owned).into());
        // Each came after the one before it was ready.
        let pods = sim.list(&POD).await;
        let pod = |name: &str| pods.iter().find(|p| p["metadata"]["name"] == name).unwrap();
        let ready = |name: &str| {
            let conditions = pod(name)["status"]["conditions"].as_array().unwrap();
            conditions.iter().find(|c| c["type"] == "Ready").unwrap()["lastTransitionTime"].as_str().unwrap().to_owned()
        };
        assert!(ready("db-0").as_str() <= pod("db-1")["metadata"]["creationTimestamp"].as_str().unwrap());

        let partition = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}});
        sim.patch(&STATEFUL_SET, "default", "db", &partition).await.unwrap();
        sim.patch(&STATEFUL_SET, "default", "db", &image("i:2")).await.unwrap();
        expect(&sim, &STATEFUL_SET, &[("updatedReplicas", 1), ("readyReplicas", 3)]).await;
        assert_eq!(images(&sim).await, ["i:1", "i:1", "i:2"]);
        let whole = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}});
        sim.patch(&STATEFUL_SET, "default", "db", &whole).await.unwrap();
        expect(&sim, &STATEFUL_SET, &[("updatedReplicas", 3), ("readyReplicas", 3), ("currentReplicas", 3)]).await;
        assert_eq!(images(&sim).await, ["i:2"; 3]);
        let status = &sim.list(&STATEFUL_SET).await[0]["status"];
        assert_eq!(status["currentRevision"], status["updateRevision"]);
        assert_eq!(sim.list(&CONTROLLER_REVISION).await.len(), 2);

        sim.delete(&POD, "default", "db-1").await.unwrap();
        sim.run_for(Duration::from_secs(2)).await;
        expect(&sim, &STATEFUL_SET, &[("readyReplicas", 3)]).await;
        sim.patch(&STATEFUL_SET, "default", "db", &json!({"spec": {"replicas": 1}})).await.unwrap();
        expect(&sim, &STATEFUL_SET, &[("replicas", 1)]).await;
        assert_eq!(names(&sim).await, ["db-0".to_owned()].into());
        sim.delete(&STATEFUL_SET, "default", "db").await.unwrap();
        let gone = sim.run_until(Duration::from_secs(60), async |sim: &Sim| {
            sim.list(&POD).await.is_empty() && sim.list(&CONTROLLER_REVISION).await.is_empty()
        });
        assert!(gone.await.is_some());
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}

#[test]
fn a_daemon_set_is_everywhere() {
    simulate(async {
        let mut sim = Sim::new(12, 3).await;
        sim.create(&DAEMON_SET, &set("DaemonSet", "agent", json!({}))).await.unwrap();
        expect(&sim, &DAEMON_SET, &[("desiredNumberScheduled", 3), ("numberAvailable", 3)]).await;
        let nodes: BTreeSet<String> =
            sim.list(&POD).await.iter().map(|p| p["spec"]["nodeName"].as_str().unwrap().to_owned()).collect();
        assert_eq!(nodes.len(), 3);
        sim.add_node();
        expect(&sim, &DAEMON_SET, &[("desiredNumberScheduled", 4), ("numberAvailable", 4)]).await;
        sim.patch(&DAEMON_SET, "default", "agent", &image("i:2")).await.unwrap();
        expect(&sim, &DAEMON_SET, &[("updatedNumberScheduled", 4), ("numberAvailable", 4)]).await;
        assert_eq!(images(&sim).await, ["i:2"; 4]);
        let generation = sim.list(&DAEMON_SET).await[0]["metadata"]["annotations"].clone();
        assert_eq!(generation["deprecated.daemonset.template.generation"], "2");
        sim.delete(&DAEMON_SET, "default", "agent").await.unwrap();
        let gone = sim.run_until(Duration::from_secs(60), async |sim: &Sim| sim.list(&POD).await.is_empty());
        assert!(gone.await.is_some());
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}

#[test]
fn a_replication_controller_keeps_its_pods() {
    simulate(async {
        let sim = Sim::new(13, 2).await;
        let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"replicas": 2, "template": template("web", "i:1")}});
        sim.create(&REPLICATION_CONTROLLER, &controller).await.unwrap();
        expect(&sim, &REPLICATION_CONTROLLER, &[("availableReplicas", 2)]).await;
        assert_eq!(sim.list(&REPLICATION_CONTROLLER).await[0]["spec"]["selector"], json!({"app": "web"}));
        sim.patch(&REPLICATION_CONTROLLER, "default", "web", &json!({"spec": {"replicas": 1}})).await.unwrap();
        expect(&sim, &REPLICATION_CONTROLLER, &[("replicas", 1)]).await;
        let one = sim.run_until(Duration::from_secs(60), async |sim: &Sim| sim.list(&POD).await.len() == 1);
        assert!(one.await.is_some());
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}

#[test]
fn a_cron_job_makes_jobs_when_they_are_due() {
    simulate(async {
        let sim = Sim::new(14, 1).await;
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]});
        let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "tick", "namespace": "default"},
            "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Forbid",
                "jobTemplate": {"spec": {"template": {"spec": pod}}}}});
        sim.create(&CRON_JOB, &cron).await.unwrap();
        // The job never ends, so there is one however long we wait.
        sim.run_for(Duration::from_secs(190)).await;
        let jobs = sim.list(&JOB).await;
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0]["metadata"]["ownerReferences"][0]["kind"], "CronJob");
        let status = sim.list(&CRON_JOB).await[0]["status"].clone();
        assert_eq!(status["active"][0]["uid"], jobs[0]["metadata"]["uid"]);
        sim.patch(&CRON_JOB, "default", "tick", &json!({"spec": {"concurrencyPolicy": "Allow"}})).await.unwrap();
        sim.run_for(Duration::from_secs(130)).await;
        assert!((3..=4).contains(&sim.list(&JOB).await.len()));
        sim.delete(&CRON_JOB, "default", "tick").await.unwrap();
        let gone = sim.run_until(Duration::from_secs(90), async |sim: &Sim| {
            sim.list(&JOB).await.is_empty() && sim.list(&POD).await.is_empty()
        });
        assert!(gone.await.is_some());
        assert_eq!(sim.wrong().await, Vec::<String>::new());
    });
}
