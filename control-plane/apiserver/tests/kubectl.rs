//! The real `kubectl` against the server on a socket: apply, get, edit, patch, watch, delete.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use jiff::SignedDuration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use xebec_apiserver::authn::x509::X509;
use xebec_apiserver::{ApiServer, Config, Extensions};
use xebec_clock::{Clock, Random};
use xebec_pki::{ClusterCa, Credentials, Kubeconfig, ServerTls, server_config};
use xebec_schema::registry::Registry;
use xebec_store::memory::MemoryStore;

struct Cluster {
    kubectl: PathBuf,
    home: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Where scripts/setup.sh puts it, or in `PATH`.
fn find_kubectl() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/xebec/tools/bin"));
    let found = tools.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join("kubectl"));
    found.into_iter().find(|path| path.is_file()).expect("kubectl is not installed: run scripts/setup.sh")
}

impl Cluster {
    async fn start() -> Self {
        let (clock, random, stop) = (Clock::system(), Random::system(), CancellationToken::new());
        let authenticator = Arc::new(X509::new(&clock));
        let server = ApiServer::start(Config {
            store: Arc::new(MemoryStore::new()),
            registry: Registry::builtin(),
            clock: clock.clone(),
            random: random.clone(),
            stop: stop.clone(),
            extend: Box::new(|_| Extensions { authenticators: vec![authenticator], ..Extensions::default() }),
        })
        .await
        .unwrap();
        let ca = ClusterCa::ephemeral(&clock, &random).unwrap();
        let hour = SignedDuration::from_hours(1);
        let certified = ca.server_cert("kube-apiserver", &["127.0.0.1"], hour).unwrap();
        let tls = ServerTls { certified: &certified, client_ca_pem: ca.certificate_pem() };
        let tls = server_config(&tls, &clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let serving = stop.clone();
        tokio::spawn(async move { server.serve(listener, tls, serving).await });

        let home = tempfile::tempdir().unwrap();
        let credentials = Credentials::Certificate(ca.client_cert("admin", &["system:masters"], hour).unwrap());
        let config = Kubeconfig {
            cluster: "test",
            server: &address,
            ca_pem: ca.certificate_pem(),
            user: "admin",
            credentials: &credentials,
        };
        std::fs::write(home.path().join("config"), config.render()).unwrap();
        Self { kubectl: find_kubectl(), home, stop }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .args(arguments)
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.command(arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait_with_output()).await;
        output.unwrap_or_else(|_| panic!("kubectl {arguments:?} hangs")).unwrap()
    }

    /// What kubectl prints, if it succeeds.
    async fn ok(&self, arguments: &str, input: &str) -> String {
        let words: Vec<&str> = arguments.split(' ').collect();
        let output = self.run(&words, input).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments}: {error}");
        assert!(!error.contains("Warning"), "kubectl {arguments}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What kubectl complains of, if it fails.
    async fn fails(&self, arguments: &str, input: &str) -> String {
        let words: Vec<&str> = arguments.split(' ').collect();
        let output = self.run(&words, input).await;
        assert!(!output.status.success(), "kubectl {arguments} should have failed");
        String::from_utf8(output.stderr).unwrap()
    }
}

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  color: blue\n";

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: web
        image: nginx
        ports:
        - containerPort: 80
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_manages_config_maps() {
    let cluster = Cluster::start().await;
    assert!(cluster.ok("version", "").await.contains("Server Version: v1.37.0+xebec"));
    assert_eq!(cluster.ok("apply -f -", MAP).await, "configmap/settings created\n");
    assert_eq!(cluster.ok("apply -f -", MAP).await, "configmap/settings unchanged\n");
    let red = MAP.replace("blue", "red");
    assert_eq!(cluster.ok("apply -f -", &red).await, "configmap/settings configured\n");
    assert_eq!(cluster.ok("get cm settings -o jsonpath={.data.color}", "").await, "red");
    let table = cluster.ok("get configmaps", "").await;
    assert!(table.starts_with("NAME       DATA   AGE\nsettings   1      "), "{table}");
    let patch = "patch cm settings --type=merge -p {\"data\":{\"size\":\"9\"}}";
    assert_eq!(cluster.ok(patch, "").await, "configmap/settings patched\n");
    assert_eq!(cluster.ok("get cm settings -o jsonpath={.data}", "").await, "{\"color\":\"red\",\"size\":\"9\"}");
    let edited = cluster.ok("get cm settings -o yaml", "").await.replace("color: red", "color: green");
    assert_eq!(cluster.ok("replace -f -", &edited).await, "configmap/settings replaced\n");
    let stale = cluster.fails("replace -f -", &edited).await;
    assert!(stale.contains("the object has been modified"), "{stale}");
    assert_eq!(cluster.ok("label cm settings a=b", "").await, "configmap/settings labeled\n");
    assert_eq!(cluster.ok("get cm -l a=b -o name", "").await, "configmap/settings\n");
    assert_eq!(cluster.ok("delete cm settings", "").await, "configmap \"settings\" deleted from default namespace\n");
    let gone = cluster.fails("get cm settings", "").await;
    assert_eq!(gone, "Error from server (NotFound): configmaps \"settings\" not found\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_manages_deployments() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.ok("apply -f -", DEPLOYMENT).await, "deployment.apps/web created\n");
    assert_eq!(cluster.ok("apply -f -", DEPLOYMENT).await, "deployment.apps/web unchanged\n");
    let table = cluster.ok("get deploy -o wide", "").await;
    assert!(table.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE"), "{table}");
    assert!(table.contains("web    0/2     0            0"), "{table}");
    assert_eq!(cluster.ok("scale deploy web --replicas=5", "").await, "deployment.apps/web scaled\n");
    assert_eq!(cluster.ok("get deploy web -o jsonpath={.spec.replicas}", "").await, "5");
    assert_eq!(cluster.ok("set image deploy/web web=nginx:2", "").await, "deployment.apps/web image updated\n");
    let image = "get deploy web -o jsonpath={.spec.template.spec.containers[*].image}";
    assert_eq!(cluster.ok(image, "").await, "nginx:2");
    let typo = DEPLOYMENT.replace("replicas:", "replicass:");
    let refused = cluster.fails("apply -f -", &typo).await;
    assert!(refused.contains("unknown field \"spec.replicass\""), "{refused}");
    // These are sent as protobuf.
    assert_eq!(cluster.ok("create deployment api --image=a:1 --replicas=0", "").await, "deployment.apps/api created\n");
    assert_eq!(cluster.ok("get deploy api -o jsonpath={.spec.replicas}", "").await, "0");
    let described = cluster.ok("describe deploy web", "").await;
    assert!(described.contains("StrategyType:           RollingUpdate"), "{described}");
    assert!(cluster.ok("explain deployment.spec.replicas", "").await.contains("FIELD: replicas <integer>"));
    assert!(cluster.ok("api-resources --api-group=apps", "").await.contains("deployments"));
    let unknown = cluster.fails("create -f -", "apiVersion: foo/v1\nkind: Bar\nmetadata:\n  name: x\n").await;
    assert!(unknown.contains("no matches for kind \"Bar\" in version \"foo/v1\""), "{unknown}");
    let deleted = cluster.ok("delete deploy web", "").await;
    assert_eq!(deleted, "deployment.apps \"web\" deleted from default namespace\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_watches() {
    let cluster = Cluster::start().await;
    cluster.ok("apply -f -", MAP).await;
    let mut child = cluster.command(&["get", "cm", "--watch", "-o", "name"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(std::time::Duration::from_secs(60), lines.next_line()).await;
        line.expect("kubectl says nothing for a minute").unwrap().unwrap_or_default()
    };
    assert_eq!(next().await, "configmap/settings");
    cluster.ok("create cm second", "").await;
    assert_eq!(next().await, "configmap/second");
    child.kill().await.unwrap();
}

const WIDGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wdg], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size, description: How large it is.}
    - {name: Color, type: string, jsonPath: .spec.color, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: Widget is a thing.
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1, maximum: 10, description: Size is how large it is.}
              replicas: {type: integer, default: 1}
              color: {type: string, enum: [red, green], default: red}
              port: {x-kubernetes-int-or-string: true}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_manages_custom_resources() {
    let cluster = Cluster::start().await;
    let created = cluster.ok("apply -f -", WIDGETS).await;
    assert_eq!(created, "customresourcedefinition.apiextensions.k8s.io/widgets.example.com created\n");
    let met = cluster.ok("wait --for=condition=Established crd/widgets.example.com --timeout=10s", "").await;
    assert_eq!(met, "customresourcedefinition.apiextensions.k8s.io/widgets.example.com condition met\n");
    assert!(cluster.ok("apply -f -", WIDGETS).await.ends_with("unchanged\n"));
    let explained = cluster.ok("explain widgets.spec.size", "").await;
    assert!(
        explained.contains("FIELD: size <integer>") && explained.contains("Size is how large it is."),
        "{explained}"
    );
    let tree = cluster.ok("explain wdg --recursive", "").await;
    assert!(tree.contains("  spec\t<Object>\n    color\t<string>\n    enum: red, green"), "{tree}");
    let widget =
        |spec: &str| format!("apiVersion: example.com/v1\nkind: Widget\nmetadata: {{name: one}}\nspec: {{{spec}}}\n");
    assert_eq!(cluster.ok("apply -f -", &widget("size: 3, color: green")).await, "widget.example.com/one created\n");
    assert_eq!(cluster.ok("apply -f -", &widget("size: 3, color: green")).await, "widget.example.com/one unchanged\n");
    assert_eq!(cluster.ok("apply -f -", &widget("size: 4")).await, "widget.example.com/one configured\n");
    let table = cluster.ok("get wdg", "").await;
    assert!(table.starts_with("NAME   SIZE   AGE\none    4      "), "{table}");
    let wide = cluster.ok("get wdg -o wide", "").await;
    assert!(wide.starts_with("NAME   SIZE   COLOR   AGE\none    4      red     "), "{wide}");
    assert!(cluster.ok("get all", "").await.contains("widget.example.com/one"));
    let refused = cluster.fails("apply -f -", &widget("size: 11")).await;
    assert!(
        refused.contains("spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10"),
        "{refused}"
    );
    let refused = cluster.fails("apply -f -", &widget("size: 3, colour: red")).await;
    assert!(refused.contains("unknown field \"spec.colour\""), "{refused}");
    assert_eq!(cluster.ok("scale wdg/one --replicas=4", "").await, "widget.example.com/one scaled\n");
    let patch = "patch wdg/one --subresource=status --type=merge -p {\"status\":{\"replicas\":4}}";
    assert_eq!(cluster.ok(patch, "").await, "widget.example.com/one patched\n");
    let numbers =
        cluster.ok("get wdg one -o jsonpath={.spec.replicas}/{.status.replicas}/{.metadata.generation}", "").await;
    assert_eq!(numbers, "4/4/3");
    assert!(cluster.ok("api-resources --api-group=example.com", "").await.contains("widgets   wdg"));
    let deleted = cluster.ok("delete crd widgets.example.com", "").await;
    assert_eq!(deleted, "customresourcedefinition.apiextensions.k8s.io \"widgets.example.com\" deleted\n");
    // What it knows of the kinds, it keeps for a while.
    let gone = cluster.fails("get wdg", "").await;
    assert!(gone.contains("the server could not find the requested resource"), "{gone}");
}
