//! Devices that pods claim, from a driver on the node to the container that has one.

use std::sync::Arc;

use xebec_node_agent::devices::fake::FakeDriver;

use crate::harness::{Cluster, Namespace, Result, SOON, TOOLS, contains, same, wait_until};

const DRIVER: &str = "e2e.xebec.io";

/// What drivers write on their node: what a container gets with the device.
const CDI: &str = r#"{"cdiVersion": "0.6.0", "kind": "e2e.xebec.io/device", "devices": [{"name": "one", "containerEdits": {
    "env": ["DEVICE=one"],
    "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null"}],
    "mounts": [{"hostPath": "/run/cdi", "containerPath": "/cdi", "options": ["ro", "rbind"]}]}}]}"#;

/// Not without grace: such a pod is gone from the API at once, and its device given to the next before its node has it back.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  resourceClaims: [{{name: mine, resourceClaimTemplateName: one}}]
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, '100000'], resources: {{claims: [{{name: mine}}]}}}}
  - {{name: without, image: {TOOLS}, command: [sleep, '100000']}}
"
    )
}

fn publish(ns: &Namespace, node: &str) -> Result {
    ns.apply(&format!(
        "apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {{name: {DRIVER}}}
spec: {{selectors: [{{cel: {{expression: \"device.driver == '{DRIVER}'\"}}}}]}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {{name: {DRIVER}}}
spec:
  driver: {DRIVER}
  nodeName: {node}
  pool: {{name: {node}, generation: 1, resourceSliceCount: 1}}
  devices: [{{name: one, attributes: {{model: {{string: small}}}}}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {{name: one}}
spec:
  spec:
    devices:
      requests:
      - name: device
        exactly:
          deviceClassName: {DRIVER}
          selectors: [{{cel: {{expression: \"device.attributes['{DRIVER}'].model == 'small'\"}}}}]
"
    ))
    .map(drop)
}

/// A pod gets the only device, the next one when it is gone.
pub fn a_pod_gets_a_device(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("devices")?;
    let node = cluster.node(2);
    let runtime = tokio::runtime::Runtime::new().map_err(|e| format!("a runtime for the driver: {e}"))?;
    let driver = FakeDriver::new(DRIVER, &["v1.DRAPlugin"], &["e2e.xebec.io/device=one"]);
    let socket = cluster.state().join("nodes").join(&node).join("kubelet/plugins_registry/e2e.sock");
    let listening = runtime.block_on(async { driver.listen(&socket) });
    let listening = listening.map_err(|e| format!("the driver's socket {}: {e}", socket.display()))?;
    wait_until("the driver is registered", SOON, || Ok(driver.registered() == Some(Ok(()))))?;
    let write = format!("mkdir -p /var/run/cdi && cat > /var/run/cdi/e2e.json <<'END'\n{CDI}\nEND");
    cluster.on_node(&node, &["sh", "-c", &write])?.ok("the CDI file")?;
    publish(&ns, &node)?;

    ns.apply(&pod("first"))?;
    ns.kubectl(&["wait", "--for=condition=Ready", "pod/first", "--timeout=60s"])?;
    same(ns.field("pod/first", "{.spec.nodeName}")?, node.clone(), "the node, which has the device")?;
    let in_main = |command: &str| ns.kubectl(&["exec", "first", "-c", "main", "--", "sh", "-c", command]);
    same(in_main("echo $DEVICE; echo x > /dev/one && ls /cdi")?.as_str(), "one\ne2e.json\n", "what the container has")?;
    let without =
        ns.kubectl(&["exec", "first", "-c", "without", "--", "sh", "-c", "echo $DEVICE; ls /dev/one || true"])?;
    same(without.trim(), "", "what the other container has")?;
    contains(&ns.kubectl(&["get", "resourceclaims"])?, "allocated,reserved")?;

    ns.apply(&pod("second"))?;
    wait_until("the second pod waits", SOON, || {
        Ok(ns.kubectl(&["describe", "pod", "second"])?.contains("cannot allocate all claims"))
    })?;
    ns.kubectl(&["delete", "pod", "first"])?;
    ns.kubectl(&["wait", "--for=condition=Ready", "pod/second", "--timeout=60s"])?;
    let calls = driver.calls();
    let kinds: Vec<&str> = calls.iter().filter_map(|call| call.split(' ').nth(1)).collect();
    same(kinds.join(" ").as_str(), "prepare unprepare prepare", "what the driver was asked")?;
    ns.kubectl(&["delete", "pod", "second"])?;
    wait_until("the claims go with their pods", SOON, || {
        Ok(ns.kubectl(&["get", "resourceclaims", "-o", "name"])?.trim().is_empty())
    })?;
    ns.kubectl(&["delete", "deviceclass,resourceslice", DRIVER])?;
    drop(listening);
    Ok(())
}
