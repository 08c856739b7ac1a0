//! Volumes that are images, on a real containerd.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use containerd_client::services::v1::snapshots::StatSnapshotRequest;
use containerd_client::tonic::Code;
use serde_json::json;
use xebec_clock::{Clock, Random};
use xebec_node_agent::api::{Pod, Rest};
use xebec_node_agent::network::PodIdentity;
use xebec_node_agent::pods::env::Facts;
use xebec_node_agent::runtime::containerd::SNAPSHOTTER;
use xebec_node_agent::runtime::containerd::client::request;
use xebec_node_agent::runtime::{Images, Runtime};
use xebec_node_agent::volumes::Volumes;
use xebec_node_agent::volumes::local::{LocalVolumes, LocalVolumesConfig};

use crate::support::{IMAGE, Node, Running};

/// An agent's volumes; their API has nothing.
fn volumes(node: &Node) -> LocalVolumes {
    let config = LocalVolumesConfig {
        pod_root: node.path("pods"),
        persistent_root: node.path("local-volumes"),
        log_root: node.path("logs"),
        resolv_conf: node.path("resolv.conf"),
        cluster_dns: None,
        facts: Facts {
            addresses: Vec::new(),
            host_ip: "172.30.0.11".parse().unwrap(),
            allocatable_cpu_milli: 1000,
            allocatable_memory_bytes: 1 << 30,
        },
    };
    let nothing = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Ok::<_, Infallible>(http::Response::new(axum::body::Body::empty()))
    });
    let rest = Rest::new(kube::Client::new(nothing, "default"));
    LocalVolumes::new(config, rest, node.images(), Clock::system(), Random::system())
}

fn pod() -> Arc<Pod> {
    let mounts = json!([
        { "name": "tools", "mountPath": "/tools" },
        { "name": "tools", "mountPath": "/users", "subPathExpr": "$(FOLDER)" },
        { "name": "tools", "mountPath": "/absent", "subPath": "no/such" },
    ]);
    let spec = json!({
        "volumes": [{ "name": "tools", "image": { "reference": IMAGE } }],
        "containers": [{ "name": "c", "volumeMounts": mounts }],
    });
    let meta = json!({ "namespace": "default", "name": "p", "uid": "image-volume" });
    Arc::new(serde_json::from_value(json!({ "metadata": meta, "spec": spec })).unwrap())
}

/// What containerd keeps for the pod's volume: the directory says by which key.
async fn kept(node: &Node) -> Vec<String> {
    let mut keys = Vec::new();
    let dir = node.path("pods/image-volume/volumes/kubernetes.io~image/tools");
    for digest in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        keys.push(format!("xebec-volume-image-volume-tools-{}", digest.file_name().to_string_lossy()));
    }
    keys
}

async fn snapshot(node: &Node, key: &str) -> Result<(), Code> {
    let stat = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    node.client().snapshots().stat(request(stat)).await.map(drop).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_volume_until_its_pod_goes() {
    let mut node = Node::start().await;
    let pod = pod();
    let container = &pod.spec.containers[0];
    let image = node.images().find(IMAGE).await.unwrap().unwrap();
    let env = [("FOLDER".to_owned(), "etc".to_owned())];
    {
        let local = volumes(&node);
        let mounted = local.mount(Arc::clone(&pod)).await.unwrap();
        assert!(mounted.paths.is_empty(), "it comes with the container");
        let mut mounts = Vec::new();
        for index in 0..2 {
            mounts.push(local.image_mount(&pod, container, index, &image, &env).await.unwrap());
        }
        let error = local.image_mount(&pod, container, 2, &image, &env).await.unwrap_err().0;
        assert_eq!(error, "ImageVolumeMountFailed: subPath no/such does not exist");

        let runtime = node.runtime();
        let running = Running::new(&node, &runtime, "image-volume").await;
        let script = "cat /users/passwd; echo x > /tools/new; /tools/bin/busybox true; echo $?; sleep 1000";
        let mut spec = running.container("reader", &["sh", "-c", script]).await;
        spec.mounts = mounts;
        running.run(&spec).await;
        let log = running.log_holds("reader", "stdout F 126").await;
        assert!(log.contains("stdout F web:x:1000"), "part of the image is mounted: {log}");
        assert!(log.contains("Read-only file system"), "nothing can be written: {log}");
        assert!(log.contains("Permission denied"), "nothing can be run: {log}");
    }
    // A new agent, and a new containerd.
    node.restart_containerd().await;
    let runtime = node.runtime();
    let local = volumes(&node);
    local.mount(Arc::clone(&pod)).await.unwrap();
    let again = local.image_mount(&pod, container, 0, &image, &env).await.unwrap();
    assert!(again.host.join("bin/busybox").exists());
    let keys = kept(&node).await;
    assert_eq!(keys.len(), 1);
    assert_eq!(snapshot(&node, &keys[0]).await, Ok(()));

    let identity = PodIdentity { namespace: "default".into(), name: "p".into(), uid: "image-volume".into() };
    runtime.remove(&node.id("reader")).await.unwrap();
    runtime.remove_sandbox(&identity, "burstable/podimage-volume").await.unwrap();
    // The pod went while no agent ran.
    volumes(&node).collect(&[]).await.unwrap();
    assert_eq!(snapshot(&node, &keys[0]).await, Err(Code::NotFound));
    assert!(!node.path("pods/image-volume").exists());
    assert!(!mounted(&node.path("pods")));
}

fn mounted(below: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().filter_map(|line| line.split(' ').nth(1)).any(|at| Path::new(at).starts_with(below))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_disk_is_known_and_an_image_can_go() {
    let node = Node::start().await;
    let (images, runtime) = (node.images(), node.runtime());
    assert!(images.root().await.unwrap().starts_with(node.path("root")), "where the snapshotter has its files");
    let pod = Running::new(&node, &runtime, "disk").await;
    let spec =
        pod.container("writer", &["sh", "-c", "dd if=/dev/zero of=/tmp/x bs=1M count=3; echo done; sleep 1000"]).await;
    let digest = spec.image.digest.clone();
    pod.run(&spec).await;
    pod.log_holds("writer", "stdout F done").await;
    let usage = runtime.disk_usage(&node.id("writer")).await.unwrap();
    assert!((3 << 20..4 << 20).contains(&usage.bytes) && usage.inodes >= 1, "{usage:?}");
    assert!(runtime.usage(&node.id("writer")).await.unwrap().processes >= 1);
    pod.remove(&["writer"]).await;

    let listed = node.images().images().await.unwrap();
    assert!(listed[0].1 > 100_000, "its size is known to an agent that has not used it: {listed:?}");
    let found = images.find(IMAGE).await.unwrap().unwrap();
    let layers = images.hold("held", &found).await.unwrap();
    images.remove(&digest).await.unwrap();
    assert_eq!(images.find(IMAGE).await.unwrap(), None);
    // What is held of it stays until it is let go of.
    let source = Path::new(&layers[0].source);
    assert!(source.join("bin/busybox").exists(), "{layers:?}");
    images.release("held").await.unwrap();
    images.release("held").await.unwrap();
    images.remove(&digest).await.unwrap();
    let archive = node.path("busybox.tar");
    images.import(&archive, None).await.unwrap();
    assert!(images.find(IMAGE).await.unwrap().is_some(), "it can come again");
}
