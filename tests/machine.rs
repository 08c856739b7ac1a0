//! Clusters on one machine: what `up` makes, what comes back when it is killed, and that `down` leaves nothing.
//!
//! Each test has clusters of its own names. They need root, as `xebec up` does.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Ample, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of a test; taken down when dropped.
struct Cluster {
    name: &'static str,
    home: tempfile::TempDir,
}

impl Cluster {
    fn new(name: &'static str) -> Self {
        let cluster = Self { name, home: tempfile::tempdir().unwrap() };
        cluster.ok(&["down"]);
        cluster
    }

    fn run(&self, args: &[&str]) -> Output {
        let (command, rest) = args.split_first().unwrap();
        Command::new(env!("CARGO_BIN_EXE_xebec"))
            .arg(command)
            .args(["--name", self.name])
            .args(rest)
            .env("HOME", self.home.path())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// What `status --json` says of a component.
    fn component(&self, name: &str) -> Value {
        let output = self.run(&["status", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let components = report[0]["components"].as_array().cloned().unwrap_or_default();
        components.into_iter().find(|c| c["name"] == name).unwrap_or_default()
    }

    fn pid(&self, name: &str) -> i32 {
        i32::try_from(self.component(name)["pid"].as_i64().unwrap_or_else(|| panic!("{name} does not run"))).unwrap()
    }

    fn kubeconfig(&self) -> PathBuf {
        self.home.path().join(".kube/config")
    }

    fn try_kubectl(&self, args: &[&str]) -> Output {
        Command::new("kubectl").args(args).env("KUBECONFIG", self.kubeconfig()).output().unwrap()
    }

    fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 100 {
        if condition() {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not within {PATIENCE:?}: {what}");
}

/// All that a cluster of this name could leave behind on the machine.
fn traces(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dir in ["/var/lib/xebec", "/run/xebec"] {
        let path = Path::new(dir).join(name);
        found.extend(path.exists().then(|| format!("file {}", path.display())));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_it = format!("/xebec/{name}/");
    found.extend(mounts.lines().filter(|l| l.contains(&of_it)).map(|l| format!("mount {l}")));
    found.extend(Path::new(&format!("/sys/class/net/xb-{name}")).exists().then(|| format!("link xb-{name}")));
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let group = hierarchy.path().join("xebec").join(name);
        found.extend(group.exists().then(|| format!("group {}", group.display())));
    }
    let group = Path::new("/sys/fs/cgroup/xebec").join(name);
    found.extend(group.exists().then(|| format!("group {}", group.display())));
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split('\0').map(ToOwned::to_owned);
        // Not the commands of this test itself, which name it too.
        let ours = arguments.next().is_some_and(|a| a == "xebec")
            && arguments.any(|a| a == name || a.starts_with(&format!("{name}-")) || a.contains(&of_it));
        found.extend(ours.then(|| format!("process {}", process.file_name().display())));
    }
    let rules = Command::new("nft").args(["list", "tables"]).output().map(|o| o.stdout).unwrap_or_default();
    let table = format!("xb_{name}");
    found.extend(String::from_utf8_lossy(&rules).contains(&table).then(|| format!("table {table}")));
    found
}

#[test]
fn what_is_killed_comes_back_and_down_leaves_nothing() {
    let cluster = Cluster::new("m-life");
    let forwarding = fs::read_to_string("/proc/sys/net/ipv4/conf/all/forwarding").unwrap();
    cluster.ok(&["up", "--nodes", "2"]);
    assert!(fs::read_to_string(cluster.kubeconfig()).unwrap().contains("xebec-m-life"));
    let kubeconfig = cluster.ok(&["kubeconfig"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(kubeconfig.trim()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    for node in ["m-life-1", "m-life-2"] {
        assert_eq!(cluster.component(node)["state"], "Ready");
    }
    assert_eq!(cluster.ok(&["exec", "m-life-2", "--", "hostname"]).trim(), "m-life-2");
    assert_eq!(cluster.run(&["exec", "1", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert!(!cluster.run(&["exec", "9", "--", "true"]).status.success());

    // A second time: everything is as it was.
    let before = (cluster.pid("server"), cluster.pid("m-life-1"), cluster.pid("supervisor"));
    cluster.ok(&["up"]);
    assert_eq!((cluster.pid("server"), cluster.pid("m-life-1"), cluster.pid("supervisor")), before);

    kill(cluster.pid("m-life-1"));
    kill(cluster.pid("server"));
    wait_until("the node and the server are back", || {
        cluster.run(&["status"]).status.success() && cluster.component("m-life-1")["pid"] != before.1
    });
    // Without its supervisor the cluster goes on; the next `up` starts one that takes it over.
    let server = cluster.pid("server");
    kill(before.2);
    assert_eq!(cluster.ok(&["exec", "1", "--", "hostname"]).trim(), "m-life-1");
    cluster.ok(&["up"]);
    assert_eq!(cluster.pid("server"), server);

    // Smaller, and larger.
    cluster.ok(&["up", "--nodes", "1"]);
    assert_eq!(cluster.component("m-life-2"), Value::Null);
    cluster.ok(&["up", "--nodes", "2"]);
    assert_eq!(cluster.component("m-life-2")["state"], "Ready");

    assert!(!traces("m-life").is_empty());
    cluster.ok(&["down"]);
    wait_until("nothing is left", || traces("m-life").is_empty());
    assert!(!fs::read_to_string(cluster.kubeconfig()).unwrap().contains("m-life"));
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/conf/all/forwarding").unwrap(), forwarding);
    assert!(cluster.ok(&["down"]).contains("nothing to remove"));
}

#[test]
fn down_clears_what_a_crash_left_half_made() {
    let cluster = Cluster::new("m-crash");
    // Killed at moments from the first millisecond to after all is up.
    for after_ms in [1_u64, 20, 60, 150, 400, 1500] {
        let mut up = Command::new(env!("CARGO_BIN_EXE_xebec"))
            .args(["up", "--nodes", "1", "--no-context", "--name", cluster.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]
        std::thread::sleep(Duration::from_millis(after_ms));
        up.kill().unwrap();
        up.wait().unwrap();
        let state = fs::read("/run/xebec/m-crash/state.json").unwrap_or_default();
        let state: Value = serde_json::from_slice(&state).unwrap_or_default();
        if let Some(supervisor) = state["supervisor"]["pid"].as_i64() {
            kill(i32::try_from(supervisor).unwrap());
        }
        // The record of what runs is lost as well.
        let _ = fs::remove_file("/run/xebec/m-crash/state.json");
        cluster.ok(&["down"]);
        wait_until(&format!("nothing is left after a crash at {after_ms} ms"), || traces("m-crash").is_empty());
    }
}

#[test]
fn clusters_run_side_by_side() {
    let (one, two) = (Cluster::new("m-one"), Cluster::new("m-two"));
    one.ok(&["up", "--nodes", "1"]);
    two.ok(&["up", "--nodes", "1"]);
    let (a, b) = (one.component("server"), two.component("server"));
    assert_ne!(a["address"], b["address"]);
    one.ok(&["down"]);
    wait_until("the first is gone", || traces("m-one").is_empty());
    assert_eq!(two.component("m-two-1")["state"], "Ready");
    two.ok(&["down"]);
    wait_until("the second is gone", || traces("m-two").is_empty());
}

/// The command that `xebec token create` prints, run on a machine that is no node yet. The machine is one of the
/// cluster's nodes whose own agent has been stopped, and whose Node is deleted.
#[test]
fn a_machine_joins_by_the_printed_command() {
    let cluster = Cluster::new("m-join");
    cluster.ok(&["up", "--nodes", "2"]);
    let init = nix::unistd::Pid::from_raw(cluster.pid("m-join-2"));
    // Nobody starts the node's own agent again.
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let on_machine = |command: &[&str]| cluster.run(&[&["exec", "m-join-2", "--"], command].concat());
    let kill_agent = "for p in /proc/[0-9]*; do
        tr '\\0' ' ' <$p/cmdline | grep -q '^[^ ]*xebec agent ' && kill -9 ${p#/proc/} && exit 0
    done; exit 1";
    assert!(on_machine(&["sh", "-c", kill_agent]).status.success());
    cluster.kubectl(&["delete", "node", "m-join-2"]);

    let printed = cluster.ok(&["token", "create", "--ttl", "1h", "--description", "a test"]);
    let words: Vec<&str> = printed.split_whitespace().collect();
    let ["xebec", "agent", "--server", server, "--token", token, "--ca-hash", hash] = words[..] else {
        panic!("not the command to join by: {printed}")
    };
    let join = |token: &str, hash: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xebec"));
        command.args(["exec", "--name", "m-join", "m-join-2", "--", env!("CARGO_BIN_EXE_xebec"), "agent"]);
        command.args(["--server", server, "--token", token, "--ca-hash", hash, "--node-name", "newcomer"]);
        command.args(["--data-dir", "/run/newcomer", "--log-dir", "/run/newcomer/logs"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let other_ca = format!("sha256:{}", "0".repeat(64));
    let refused = join(token, &other_ca).wait_with_output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("CA"), "{said}");

    let mut agent = join(token, hash);
    wait_until("the machine is a node that is ready", || {
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status} {.spec.podCIDR}";
        let said = cluster.try_kubectl(&["get", "node", "newcomer", "-o", ready]);
        String::from_utf8_lossy(&said.stdout).starts_with("True 10.")
    });
    let requests = cluster.kubectl(&["get", "csr"]);
    let (id, _) = token.split_once('.').unwrap();
    assert!(requests.contains(&format!("system:bootstrap:{id}")), "{requests}");
    assert!(requests.contains("Approved,Issued"), "{requests}");
    assert!(cluster.ok(&["token", "list"]).contains("a test"));
    agent.kill().unwrap();
    agent.wait().unwrap();
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGCONT).unwrap();
}

#[test]
fn what_is_missing_is_named() {
    let cluster = Cluster::new("m-bare");
    let bare = Command::new(env!("CARGO_BIN_EXE_xebec"))
        .args(["up", "--name", cluster.name])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&bare.stderr).into_owned();
    assert!(!bare.status.success());
    for needed in ["containerd (runs containers): apt-get install containerd", "runc (runs containers)"] {
        assert!(said.contains(needed), "{said}");
    }
    assert!(traces("m-bare").is_empty());
}

#[test]
fn only_root_may() {
    let dir =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let binary = dir.path().join("xebec");
    fs::copy(env!("CARGO_BIN_EXE_xebec"), &binary).unwrap();
    for command in ["up", "down"] {
        let refused =
            Command::new(&binary).args([command, "--name", "m-user"]).uid(65_534).gid(65_534).output().unwrap();
        assert!(!refused.status.success());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("must run as root"), "{said}");
    }
    assert!(traces("m-user").is_empty());
}

#[test]
fn bad_arguments_are_refused_with_their_names() {
    for (arguments, says) in [
        (&["up", "--name", "No_Good"][..], "lower-case letters"),
        (&["up", "--nodes", "0"], "--nodes"),
        (&["up", "--nodes", "1000"], "--nodes"),
        (&["kubeconfig", "--name", "m-none"], "there is no cluster m-none"),
        (&["status", "--name", "m-none"], "there is no cluster m-none"),
        (&["exec", "--name", "m-none", "1", "--", "true"], "there is no cluster m-none"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_xebec")).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}
