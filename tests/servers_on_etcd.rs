//! Two servers on one etcd: they are one cluster, to clients of either; one of them acts, and when it is killed the other
//! does.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// Ample for what takes a second, on a machine that does much else; a lease takes fifteen to end.
const PATIENCE: Duration = Duration::from_secs(90);
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("start it"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("SIGKILL");
        self.0.wait().expect("reap");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been killed and reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port()
}

fn etcd(dir: &Path, client: &str) -> Process {
    let peer = format!("http://127.0.0.1:{}", free_port());
    Process::start(
        Command::new("etcd")
            .args(["--name", "a", "--log-level", "error", "--unsafe-no-fsync", "--data-dir"])
            .arg(dir.join("etcd"))
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("a={peer}")])
            .stderr(Stdio::null()),
    )
}

fn server_command(data: &Path, etcd: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xebec"));
    command
        .args(["server", "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--port"])
        .arg(free_port().to_string())
        .args(["--etcd-servers", etcd, "--data-dir"])
        .arg(data);
    command
}

struct Server {
    process: Process,
    client: kube::Client,
    /// Who it is to the others.
    identity: String,
}

impl Server {
    async fn start(data: PathBuf, etcd: &str) -> Self {
        let mut process = Process::start(&mut server_command(&data, etcd));
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE, "the server is not ready");
            assert_eq!(process.0.try_wait().expect("look at the server"), None, "the server ended");
            if let Ok(client) = connect(&data.join("admin.kubeconfig")).await
                && timeout(Duration::from_secs(2), get_text(&client, "/readyz")).await.is_ok_and(|r| r.is_ok())
            {
                let identity = std::fs::read_to_string(data.join("server-id")).expect("its identity");
                return Self { process, client, identity };
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn get(&self, path: &str) -> Value {
        self.client.request(Request::get(path).body(Vec::new()).expect("a request")).await.expect("an answer")
    }

    async fn write(&self, request: http::request::Builder, body: &Value) -> Result<Value, kube::Error> {
        let patch = request.method_ref() == Some(&http::Method::PATCH);
        let content = if patch { "application/merge-patch+json" } else { "application/json" };
        let body = body.to_string().into_bytes();
        self.client.request(request.header("content-type", content).body(body).expect("a request")).await
    }

    /// Whether it holds a lease.
    async fn holds(&self, lease: &str) -> bool {
        let request = Request::get(format!("{LEASES}/{lease}")).body(Vec::new()).expect("a request");
        let lease: Result<Value, _> = self.client.request(request).await;
        lease.is_ok_and(|lease| {
            lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| holder.ends_with(&self.identity))
        })
    }

    async fn pods(&self) -> usize {
        self.get("/api/v1/namespaces/default/pods").await["items"].as_array().expect("items").len()
    }
}

async fn connect(kubeconfig: &Path) -> Result<kube::Client, String> {
    let file = Kubeconfig::read_from(kubeconfig).map_err(|e| e.to_string())?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|e| e.to_string())?;
    kube::Client::try_from(config).map_err(|e| e.to_string())
}

async fn get_text(client: &kube::Client, path: &str) -> Result<String, kube::Error> {
    client.request_text(Request::get(path).body(Vec::new()).expect("a request")).await
}

async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !done().await {
        assert!(started.elapsed() < PATIENCE, "not {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// What a second server needs of the first's data directory.
fn copy_keys(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("front-proxy")).expect("a directory");
    for file in ["ca.crt", "ca.key", "service-account.key", "front-proxy/ca.crt", "front-proxy/ca.key"] {
        std::fs::copy(from.join(file), to.join(file)).expect(file);
    }
}

#[tokio::test]
async fn two_servers_are_one_cluster() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = format!("http://127.0.0.1:{}", free_port());
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    // The server is there first, and waits.
    let (mut a, _etcd) = tokio::join!(Server::start(first.clone(), &url), async { etcd(dir.path(), &url) });
    until("the first leads", async || a.holds("kube-controller-manager").await && a.holds("kube-scheduler").await)
        .await;

    // Of another cluster: it is told what to do.
    let stranger = server_command(&dir.path().join("c"), &url).stdin(Stdio::null()).output().expect("run it");
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(!stranger.status.success() && said.contains("copy ca.crt, ca.key"), "{said}");

    copy_keys(&first, &second);
    let b = Server::start(second, &url).await;
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    b.write(Request::post(DEPLOYMENTS), &deployment).await.expect("create it");
    assert_eq!(a.get(&format!("{DEPLOYMENTS}/web")).await["spec"]["replicas"], 3, "known to the other at once");
    until("three pods", async || b.pods().await == 3).await;
    for round in 0..20 {
        let patch = json!({"metadata": {"labels": {"round": round.to_string()}}});
        let (writer, reader) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        writer.write(Request::patch(format!("{DEPLOYMENTS}/web")), &patch).await.expect("patch it");
        assert_eq!(reader.get(&format!("{DEPLOYMENTS}/web")).await["metadata"]["labels"]["round"], round.to_string());
    }
    assert!(a.holds("kube-controller-manager").await && !b.holds("kube-controller-manager").await);

    a.process.kill();
    let killed = Instant::now();
    b.write(Request::patch(format!("{DEPLOYMENTS}/web")), &json!({"spec": {"replicas": 5}})).await.expect("scale it");
    until("five pods", async || b.pods().await == 5).await;
    assert!(killed.elapsed() > Duration::from_secs(8), "nobody acts before the lease has ended");
    until("the second leads", async || b.holds("kube-controller-manager").await && b.holds("kube-scheduler").await)
        .await;
    let names: Vec<String> = b.get(LEASES).await["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter(|lease| lease["metadata"]["labels"]["apiserver.kubernetes.io/identity"] == "kube-apiserver")
        .map(|lease| lease["metadata"]["name"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names.len(), 1, "both are on one machine: {names:?}");
    // The first comes again, and waits.
    let a = Server::start(first, &url).await;
    assert_eq!(a.pods().await, 5);
    assert!(!a.holds("kube-controller-manager").await);
}
