//! Volumes on the real file system, against an API that has one ConfigMap, one Secret and tokens. Needs root: some
//! volumes are mounts.

use std::convert::Infallible;
use std::time::Duration;

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::*;
use crate::runtime::fake::FakeRuntime;

struct Api {
    changes: broadcast::Sender<Value>,
    client: kube::Client,
}

fn config_map(value: &str) -> Value {
    json!({ "metadata": { "name": "conf", "namespace": "ns", "resourceVersion": "7" }, "data": { "key": value } })
}

fn api(clock: &Clock, folder: &Path) -> Api {
    let (changes, _) = broadcast::channel::<Value>(16);
    let (sender, clock, folder) = (changes.clone(), clock.clone(), folder.to_owned());
    let service = tower::service_fn(move |request: Request<Body>| {
        let uri = request.uri().to_string();
        let mut changes = sender.subscribe();
        let at = folder.clone();
        let expires = clock.now_seconds().checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
        async move {
            let list = |item: Value| json!({ "metadata": { "resourceVersion": "7" }, "items": [item] });
            let body = match () {
                () if uri.contains("watch=true") && uri.contains("configmaps") => {
                    let lines = async_stream::stream! {
                        while let Ok(change) = changes.recv().await {
                            yield Ok::<_, Infallible>(bytes::Bytes::from(format!("{change}\n")));
                        }
                    };
                    return Ok::<_, Infallible>(Response::new(axum::body::Body::from_stream(lines)));
                }
                () if uri.contains("watch=true") => {
                    let silent = futures::stream::pending::<Result<bytes::Bytes, Infallible>>();
                    return Ok(Response::new(axum::body::Body::from_stream(silent)));
                }
                () if uri.contains("configmaps?fieldSelector=metadata.name%3Dconf") => list(config_map("one")),
                () if uri.contains("secrets?fieldSelector=metadata.name%3Dhush") => {
                    let meta = json!({ "name": "hush", "namespace": "ns", "resourceVersion": "7" });
                    list(json!({ "metadata": meta, "data": { "password": "c2VjcmV0" } }))
                }
                () if uri.contains("clustertrustbundles?fieldSelector=metadata.name%3Droots") => {
                    let pem = "-----BEGIN CERTIFICATE-----\nb25l\n-----END CERTIFICATE-----\n";
                    list(
                        json!({ "metadata": { "name": "roots", "resourceVersion": "7" }, "spec": { "trustBundle": pem } }),
                    )
                }
                () if uri.ends_with("/persistentvolumeclaims/data") => {
                    json!({ "metadata": { "name": "data", "uid": "c1" }, "spec": { "volumeName": "pvc-c1" },
                        "status": { "phase": "Bound" } })
                }
                () if uri.ends_with("/persistentvolumeclaims/unbound") => json!({ "status": { "phase": "Pending" } }),
                () if uri.ends_with("/persistentvolumes/pvc-c1") => {
                    json!({ "metadata": { "name": "pvc-c1" }, "spec": { "claimRef": { "uid": "c1" },
                        "local": { "path": at.join("local-volumes/pvc-c1_ns_data") } } })
                }
                () if request.method() == Method::POST && uri.ends_with("/serviceaccounts/robot/token") => {
                    json!({ "status": { "token": "a.b.c", "expirationTimestamp": expires.to_string() } })
                }
                () => json!({ "metadata": { "resourceVersion": "7" }, "items": [] }),
            };
            Ok(Response::new(axum::body::Body::from(body.to_string())))
        }
    });
    Api { changes, client: kube::Client::new(service, "default") }
}

fn pod(volumes: Value) -> Arc<Pod> {
    let meta = json!({ "name": "p", "namespace": "ns", "uid": "u1", "labels": { "app": "web" } });
    let spec = json!({ "serviceAccountName": "robot", "volumes": volumes, "containers": [{ "name": "c" }] });
    Arc::new(serde_json::from_value(json!({ "metadata": meta, "spec": spec })).unwrap())
}

fn volumes(folder: &Path, api: &Api, clock: &Clock) -> LocalVolumes {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts: run it as root");
    let config = LocalVolumesConfig {
        pod_root: folder.join("pods"),
        persistent_root: folder.join("local-volumes"),
        log_root: folder.join("logs"),
        resolv_conf: folder.join("resolv.conf"),
        cluster_dns: None,
        facts: Facts {
            addresses: Vec::new(),
            host_ip: "172.30.0.11".parse().unwrap(),
            allocatable_cpu_milli: 1000,
            allocatable_memory_bytes: 1 << 30,
        },
    };
    let images = Arc::new(FakeRuntime::new(clock.clone(), [10, 244, 1, 0].into()));
    LocalVolumes::new(config, Rest::new(api.client.clone()), images, clock.clone(), Random::seeded(1))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn is_tmpfs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC
}

async fn comes(path: &Path, text: &str) {
    for _ in 0..200 {
        if fs::read_to_string(path).is_ok_and(|t| t == text) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} is {:?}, not {text:?}", path.display(), fs::read_to_string(path));
}

#[tokio::test]
async fn files_are_made_follow_their_objects_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let api = api(&clock, folder.path());
    let local = volumes(folder.path(), &api, &clock);
    let downward = json!({ "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] });
    let pod = pod(json!([
        { "name": "scratch", "emptyDir": {} },
        { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
        { "name": "conf", "configMap": { "name": "conf" } },
        { "name": "hush", "secret": { "secretName": "hush", "defaultMode": 0o400 } },
        { "name": "about", "downwardAPI": downward },
        { "name": "all", "projected": { "sources": [
            { "serviceAccountToken": { "path": "token" } },
            { "configMap": { "name": "conf", "items": [{ "key": "key", "path": "sub/key" }] } },
            { "configMap": { "name": "absent", "optional": true } },
            { "clusterTrustBundle": { "name": "roots", "path": "roots.pem" } },
            { "clusterTrustBundle": { "name": "others", "path": "others.pem", "optional": true } },
        ]}},
    ]));
    let mounted = local.mount(Arc::clone(&pod)).await.unwrap();
    let at = |volume: &str, file: &str| mounted.paths[volume].join(file);
    assert_eq!(mode(&at("scratch", "")), 0o777);
    assert!(is_tmpfs(&at("memory", "")) && is_tmpfs(&at("hush", "")) && is_tmpfs(&at("all", "")));
    assert!(fs::write(at("memory", "big"), vec![0; 2 << 20]).is_err(), "the size limit holds");
    assert_eq!(fs::read_to_string(at("conf", "key")).unwrap(), "one");
    assert_eq!(
        (fs::read_to_string(at("hush", "password")).unwrap().as_str(), mode(&at("hush", "password"))),
        ("secret", 0o400)
    );
    assert_eq!(fs::read_to_string(at("about", "labels")).unwrap(), "app=\"web\"");
    assert_eq!(fs::read_to_string(at("all", "token")).unwrap(), "a.b.c");
    assert_eq!(fs::read_to_string(at("all", "sub/key")).unwrap(), "one");
    assert!(fs::read_to_string(at("all", "roots.pem")).unwrap().contains("\nb25l\n"));
    assert_eq!(fs::read_to_string(at("all", "others.pem")).unwrap(), "");

    // The watch may not be there yet: then it starts over at the list, which says "one".
    tokio::time::sleep(Duration::from_millis(200)).await;
    api.changes.send(json!({ "type": "MODIFIED", "object": config_map("two") })).unwrap();
    comes(&at("conf", "key"), "two").await;
    comes(&at("all", "sub/key"), "two").await;
    let mut relabelled = (*pod).clone();
    relabelled.metadata.labels.insert("tier".to_owned(), "1".to_owned());
    local.update(Arc::new(relabelled)).await;
    comes(&at("about", "labels"), "app=\"web\"\ntier=\"1\"").await;

    let facts = Facts { addresses: vec!["10.244.1.9".parse().unwrap()], ..local.inner.config.facts.clone() };
    let mut container = pod.spec.containers[0].clone();
    container.volume_mounts = serde_json::from_value(json!([
        { "name": "scratch", "mountPath": "/data/", "subPath": "deep/er" }, { "name": "conf", "mountPath": "/conf" },
    ]))
    .unwrap();
    let mounts = local.container_mounts(&pod, &container, "0123456789", &mounted, &[], &facts).await.unwrap();
    let found = |at: &str| mounts.iter().find(|m| m.container == at).unwrap();
    assert!(found("/conf").read_only && !found("/data").read_only);
    assert!(fs::read_to_string(&found("/etc/hosts").host).unwrap().contains("10.244.1.9\tp\n"));
    fs::write(found("/data").host.join("kept"), "x").unwrap();
    assert_eq!(fs::read_to_string(at("scratch", "deep/er/kept")).unwrap(), "x");
    fs::write(&found("/dev/termination-log").host, "goodbye").unwrap();
    let identity = crate::pods::spec::identity(&pod);
    let ended = Ended { container: &container, id: "0123456789", log_path: folder.path().join("none"), failed: true };
    assert_eq!(local.termination_message(&identity, ended).await.as_deref(), Some("goodbye"));

    local.unmount(&identity).await.unwrap();
    assert!(!at("scratch", "").exists());
    local.forget(&identity).await.unwrap();
    assert!(!folder.path().join("pods/u1").exists());
}

#[tokio::test]
async fn what_is_missing_or_unknown_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let api = api(&clock, folder.path());
    let local = volumes(folder.path(), &api, &clock);
    let wrong = |volume: Value| local.mount(pod(json!([volume])));
    let error = wrong(json!({ "name": "v", "configMap": { "name": "absent" } })).await.unwrap_err().to_string();
    assert_eq!(error, "MountVolume.SetUp failed for volume \"v\" : configmap \"absent\" not found");
    let error = wrong(json!({ "name": "v", "nfs": { "server": "s" } })).await.unwrap_err().to_string();
    assert!(error.ends_with("this node has no nfs"), "{error}");
    let host = json!({ "name": "v", "hostPath": { "path": "/proc/self/status", "type": "Directory" } });
    let error = wrong(host).await.unwrap_err().to_string();
    assert!(error.ends_with("hostPath type check failed: /proc/self/status is not a directory"), "{error}");
    let identity = PodIdentity { namespace: "ns".to_owned(), name: "p".to_owned(), uid: "u1".to_owned() };
    local.forget(&identity).await.unwrap();
}

#[tokio::test]
async fn a_claims_directory_outlives_its_pods() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let api = api(&clock, folder.path());
    let local = volumes(folder.path(), &api, &clock);
    let data = |claim: &str| pod(json!([{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }]));
    let mounted = local.mount(data("data")).await.unwrap();
    let path = folder.path().join("local-volumes/pvc-c1_ns_data");
    assert_eq!(mounted.paths["data"], path);
    fs::write(path.join("file"), "kept").unwrap();
    let gone = PodIdentity { namespace: "ns".into(), name: "p".into(), uid: "u1".into() };
    local.forget(&gone).await.unwrap();
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "kept");
    local.mount(data("data")).await.unwrap();
    local.forget(&gone).await.unwrap();
    let refused = local.mount(data("unbound")).await.unwrap_err().0;
    assert!(refused.ends_with("error processing PVC ns/unbound: PVC is not bound"), "{refused}");
}
