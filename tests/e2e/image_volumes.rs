//! Volumes that are images.

use std::sync::Arc;

use crate::harness::{Cluster, Result, SOON, TOOLS, contains, same, wait_until};

pub fn an_image_is_a_volume(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("image-volumes")?;
    let node = cluster.node(1);
    let pod = |name: &str, mounts: &str, volumes: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {TOOLS}
    command: [sh, -c, 'exec sleep 100000']
    env: [{{name: PLACE, value: etc}}]
    volumeMounts: [{mounts}]
  volumes: [{volumes}]
"
        )
    };
    let volume = format!("{{name: data, image: {{reference: '{TOOLS}'}}}}");
    let mounts = "{name: data, mountPath: /data}, {name: data, mountPath: /part, subPathExpr: $(PLACE)}";
    ns.apply(&pod("reader", mounts, &volume))?;
    ns.ready("reader")?;
    same(ns.field("pod/reader", "{.spec.volumes[0].image.pullPolicy}")?.as_str(), "IfNotPresent", "the default")?;
    ns.shell("reader", "cmp /data/etc/passwd /part/passwd")?;
    contains(&ns.shell("reader", "touch /data/x 2>&1 || true")?, "Read-only file system")?;
    contains(&ns.shell("reader", "/data$(readlink -f $(command -v sleep)) 0 2>&1 || true")?, "Permission denied")?;
    let uid = ns.field("pod/reader", "{.metadata.uid}")?;
    let left = |uid: &str| {
        let script = format!("grep -c {uid} /proc/mounts; ls /var/lib/xebec-agent/pods/{uid} 2>/dev/null");
        cluster.on_node(&node, &["sh", "-c", &script]).map(|printed| printed.out)
    };
    ns.kubectl(&["delete", "pod", "reader"])?;
    wait_until("nothing is left of it", SOON, || Ok(left(&uid)?.trim() == "0"))?;

    let absent = "{name: data, image: {reference: '127.0.0.1:1/no/such:1', pullPolicy: Always}}";
    ns.apply(&pod("waits", "{name: data, mountPath: /data}", absent))?;
    wait_until("the wait for the volume's image shows", SOON, || {
        Ok(ns.kubectl(&["get", "pod", "waits"])?.contains("ImagePullBackOff"))
    })?;
    let events = ns.kubectl(&["get", "events", "--field-selector", "involvedObject.name=waits"])?;
    contains(&events, "Back-off pulling image \"127.0.0.1:1/no/such:1\"")?;
    ns.apply(&pod("partly", "{name: data, mountPath: /data, subPath: no/such}", &volume))?;
    wait_until("what is not in the image shows", SOON, || {
        Ok(ns.kubectl(&["get", "pod", "partly"])?.contains("CreateContainerError"))
    })?;
    let message = ns.field("pod/partly", "{.status.containerStatuses[0].state.waiting.message}")?;
    contains(&message, "ImageVolumeMountFailed: subPath no/such does not exist")?;
    ns.kubectl(&["delete", "pod", "--all"]).map(drop)
}
