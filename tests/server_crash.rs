//! The API server is killed again and again under load: no acknowledged write is lost, and no watch saw a write that
//! was not.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::io::AsyncBufReadExt as _;
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

const ROUNDS: usize = 6;
const WRITERS: usize = 8;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Ample for a server that starts in a fraction of a second, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Name and resource version of what was acknowledged, or seen by a watch.
type Versions = BTreeMap<String, u64>;

struct Server {
    process: Child,
    client: kube::Client,
}

impl Server {
    async fn start(data: &Path, port: u16) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_xebec"))
            .args(["server", "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .arg("--data-dir")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start the server");
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE, "the server is not ready after {PATIENCE:?}");
            assert_eq!(process.try_wait().expect("look at the server"), None, "the server ended");
            if let Ok(client) = connect(&data.join("admin.kubeconfig")).await
                && timeout(Duration::from_secs(2), ready(&client)).await == Ok(true)
            {
                return Self { process, client };
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn kill(&mut self) {
        self.process.kill().expect("SIGKILL");
        self.process.wait().expect("reap");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed and reaped already, unless the test failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn connect(kubeconfig: &PathBuf) -> Result<kube::Client, String> {
    let file = Kubeconfig::read_from(kubeconfig).map_err(|e| e.to_string())?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|e| e.to_string())?;
    kube::Client::try_from(config).map_err(|e| e.to_string())
}

async fn ready(client: &kube::Client) -> bool {
    let request = Request::get("/readyz").body(Vec::new()).expect("a request");
    // The namespace is what the writers need.
    let namespace = Request::get("/api/v1/namespaces/default").body(Vec::new()).expect("a request");
    client.request_text(request).await.is_ok() && client.request_text(namespace).await.is_ok()
}

fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    text.parse().unwrap_or_else(|_| panic!("no resource version in {object}"))
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Creates objects until the server is gone.
async fn write(client: kube::Client, prefix: String, acknowledged: Arc<Mutex<Versions>>, count: Arc<AtomicUsize>) {
    for number in 0.. {
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("{prefix}-{number}"), "labels": {"test": "crash"}},
            "data": {"number": number.to_string()},
        });
        let request = Request::post(CONFIG_MAPS).header("content-type", "application/json");
        let request = request.body(serde_json::to_vec(&body).expect("JSON")).expect("a request");
        match client.request::<Value>(request).await {
            Ok(object) => {
                acknowledged.lock().expect("not poisoned").insert(name(&object), version(&object));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(kube::Error::Api(status)) => panic!("a write was refused: {status:?}"),
            Err(_) => return,
        }
    }
}

/// Follows the objects from `after` on until the server is gone.
async fn watch(client: kube::Client, after: u64, seen: Arc<Mutex<Versions>>) {
    let url = format!("{CONFIG_MAPS}?watch=true&labelSelector=test%3Dcrash&resourceVersion={after}");
    let request = Request::get(url).body(Vec::new()).expect("a request");
    let Ok(stream) = client.request_stream(request).await else { return };
    let mut lines = std::pin::pin!(stream.lines());
    let mut last = after;
    while let Some(Ok(line)) = lines.next().await {
        // The last line may have been cut short.
        let Ok(event) = serde_json::from_str::<Value>(&line) else { return };
        assert_eq!(event["type"], "ADDED", "{line}");
        let version = version(&event["object"]);
        assert!(version > last, "events come in order: {version} after {last}");
        last = version;
        let before = seen.lock().expect("not poisoned").insert(name(&event["object"]), version);
        assert_eq!(before, None, "each event comes once: {line}");
    }
}

async fn list(client: &kube::Client) -> (Versions, u64) {
    let url = format!("{CONFIG_MAPS}?labelSelector=test%3Dcrash");
    let list: Value = client.request(Request::get(url).body(Vec::new()).expect("a request")).await.expect("list");
    let items = list["items"].as_array().expect("items");
    (items.iter().map(|item| (name(item), version(item))).collect(), version(&list))
}

#[tokio::test]
async fn no_acknowledged_write_is_lost() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
    let acknowledged = Arc::new(Mutex::new(Versions::new()));
    let seen = Arc::new(Mutex::new(Versions::new()));
    for round in 0..ROUNDS {
        let mut server = Server::start(&data, port).await;
        let (stored, revision) = list(&server.client).await;
        check(&stored, &acknowledged.lock().expect("not poisoned"), &seen.lock().expect("not poisoned"), round);

        let watcher = tokio::spawn(watch(server.client.clone(), revision, seen.clone()));
        let count = Arc::new(AtomicUsize::new(0));
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let prefix = format!("r{round}-w{writer}");
            writers.spawn(write(server.client.clone(), prefix, acknowledged.clone(), count.clone()));
        }
        // From the first acknowledgement to a few hundred: the moment differs each time.
        let enough = round * round * 20 + 1;
        let started = Instant::now();
        while count.load(Ordering::Relaxed) < enough {
            assert!(started.elapsed() < PATIENCE, "only {} writes", count.load(Ordering::Relaxed));
            tokio::task::yield_now().await;
        }
        server.kill();
        while let Some(writer) = timeout(PATIENCE, writers.join_next()).await.expect("the writers end") {
            writer.expect("a writer");
        }
        timeout(PATIENCE, watcher).await.expect("the watch ends").expect("the watcher");
    }
    let server = Server::start(&data, port).await;
    let (stored, _) = list(&server.client).await;
    check(&stored, &acknowledged.lock().expect("not poisoned"), &seen.lock().expect("not poisoned"), ROUNDS);
    assert!(seen.lock().expect("not poisoned").len() > ROUNDS, "the watches saw something");
}

fn check(stored: &Versions, acknowledged: &Versions, seen: &Versions, round: usize) {
    for (what, expected) in [("acknowledged", acknowledged), ("seen by a watch", seen)] {
        for (name, version) in expected {
            assert_eq!(stored.get(name), Some(version), "{name} was {what} before round {round}");
        }
    }
}
