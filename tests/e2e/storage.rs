//! Volumes that outlive pods.

use std::sync::Arc;

use crate::harness::{Cluster, Result, SOON, TOOLS, contains, same, wait_until};

/// The default class makes volumes on the pods' nodes, and takes them away with their claims.
pub fn a_stateful_set_keeps_its_data(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("volumes")?;
    ns.apply(&format!(
        "apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: 2
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: {TOOLS}
        command: [sh, -c, 'hostname >> /data/starts && exec sleep 100000']
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 10Mi}}}}}}
"
    ))?;
    contains(&ns.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"])?, "complete")?;
    contains(&ns.kubectl(&["get", "storageclass"])?, "local-path (default)")?;
    let claims = ns.kubectl(&["get", "pvc"])?;
    contains(&claims, "data-db-0   Bound")?;
    contains(&claims, "data-db-1   Bound")?;
    let volume = ns.field("pvc/data-db-0", "{.spec.volumeName}")?;
    let node = ns.field("pod/db-0", "{.spec.nodeName}")?;
    let uid = ns.field("pod/db-0", "{.metadata.uid}")?;
    ns.kubectl(&["delete", "pod", "db-0"])?;
    ns.comes_back("db-0", &uid)?;
    same(ns.shell("db-0", "cat /data/starts")?.as_str(), "db-0\ndb-0\n", "what both wrote")?;
    same(ns.field("pod/db-0", "{.spec.nodeName}")?, node, "the node, which has the volume")?;
    // In use: it goes when the pod has gone.
    ns.kubectl(&["delete", "pvc", "data-db-0", "--wait=false"])?;
    contains(&ns.kubectl(&["get", "pvc", "data-db-0"])?, "Terminating")?;
    ns.kubectl(&["delete", "statefulset", "db"])?;
    ns.kubectl(&["delete", "pvc", "--all", "--timeout=60s"])?;
    wait_until("the volume goes with its claim", SOON, || {
        Ok(!ns.kubectl(&["get", "pv", "-o", "name"])?.contains(&volume))
    })
}

/// A volume that an administrator made, by its class and size; it stays when its claim goes.
pub fn a_volume_is_found(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("found-volume")?;
    let node = cluster.node(1);
    // Volumes are the whole cluster's: the name is this test's.
    ns.apply(&format!(
        "apiVersion: v1
kind: PersistentVolume
metadata: {{name: found-by-class}}
spec:
  storageClassName: by-hand
  capacity: {{storage: 2Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {{path: /var/lib/found-by-class, type: DirectoryOrCreate}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: found}}
spec:
  storageClassName: by-hand
  accessModes: [ReadWriteOnce]
  resources: {{requests: {{storage: 1Gi}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: writer}}
spec:
  nodeName: {node}
  restartPolicy: Never
  containers: [{{name: main, image: {TOOLS}, command: [sh, -c, 'echo kept > /data/file'],
    volumeMounts: [{{name: data, mountPath: /data}}]}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: found}}}}]
"
    ))?;
    ns.kubectl(&["wait", "pvc/found", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s"])?;
    same(ns.field("pvc/found", "{.status.capacity.storage}")?.as_str(), "2Gi", "its size is the volume's")?;
    ns.kubectl(&["wait", "pod/writer", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"])?;
    same(cluster.on_node(&node, &["cat", "/var/lib/found-by-class/file"])?.ok("cat")?.as_str(), "kept\n", "the file")?;
    ns.kubectl(&["delete", "pod/writer", "pvc/found"])?;
    ns.kubectl(&["wait", "pv/found-by-class", "--for=jsonpath={.status.phase}=Released", "--timeout=60s"])?;
    ns.kubectl(&["delete", "pv", "found-by-class"])?;
    cluster.on_node(&node, &["rm", "-r", "/var/lib/found-by-class"])?.ok("rm")?;
    Ok(())
}
