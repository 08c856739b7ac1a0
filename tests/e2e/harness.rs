//! A cluster for the tests, and the real kubectl to drive it.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::Value;

/// The cluster's name: its own, so that a user's cluster is left alone; `XEBEC_E2E_NAME` gives another, so that two
/// runs can go side by side.
static NAME: LazyLock<String> = LazyLock::new(|| std::env::var("XEBEC_E2E_NAME").unwrap_or_else(|_| "e2e".to_owned()));
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);
/// What a pod with a present image may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// The image with a shell (busybox) and Python.
pub const TOOLS: &str = "xebec.local/tools:1";

/// What went wrong, for the test's report.
pub type Result<T = ()> = std::result::Result<T, String>;

/// A running cluster, mostly the one of three nodes that tests share; gone when dropped.
pub struct Cluster {
    name: String,
    xebec: PathBuf,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    kubectl_cache: tempfile::TempDir,
    namespaces: AtomicU32,
}

/// What a command printed.
pub struct Printed {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Cluster {
    /// Starts it, from nothing: what an earlier run may have left behind is taken down first.
    pub fn start() -> Result<Self> {
        Self::start_as(NAME.clone(), &["--nodes", "3"])
    }

    /// Starts one beside the shared one, for tests that need other arguments.
    pub fn beside(suffix: &str, args: &[&str]) -> Result<Self> {
        Self::start_as(format!("{}-{suffix}", *NAME), args)
    }

    fn start_as(name: String, args: &[&str]) -> Result<Self> {
        let xebec = PathBuf::from(env!("CARGO_BIN_EXE_xebec"));
        let mut cluster = Self {
            name,
            xebec,
            kubectl: kubectl_path()?,
            kubeconfig: PathBuf::new(),
            kubectl_cache: tempfile::tempdir().map_err(|e| format!("a temporary directory: {e}"))?,
            namespaces: AtomicU32::new(0),
        };
        cluster.xebec(&["down", "--name", &cluster.name])?.ok("down")?;
        cluster.xebec(&[&["up", "--name", &cluster.name], args].concat())?.ok("up")?;
        let path = cluster.xebec(&["kubeconfig", "--name", &cluster.name])?.ok("kubeconfig")?;
        cluster.kubeconfig = path.trim().into();
        cluster.load(&tools_image()?)?;
        Ok(cluster)
    }

    /// Runs `xebec` with these arguments.
    pub fn xebec(&self, args: &[&str]) -> Result<Printed> {
        run(Command::new(&self.xebec).args(args), None)
    }

    /// Loads an image's archive into every node.
    pub fn load(&self, archive: &std::path::Path) -> Result {
        self.xebec(&["image", "load", &archive.to_string_lossy(), "--name", &self.name])?.ok("image load").map(drop)
    }

    /// Where the nodes and the server keep their state.
    pub fn state(&self) -> PathBuf {
        PathBuf::from("/var/lib/xebec").join(&self.name)
    }

    /// Where they log.
    pub fn logs(&self) -> PathBuf {
        self.state().join("logs")
    }

    /// `xebec up` of the running cluster, with further arguments.
    pub fn up(&self, args: &[&str]) -> Result {
        self.xebec(&[&["up", "--name", &self.name, "--no-context"], args].concat())?.ok("up").map(drop)
    }

    /// Runs `xebec` with these arguments and the cluster's name.
    pub fn xebec_named(&self, args: &[&str]) -> Result<Printed> {
        run(Command::new(&self.xebec).args(args).args(["--name", self.name.as_str()]), None)
    }

    /// Starts `xebec` with these arguments and the cluster's name, and lets it run; killed when dropped.
    pub fn start_xebec(&self, args: &[&str]) -> Result<Lines> {
        start_lines(Command::new(&self.xebec).args(args).args(["--name", self.name.as_str()]))
    }

    /// Runs a command on a node.
    pub fn on_node(&self, node: &str, command: &[&str]) -> Result<Printed> {
        let mut args = vec!["exec", "--name", &self.name, node, "--"];
        args.extend(command);
        self.xebec(&args)
    }

    /// Starts a command on a node and lets it run; killed when dropped.
    pub fn start_on_node(&self, node: &str, command: &[&str]) -> Result<Running> {
        start(Command::new(&self.xebec).args(["exec", "--name", &self.name, node, "--"]).args(command))
    }

    /// A node's name, from 1.
    pub fn node(&self, number: u32) -> String {
        format!("{}-{number}", self.name)
    }

    pub fn kubeconfig(&self) -> &std::path::Path {
        &self.kubeconfig
    }

    /// The process of a component: the server, or process 1 of a node.
    pub fn pid(&self, component: &str) -> Result<u32> {
        // It fails while a node is not ready, and says the same.
        let status = json(&self.xebec(&["status", "--json", "--name", &self.name])?.out)?;
        let components = status[0]["components"].as_array().cloned().unwrap_or_default();
        let found = components.iter().find(|c| c["name"] == component).and_then(|c| c["pid"].as_u64());
        found.and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| format!("{component} does not run: {status}"))
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig).env_remove("KUBERNETES_SERVICE_HOST");
        // What kubectl knows of a server's kinds it keeps on disk, by the server's address: another cluster had this one
        // before.
        command.env("KUBECACHEDIR", self.kubectl_cache.path());
        command
    }

    /// Runs kubectl without a namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<Printed> {
        run(self.kubectl_command().args(args), None)
    }

    /// An object without a namespace, as JSON.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let mut args = vec!["get", "-o", "json"];
        args.extend(what);
        json(&self.kubectl(&args)?.ok("get")?)
    }

    /// A new namespace.
    pub fn namespace(self: &Arc<Self>, test: &str) -> Result<Namespace> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let name = format!("{test}-{number}");
        self.kubectl(&["create", "namespace", &name])?.ok("create namespace")?;
        Ok(Namespace { cluster: self.clone(), name })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.xebec(&["down", "--name", &self.name]).and_then(|p| p.ok("down")) {
            eprintln!("taking the cluster down: {error}");
        }
    }
}

/// A namespace of a test; deleted when dropped.
pub struct Namespace {
    pub cluster: Arc<Cluster>,
    pub name: String,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cluster goes as well at the end: nobody waits for this.
        let _ = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

impl Namespace {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.cluster.kubectl_command();
        command.args(["--namespace", &self.name]).args(args);
        command
    }

    /// Runs kubectl; what it printed, whether it succeeded or not.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<Printed> {
        run(&mut self.command(args), None)
    }

    /// Runs kubectl, which must succeed; its output.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.try_kubectl(args)?.ok(&args.join(" "))
    }

    /// Runs kubectl, which must fail; what it said.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        self.try_kubectl(args)?.failed(&args.join(" "))
    }

    /// How a shell calls kubectl for this namespace.
    pub fn kubectl_line(&self) -> String {
        let cluster = &self.cluster;
        let (kubeconfig, kubectl) = (cluster.kubeconfig.display(), cluster.kubectl.display());
        let cache = cluster.kubectl_cache.path().display();
        format!("KUBECACHEDIR={cache} KUBECONFIG={kubeconfig} {kubectl} --namespace {}", self.name)
    }

    /// Runs kubectl with input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<Printed> {
        run(&mut self.command(args), Some(input))
    }

    /// Runs kubectl with an environment variable set.
    pub fn kubectl_env(&self, args: &[&str], name: &str, value: &str) -> Result<Printed> {
        run(self.command(args).env(name, value), None)
    }

    /// Starts kubectl and lets it run; killed when dropped.
    pub fn spawn(&self, args: &[&str]) -> Result<Running> {
        start(&mut self.command(args))
    }

    /// The same, to read what it prints.
    pub fn start_kubectl(&self, args: &[&str]) -> Result<Lines> {
        start_lines(&mut self.command(args))
    }

    /// The same, with an environment variable set.
    pub fn spawn_env(&self, args: &[&str], name: &str, value: &str) -> Result<Running> {
        start(self.command(args).env(name, value))
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], yaml)?.ok("apply")
    }

    /// `kubectl apply -f -`, which must be refused; what it said.
    pub fn apply_refused(&self, yaml: &str) -> Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], yaml)?.failed("apply")
    }

    /// Objects as JSON.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let mut args = vec!["get", "-o", "json"];
        args.extend(what);
        json(&self.kubectl(&args)?)
    }

    /// A field by JSONPath.
    pub fn field(&self, what: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", what, "-o", &format!("jsonpath={path}")])
    }

    /// Runs a shell command in a pod; its output.
    pub fn shell(&self, pod: &str, command: &str) -> Result<String> {
        self.kubectl(&["exec", pod, "--", "sh", "-c", command])
    }

    /// Runs a Python program in a pod; its output, trimmed.
    pub fn python(&self, pod: &str, program: &str) -> Result<String> {
        Ok(self.kubectl(&["exec", pod, "--", "python3", "-c", program])?.trim().to_owned())
    }

    /// Waits until a pod is ready.
    pub fn ready(&self, pod: &str) -> Result<()> {
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]).map(drop)
    }

    /// Waits until a pod of this name is ready that is not the one with this uid.
    pub fn comes_back(&self, pod: &str, uid: &str) -> Result<()> {
        let path = "{.metadata.uid}{.status.conditions[?(@.type=='Ready')].status}";
        wait_until(&format!("{pod} comes back under its name"), SOON, || {
            let now = self.field(&format!("pod/{pod}"), path).unwrap_or_default();
            Ok(!now.starts_with(uid) && now.ends_with("True"))
        })
    }

    /// Waits until a deployment is rolled out.
    pub fn rolled_out(&self, deployment: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", &format!("deployment/{deployment}"), "--timeout=90s"]).map(drop)
    }

    /// A pod that sleeps, ready to be used with `shell` and `python`.
    pub fn client(&self, name: &str, node: Option<&str>) -> Result<()> {
        let node = node.map(|n| format!("nodeName: {n}")).unwrap_or_default();
        self.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  {node}
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, '100000']}}
"
        ))?;
        self.ready(name)
    }
}

impl Printed {
    /// The output of a command that must have succeeded.
    pub fn ok(self, what: &str) -> Result<String> {
        if self.status.success() {
            Ok(self.out)
        } else {
            Err(format!("{what}: {}\n{}{}", self.status, self.out, self.err))
        }
    }

    /// The words of a command that must have failed.
    pub fn failed(self, what: &str) -> Result<String> {
        if self.status.success() {
            Err(format!("{what} should have failed, and printed\n{}{}", self.out, self.err))
        } else {
            Ok(self.err)
        }
    }
}

/// A command in the background, and the lines that it prints.
pub struct Lines {
    _running: Running,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Lines {
    /// The next line, if there is one already.
    pub fn line(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }
}

/// A command in the background.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Result<Running> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    Ok(Running(child.map_err(|e| format!("kubectl: {e}"))?))
}

fn start_lines(command: &mut Command) -> Result<Lines> {
    let mut running = start(command)?;
    let output = running.0.stdout.take().ok_or("no output")?;
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(output).lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(Lines { _running: running, lines })
}

/// Runs a command to its end.
pub fn run(command: &mut Command, input: Option<&str>) -> Result<Printed> {
    let program = command.get_program().to_owned();
    let failed = |e: std::io::Error| format!("{}: {e}", program.display());
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A command that refuses early closes its input.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(failed)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Printed { status, out: text(stdout), err: text(stderr) })
}

/// Waits until `condition` gives something.
pub fn wait_for<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let polls = (within.as_millis() / POLL.as_millis()).max(1);
    let mut last = None;
    #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
    let deadline = std::time::Instant::now() + within;
    for _ in 0..polls {
        match condition() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
        {
            if std::time::Instant::now() > deadline {
                break;
            }
            std::thread::sleep(POLL);
        }
    }
    Err(format!("not within {within:?}: {what}{}", last.map(|e| format!(" (last error: {e})")).unwrap_or_default()))
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, within, || Ok(condition()?.then_some(())))
}

/// Fails with a message unless `text` holds `part`.
pub fn contains(text: &str, part: &str) -> Result<()> {
    if text.contains(part) { Ok(()) } else { Err(format!("expected {part:?} in:\n{text}")) }
}

/// Fails with both values unless they are equal.
pub fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: &str) -> Result<()> {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}")) }
}

pub fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| format!("no JSON: {e}\n{text}"))
}

/// The archive of [`TOOLS`], built if it is not there yet.
pub fn tools_image() -> Result<PathBuf> {
    image("tools")
}

/// The archive of one of the images that `demo/build-images.sh` makes, built if it is not there yet.
pub fn image(name: &str) -> Result<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/build-images.sh");
    let printed = run(Command::new(script).arg(name), None)?.ok("build the image for the tests")?;
    Ok(printed.trim().into())
}

fn tools_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("XEBEC_TOOLS") {
        return Ok(dir.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.map(|c| c.join("xebec/tools")).ok_or_else(|| "neither XEBEC_TOOLS nor HOME is set".into())
}

fn kubectl_path() -> Result<PathBuf> {
    let path = tools_dir()?.join("bin/kubectl");
    if path.exists() { Ok(path) } else { Err(format!("{} is missing: run scripts/setup.sh test", path.display())) }
}
