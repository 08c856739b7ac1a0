//! The real `kubectl` against a server with its usual extensions: tokens, permissions, acting as others, services.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};
use xebec_apiserver::authn::UserInfo;
use xebec_apiserver::bootstrap::{self, Facts};
use xebec_apiserver::standard::{Options, Standard};
use xebec_apiserver::{ApiServer, Config};
use xebec_clock::{Clock, Random};
use xebec_pki::{
    ClusterCa, Credentials, DEFAULT_ISSUER, KeyAndRequest, Kubeconfig, ServerTls, ServiceAccountKeys, server_config,
};
use xebec_schema::registry::Registry;
use xebec_store::memory::MemoryStore;

struct Cluster {
    kubectl: PathBuf,
    home: tempfile::TempDir,
    _stop: DropGuard,
}

/// Where scripts/setup.sh puts it, or in `PATH`.
fn find_kubectl() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/xebec/tools/bin"));
    let found = tools.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join("kubectl"));
    found.into_iter().find(|path| path.is_file()).expect("kubectl is not installed: run scripts/setup.sh")
}

async fn start(clock: &Clock, random: &Random, stop: &CancellationToken) -> ApiServer {
    let standard = Standard {
        clock: clock.clone(),
        random: random.clone(),
        keys: Arc::new(ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap()),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_ports: (30000, 32767),
        anonymous: true,
        jwks_uri: "https://127.0.0.1/openid/v1/jwks".into(),
        nodes: None,
        options: Options::default(),
    };
    let config = Config {
        store: Arc::new(MemoryStore::new()),
        registry: Registry::builtin(),
        clock: clock.clone(),
        random: random.clone(),
        stop: stop.clone(),
        extend: Box::new(move |reader| standard.extensions(reader)),
    };
    let server = ApiServer::start(config).await.unwrap();
    let facts = Facts {
        secure_port: 6443,
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        node_port_range: (30000, 32767),
        load_balancer_pools: Vec::new(),
        client_ca_pem: String::new(),
        request_header_ca_pem: String::new(),
    };
    let client = server.client(UserInfo::system("system:apiserver"));
    bootstrap::reconcile(&client, bootstrap::desired(&facts)).await.unwrap();
    server
}

impl Cluster {
    async fn start() -> Self {
        let (clock, random, stop) = (Clock::system(), Random::system(), CancellationToken::new());
        let server = start(&clock, &random, &stop).await;
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
        for (file, user, group) in [("config", "admin", "system:masters"), ("jane", "jane", "dev")] {
            let credentials = Credentials::Certificate(ca.client_cert(user, &[group], hour).unwrap());
            let ca_pem = ca.certificate_pem();
            let config = Kubeconfig { cluster: "test", server: &address, ca_pem, user, credentials: &credentials };
            std::fs::write(home.path().join(file), config.render()).unwrap();
        }
        Self { kubectl: find_kubectl(), home, _stop: stop.drop_guard() }
    }

    /// Runs kubectl by the kubeconfig `who`; answers whether it succeeds, and what it prints.
    async fn run(&self, who: &str, arguments: &str, input: &str) -> (bool, String) {
        let mut child = Command::new(&self.kubectl)
            .args(arguments.split(' '))
            .env("KUBECONFIG", self.home.path().join(who))
            .env("HOME", self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {arguments} hangs")).unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    async fn ok(&self, arguments: &str) -> String {
        let (success, text) = self.run("config", arguments, "").await;
        assert!(success, "kubectl {arguments}: {text}");
        text
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_have_what_they_are_given() {
    let cluster = Cluster::start().await;
    let whoami = cluster.run("jane", "auth whoami", "").await.1;
    assert!(whoami.contains("jane") && whoami.contains("[dev system:authenticated]"), "{whoami}");
    let (success, refused) = cluster.run("jane", "get pods", "").await;
    assert!(!success);
    let words = "User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert!(refused.contains(words), "{refused}");
    assert_eq!(cluster.run("jane", "auth can-i list pods", "").await.1.trim(), "no");
    cluster.ok("create rolebinding dev --clusterrole=edit --group=dev").await;
    assert_eq!(cluster.run("jane", "auth can-i list pods", "").await.1.trim(), "yes");
    assert_eq!(cluster.run("jane", "auth can-i list pods -n kube-system", "").await.1.trim(), "no");
    let list = cluster.run("jane", "auth can-i --list", "").await.1;
    assert!(list.contains("deployments.apps") && list.contains("[/healthz]"), "{list}");
    assert!(cluster.run("jane", "create configmap a --from-literal=b=c", "").await.0);
    let (success, refused) = cluster.run("jane", "create role r --verb=get --resource=pods", "").await;
    assert!(!success && refused.contains("cannot create resource \"roles\""), "{refused}");
    // With the role admin she may grant, but not more than she has.
    cluster.ok("create rolebinding boss --clusterrole=admin --user=jane").await;
    assert!(cluster.run("jane", "create role r --verb=get --resource=pods", "").await.0);
    let (success, refused) = cluster.run("jane", "create role s --verb=get --resource=nodes", "").await;
    assert!(!success && refused.contains("{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"), "{refused}");
    assert_eq!(cluster.run("config", "auth can-i list secrets --as=joe", "").await.1.trim(), "no");
    assert_eq!(cluster.run("config", "auth can-i list secrets --as=jane", "").await.1.trim(), "yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_services_and_requests() {
    let cluster = Cluster::start().await;
    cluster.ok("create serviceaccount builder").await;
    let token = cluster.ok("create token builder --duration=20m").await;
    let whoami = cluster.run("config", &format!("--token={} auth whoami", token.trim()), "").await.1;
    // The certificate of the kubeconfig is shown as well, and comes first.
    assert!(whoami.contains("admin"), "{whoami}");
    let review = format!(
        r#"{{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {{"token": "{}"}}}}"#,
        token.trim()
    );
    // Kinds without PATCH are checked by kubectl itself, against OpenAPI v2 in protobuf, which is not served.
    let create = "create --validate=false -o jsonpath={.status.user.username} -f -";
    let (_, reviewed) = cluster.run("config", create, &review).await;
    assert_eq!(reviewed, "system:serviceaccount:default:builder");
    let acting = cluster.ok("auth whoami --as=system:serviceaccount:default:builder").await;
    assert!(acting.contains("system:serviceaccounts:default"), "{acting}");

    cluster.ok("create service nodeport web --tcp=80:8080 --node-port=30080").await;
    let address = cluster.ok("get service web -o jsonpath={.spec.clusterIP}").await;
    assert!(address.starts_with("10.96."), "{address}");
    let (success, refused) =
        cluster.run("config", "create service nodeport other --tcp=80:8080 --node-port=30080", "").await;
    assert!(!success && refused.contains("Invalid value: 30080: provided port is already allocated"), "{refused}");
    cluster.ok("delete service web").await;
    cluster.ok("create service nodeport other --tcp=80:8080 --node-port=30080").await;

    let pem = KeyAndRequest::generate("joe", &["dev"], &[]).unwrap().request_pem;
    let request = format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata:\n  name: joe\nspec:\n  \
         request: {}\n  signerName: kubernetes.io/kube-apiserver-client\n  usages: [client auth]\n",
        STANDARD.encode(pem)
    );
    let (success, text) = cluster.run("jane", "create -f -", &request).await;
    assert!(!success, "{text}");
    let (success, text) = cluster.run("config", "create -f -", &request).await;
    assert!(success, "{text}");
    cluster.ok("certificate approve joe").await;
    assert!(cluster.ok("get csr joe").await.contains("Approved"));
}
