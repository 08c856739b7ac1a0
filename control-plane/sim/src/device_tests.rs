//! Devices from the driver's slice to the pod that has them, on virtual time.

use std::time::Duration;

use serde_json::{Value, json};
use xebec_controllers::resource_claim::FINALIZER;
use xebec_controllers::runtime::kind::{
    DEVICE_CLASS, DEVICE_TAINT_RULE, POD, RESOURCE_CLAIM, RESOURCE_CLAIM_TEMPLATE, RESOURCE_SLICE,
};

use crate::{Sim, simulate};

const DRIVER: &str = "gpu.example.com";

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn cluster_object(kind: &str, name: &str, spec: &Value) -> Value {
    let mut object = object(kind, name, spec);
    object["metadata"].as_object_mut().unwrap().remove("namespace");
    object
}

fn one_device() -> Value {
    json!({"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}})
}

fn pod(name: &str, claim: &Value) -> Value {
    let mut claim = claim.clone();
    claim["name"] = "gpu".into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": {
        "resourceClaims": [claim], "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "gpu"}]}}]}})
}

/// Two nodes, the second with two devices.
async fn cluster(seed: u64) -> Sim {
    let sim = Sim::new(seed, 2).await;
    let selector = json!([{"cel": {"expression": format!("device.driver == '{DRIVER}'")}}]);
    sim.create(&DEVICE_CLASS, &cluster_object("DeviceClass", "gpu", &json!({"selectors": selector}))).await.unwrap();
    let slice = json!({"driver": DRIVER, "nodeName": "node-1", "devices": [{"name": "a"}, {"name": "b"}],
        "pool": {"name": "node-1", "generation": 1, "resourceSliceCount": 1}});
    sim.create(&RESOURCE_SLICE, &cluster_object("ResourceSlice", "node-1", &slice)).await.unwrap();
    let template = object("ResourceClaimTemplate", "gpu", &json!({"spec": one_device()}));
    sim.create(&RESOURCE_CLAIM_TEMPLATE, &template).await.unwrap();
    sim
}

async fn find(sim: &Sim, name: &str) -> Option<Value> {
    sim.list(&POD).await.into_iter().find(|pod| pod["metadata"]["name"] == name)
}

async fn expect(sim: &Sim, what: &str, mut done: impl AsyncFnMut(&Sim) -> bool) {
    if sim.run_until(Duration::from_secs(120), async |sim: &Sim| done(sim).await).await.is_none() {
        panic!("not so: {what}: {:#?} {:#?}", sim.list(&POD).await, sim.list(&RESOURCE_CLAIM).await);
    }
}

async fn expect_running(sim: &Sim, name: &str) {
    expect(sim, name, async |sim: &Sim| find(sim, name).await.is_some_and(|pod| pod["status"]["phase"] == "Running"))
        .await;
}

#[test]
fn pods_get_devices_by_template_and_give_them_back() {
    simulate(async {
        let sim = cluster(21).await;
        let by_template = json!({"resourceClaimTemplateName": "gpu"});
        for name in ["p", "q", "r"] {
            sim.create(&POD, &pod(name, &by_template)).await.unwrap();
            sim.run_for(Duration::from_secs(2)).await;
        }
        expect_running(&sim, "p").await;
        expect_running(&sim, "q").await;
        let claims = sim.list(&RESOURCE_CLAIM).await;
        assert_eq!(claims.len(), 3);
        let mut devices: Vec<&str> = claims
            .iter()
            .filter_map(|c| c["status"]["allocation"]["devices"]["results"][0]["device"].as_str())
            .collect();
        devices.sort_unstable();
        assert_eq!(devices, ["a", "b"]);
        let first = find(&sim, "p").await.unwrap();
        assert_eq!(first["spec"]["nodeName"], "node-1");
        let made = first["status"]["resourceClaimStatuses"][0]["resourceClaimName"].as_str().unwrap();
        assert!(made.starts_with("p-gpu-"), "{made}");
        let claim = claims.iter().find(|claim| claim["metadata"]["name"] == made).unwrap();
        assert_eq!(claim["status"]["reservedFor"][0]["name"], "p");
        assert_eq!(claim["metadata"]["finalizers"], json!([FINALIZER]));
        let third = find(&sim, "r").await.unwrap();
        let why = third["status"]["conditions"][0]["message"].as_str().unwrap();
        assert!(why.contains("2 cannot allocate all claims"), "{why}");

        sim.delete(&POD, "default", "p").await.unwrap();
        expect_running(&sim, "r").await;
        expect(&sim, "the claim has gone with its pod", async |sim: &Sim| sim.list(&RESOURCE_CLAIM).await.len() == 2)
            .await;
    });
}

#[test]
fn a_shared_claim_is_given_back_with_its_last_pod() {
    simulate(async {
        let sim = cluster(22).await;
        sim.create(&POD, &pod("p", &json!({"resourceClaimName": "shared"}))).await.unwrap();
        sim.run_for(Duration::from_secs(5)).await;
        let waits = find(&sim, "p").await.unwrap();
        assert!(waits["spec"]["nodeName"].is_null() && waits["status"]["conditions"].is_null(), "{waits}");
        sim.create(&RESOURCE_CLAIM, &object("ResourceClaim", "shared", &one_device())).await.unwrap();
        expect_running(&sim, "p").await;
        sim.create(&POD, &pod("q", &json!({"resourceClaimName": "shared"}))).await.unwrap();
        expect_running(&sim, "q").await;
        let reserved = sim.list(&RESOURCE_CLAIM).await[0]["status"]["reservedFor"].as_array().unwrap().len();
        assert_eq!(reserved, 2);
        sim.delete(&RESOURCE_CLAIM, "default", "shared").await.unwrap();
        sim.delete(&POD, "default", "p").await.unwrap();
        expect(&sim, "one user is left", async |sim: &Sim| {
            sim.list(&RESOURCE_CLAIM).await[0]["status"]["reservedFor"].as_array().is_some_and(|by| by.len() == 1)
        })
        .await;
        sim.delete(&POD, "default", "q").await.unwrap();
        expect(&sim, "the claim is gone", async |sim: &Sim| sim.list(&RESOURCE_CLAIM).await.is_empty()).await;
    });
}

#[test]
fn pods_leave_devices_that_are_tainted() {
    simulate(async {
        let sim = cluster(23).await;
        sim.create(&POD, &pod("p", &json!({"resourceClaimTemplateName": "gpu"}))).await.unwrap();
        expect_running(&sim, "p").await;
        let rule = json!({"deviceSelector": {"driver": DRIVER}, "taint": {"key": "broken", "effect": "NoExecute"}});
        sim.create(&DEVICE_TAINT_RULE, &cluster_object("DeviceTaintRule", "broken", &rule)).await.unwrap();
        expect(&sim, "the pod is gone", async |sim: &Sim| find(sim, "p").await.is_none()).await;
        sim.create(&POD, &pod("q", &json!({"resourceClaimTemplateName": "gpu"}))).await.unwrap();
        sim.run_for(Duration::from_secs(10)).await;
        assert!(find(&sim, "q").await.unwrap()["spec"]["nodeName"].is_null());
        sim.delete(&DEVICE_TAINT_RULE, "", "broken").await.unwrap();
        expect_running(&sim, "q").await;
    });
}
