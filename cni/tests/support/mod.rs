//! The plugin as a runtime calls it, in a network namespace that stands for the node.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

/// Debian's `containernetworking-plugins`.
pub const STANDARD_PLUGINS: &str = "/usr/lib/cni";

/// The plugin.
pub fn xebec_cni() -> PathBuf {
    env!("CARGO_BIN_EXE_xebec-cni").into()
}

/// Moves this thread, and what it starts, into a new network namespace.
pub fn become_a_node() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
}

/// A container's network namespace.
pub struct Pod {
    pub id: String,
    child: Child,
}

impl Pod {
    pub fn new(id: &str) -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let pod = Self { id: id.to_owned(), child };
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(pod.netns()).is_ok_and(|link| link == own) {
            std::thread::yield_now();
        }
        pod
    }

    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.child.id())
    }

    /// A command in it.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.child.id().to_string(), "sh", "-c", line]);
        command
    }

    pub fn run(&self, line: &str) -> String {
        text(&self.command(line).output().unwrap())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What a command printed.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `ip` on the node.
pub fn ip(line: &str) -> String {
    text(&Command::new("ip").args(line.split(' ')).output().unwrap())
}

/// Gives a command the environment and the input of a CNI call.
pub fn call(mut program: Command, verb: &str, pod: &Pod, config: &Value) -> Output {
    let mut child = program
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &pod.id)
        .env("CNI_NETNS", pod.netns())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", STANDARD_PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that is killed does not read it.
    drop(child.stdin.take().unwrap().write_all(config.to_string().as_bytes()));
    child.wait_with_output().unwrap()
}

/// Calls the plugin; it must succeed.
pub fn plugin(verb: &str, pod: &Pod, config: &Value) -> Value {
    let output = call(Command::new(xebec_cni()), verb, pod, config);
    assert!(output.status.success(), "{verb}: {}{}", text(&output), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// A network whose leases are in `dir`.
pub fn network(dir: &std::path::Path) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "xebec-cni", "dataDir": dir, "mtu": 1400,
        "subnets": ["10.244.1.0/24", "fd00:10:244:1::/64"],
    })
}

/// The addresses leased, with their owners.
pub fn leases(dir: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir.join("pods")) else { return Vec::new() };
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains('@')).collect()
}
