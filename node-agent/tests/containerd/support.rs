//! A containerd of the test's own, and an image made of Debian's static busybox.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use xebec_clock::{Clock, Random};
use xebec_node_agent::images::ImageStore;
use xebec_node_agent::network::PodIdentity;
use xebec_node_agent::runtime::containerd::client::Client;
use xebec_node_agent::runtime::containerd::host::Host;
use xebec_node_agent::runtime::containerd::{Containerd, ContainerdConfig};
use xebec_node_agent::runtime::{ContainerSpec, Images, Limits, PidMode, Runtime, Sandbox, SandboxSpec, Security};

/// Name of the image that [`Node`] has.
pub const IMAGE: &str = "docker.io/library/busybox:test";

/// containerd with everything it has below a folder of its own; all of it goes when this is dropped.
pub struct Node {
    pub folder: tempfile::TempDir,
    containerd: Child,
    cgroup_root: String,
}

impl Node {
    pub async fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test starts containers: run it as root");
        let folder = tempfile::Builder::new().prefix("xebec-node-").tempdir().unwrap();
        let containerd = spawn_containerd(folder.path());
        let name = folder.path().file_name().unwrap().to_string_lossy().into_owned();
        let node = Self { folder, containerd, cgroup_root: format!("/{name}") };
        node.wait_up().await;
        let archive = node.path("busybox.tar");
        image_archive(&archive, IMAGE);
        let names = node.images().import(&archive, None).await.unwrap();
        assert_eq!(names, [IMAGE]);
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An id that no container of another test has: runc's state is the machine's.
    pub fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.cgroup_root.trim_start_matches("/xebec-node-"))
    }

    pub fn client(&self) -> Client {
        Client::new(&self.path("containerd.sock"))
    }

    pub fn images(&self) -> Arc<ImageStore> {
        Arc::new(ImageStore::new(self.client(), Vec::new(), Clock::system(), Random::system()))
    }

    /// A new agent's runtime over the same containerd.
    pub fn runtime(&self) -> Containerd {
        let config = ContainerdConfig {
            socket: self.path("containerd.sock"),
            run_root: self.path("run"),
            cgroup_root: self.cgroup_root.clone(),
            seccomp_root: self.path("seccomp"),
            logger: PathBuf::from(env!("CARGO_BIN_EXE_container-log")),
        };
        Containerd::new(config, self.client(), self.images(), Clock::system(), Random::system()).unwrap()
    }

    pub async fn wait_up(&self) {
        let runtime = self.runtime();
        for _ in 0..200 {
            if runtime.version().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("containerd did not come up: see {}", self.path("containerd.log").display());
    }

    /// Kills containerd and starts it again. Containers go on.
    pub async fn restart_containerd(&mut self) {
        self.containerd.kill().unwrap();
        self.containerd.wait().unwrap();
        self.containerd = spawn_containerd(self.folder.path());
        self.wait_up().await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The shims of containers that a failed test left: they are known by the socket of our containerd.
        let mark = self.path("containerd.sock").to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            if line.contains("containerd-shim") && line.contains(&mark) {
                let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
                for child in children.split_whitespace().filter_map(|c| c.parse().ok()).chain([pid]) {
                    let kill = nix::sys::signal::Signal::SIGKILL;
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), kill);
                }
            }
        }
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        let suffix = self.id("");
        for entry in std::fs::read_dir("/run/containerd/runc/k8s.io").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(&suffix) {
                let root = ["--root", "/run/containerd/runc/k8s.io", "delete", "-f"];
                let _ = Command::new("runc").args(root).arg(entry.file_name()).status();
            }
        }
        // Deepest mounts first.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = self.folder.path().to_string_lossy().into_owned();
        for line in mounts.lines().rev() {
            if let Some(point) = line.split(' ').nth(1).filter(|p| p.starts_with(&root)) {
                let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
            }
        }
        if let Ok(host) = Host::detect() {
            for _ in 0..20 {
                if host.cgroups.remove(&self.cgroup_root).is_ok() {
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}

/// A pod's sandbox on the node, and what runs in it.
pub struct Running<'a> {
    node: &'a Node,
    runtime: &'a Containerd,
    pub identity: PodIdentity,
    pub spec: SandboxSpec,
    sandbox: Sandbox,
}

impl<'a> Running<'a> {
    pub async fn new(node: &'a Node, runtime: &'a Containerd, uid: &str) -> Running<'a> {
        let identity = PodIdentity { namespace: "default".to_owned(), name: "p".to_owned(), uid: uid.to_owned() };
        let spec = SandboxSpec {
            pod: identity.clone(),
            hostname: "my-pod".to_owned(),
            host_network: false,
            host_ipc: false,
            share_pid: true,
            cgroup: format!("burstable/pod{uid}"),
            limits: Limits { cpu_shares: 100, pids: Some(200), ..Limits::default() },
        };
        let sandbox = runtime.create_sandbox(&spec).await.unwrap();
        Running { node, runtime, identity, spec, sandbox }
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.node.path("logs").join(id).join("0.log")
    }

    pub async fn container(&self, id: &str, command: &[&str]) -> ContainerSpec {
        ContainerSpec {
            id: self.node.id(id),
            pod: self.identity.clone(),
            name: id.to_owned(),
            attempt: 0,
            image: self.node.images().find(IMAGE).await.unwrap().unwrap(),
            command: command.iter().map(|c| (*c).to_owned()).collect(),
            args: Vec::new(),
            env: vec![("GREETING".to_owned(), "hello".to_owned())],
            working_dir: String::new(),
            mounts: Vec::new(),
            edits: Vec::new(),
            log_path: self.log(id),
            stdin: false,
            stdin_once: false,
            tty: false,
            hostname: "my-pod".to_owned(),
            sandbox: self.sandbox.clone(),
            host_network: false,
            pid: PidMode::Container,
            host_ipc: false,
            cgroup: self.spec.cgroup.clone(),
            limits: Limits { cpu_shares: 50, ..Limits::default() },
            oom_score_adj: -997,
            security: Security { privilege_escalation: true, ..Security::default() },
            stop_signal: None,
        }
    }

    /// Waits until a container has printed something; gives all that it has.
    pub async fn log_holds(&self, id: &str, what: &str) -> String {
        log_holds(&self.log(id), what).await
    }

    pub async fn run(&self, spec: &ContainerSpec) {
        self.runtime.create(spec).await.unwrap();
        self.runtime.start(&spec.id).await.unwrap();
    }

    pub async fn remove(&self, ids: &[&str]) {
        for id in ids {
            self.runtime.remove(&self.node.id(id)).await.unwrap();
        }
        self.runtime.remove_sandbox(&self.identity, &self.spec.cgroup).await.unwrap();
    }
}

pub async fn log_holds(path: &std::path::Path, what: &str) -> String {
    for _ in 0..100 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.contains(what) {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what:?} is not in {}: {:?}", path.display(), std::fs::read_to_string(path));
}

fn spawn_containerd(root: &Path) -> Child {
    let at = |name: &str| root.join(name).to_string_lossy().into_owned();
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n[ttrpc]\naddress = \"{}\"\n",
        at("root"),
        at("state"),
        at("containerd.sock"),
        at("containerd.sock.ttrpc"),
    );
    std::fs::write(root.join("containerd.toml"), config).unwrap();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(root.join("containerd.log")).unwrap();
    Command::new("containerd")
        .arg("--config")
        .arg(root.join("containerd.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("containerd is missing: run scripts/setup.sh run")
}

/// Writes an OCI archive with busybox and the links to its applets.
pub fn image_archive(path: &Path, name: &str) {
    let busybox = std::fs::read("/bin/busybox").expect("busybox is missing: run scripts/setup.sh run");
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if folder == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        layer.append_data(&mut header, folder, &[][..]).unwrap();
    }
    let mut file = |path: &str, bytes: &[u8], mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        layer.append_data(&mut header, path, bytes).unwrap();
    };
    file("bin/busybox", &busybox, 0o755);
    file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n", 0o644);
    file("etc/group", b"root:x:0:\nweb:x:1000:\n", 0o644);
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "ls", "nc", "hostname", "kill", "dd", "true", "false", "mount", "head",
        "ps", "grep",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    use xebec_node_agent::images::manifest::digest;
    let config = serde_json::json!({
        "architecture": xebec_node_agent::images::manifest::architecture(), "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let describe = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len() });
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", &config), "layers": [describe("layer.v1.tar", &layer)],
    }))
    .unwrap();
    let mut entry = describe("manifest.v1+json", &manifest);
    entry["annotations"] = serde_json::json!({ "io.containerd.image.name": name });
    let index = serde_json::to_vec(&serde_json::json!({ "schemaVersion": 2, "manifests": [entry] })).unwrap();
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut add = |path: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes).unwrap();
    };
    add("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#);
    add("index.json".to_owned(), &index);
    for blob in [&layer, &config, &manifest] {
        add(format!("blobs/sha256/{}", digest(blob).trim_start_matches("sha256:")), blob);
    }
    archive.finish().unwrap();
}
