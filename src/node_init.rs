//! `xebec node-init`: process 1 of a node of a cluster on one machine, in namespaces or in a machine of its own.
//!
//! Sets up the node's mounts, groups and network, starts containerd and the agent, starts them again when they die, and
//! reaps what is left to it. Containers outlive both: they hang on their shims, and those on this process.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::AsFd as _;

use crate::cluster::cgroups;
use crate::cluster::links::Netlink;
use crate::cluster::mounts;
use crate::cluster::node::{NodeSpec, open_log};

/// A node's containerd listens here; `/run` is the node's own.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Runs until it is killed.
pub fn main() -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read what node this is")?;
    anyhow::ensure!(!text.is_empty(), "`xebec node-init` is for `xebec up`, which tells it what node it is");
    let spec: NodeSpec = serde_json::from_str(&text).context("cannot read what node this is")?;
    let signals = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    let signal_fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

    nix::unistd::sethostname(&spec.name).context("cannot set the host name")?;
    let hierarchies = cgroups::hierarchies()?;
    let resolver = spec.addresses.first().context("the node has no address")?.gateway;
    mounts::node(&hierarchies, &format!("nameserver {resolver}\n"))?;
    // Where drivers of devices expect the node's agent.
    mounts::own_directory(&spec.data.join("kubelet"), "/var/lib/kubelet")?;
    let unified = cgroups::unified(&hierarchies).map(Path::to_path_buf);
    if let Some(unified) = &unified {
        split_group(unified)?;
    }
    let containerd = containerd(&spec, unified.as_deref())?;
    let mut keeper = Keeper { programs: vec![containerd], running: BTreeMap::new() };
    keeper.start_due();
    network(&spec)?;
    keeper.programs.push(agent(&spec, unified.as_deref()));
    keeper.programs.extend(commands(&spec, unified.as_deref())?);
    keeper.run(&signal_fd)
}

/// Version 2 has limits for the groups of a group only if it holds no process itself.
fn split_group(unified: &Path) -> anyhow::Result<()> {
    for leaf in ["init", "containerd", "agent", "exec"] {
        let dir = unified.join(leaf);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    fs::write(unified.join("init/cgroup.procs"), "0").context("cannot move into the group init")?;
    cgroups::delegate_controllers(unified);
    Ok(())
}

fn network(spec: &NodeSpec) -> anyhow::Result<()> {
    // What a node is expected to be set to; the agent sees to the rest.
    for (setting, value) in [("ip_forward", "1"), ("ping_group_range", "0 2147483647")] {
        fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).with_context(|| format!("cannot set {setting}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let links = Netlink::here()?;
        links.up("lo").await?;
        links.up("eth0").await?;
        for address in &spec.addresses {
            links.address("eth0", address.own).await?;
            links.default_route(address.gateway).await?;
        }
        Ok(())
    })
}

/// One program this process keeps running.
struct Program {
    name: &'static str,
    path: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    /// `cgroup.procs` of its group.
    group: Option<PathBuf>,
    /// How long to wait after the next death.
    delay: Duration,
    /// When to start it, in the monotonic clock; `None` while it runs.
    due: Option<Duration>,
    started: Duration,
}

impl Program {
    fn new(name: &'static str, path: PathBuf, arguments: Vec<String>, spec: &NodeSpec, unified: Option<&Path>) -> Self {
        let group = unified.map(|u| u.join(name).join("cgroup.procs"));
        let log = spec.log(name);
        Self {
            name,
            path,
            arguments,
            log,
            group,
            delay: FIRST_DELAY,
            due: Some(Duration::ZERO),
            started: Duration::ZERO,
        }
    }
}

/// Delays between a death and the next start: doubled from the first to the last, and the first again after a life
/// as long as [`STEADY`].
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(10);
const STEADY: Duration = Duration::from_secs(20);

fn containerd(spec: &NodeSpec, unified: Option<&Path>) -> anyhow::Result<Program> {
    let root = spec.data.join("containerd");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let config = Path::new("/run/xebec/containerd.toml");
    fs::write(config, containerd_config(&root)).context("cannot write containerd's configuration")?;
    let arguments = vec!["--config".into(), config.display().to_string()];
    Ok(Program::new("containerd", "containerd".into(), arguments, spec, unified))
}

/// Read by containerd 1.6 to 2.x. The CRI plugin and what only it uses are left out: the agent uses the native API.
fn containerd_config(root: &Path) -> String {
    let off = [
        "io.containerd.grpc.v1.cri",
        "io.containerd.cri.v1.images",
        "io.containerd.cri.v1.runtime",
        "io.containerd.internal.v1.opt",
        "io.containerd.nri.v1.nri",
        "io.containerd.snapshotter.v1.aufs",
        "io.containerd.snapshotter.v1.blockfile",
        "io.containerd.snapshotter.v1.btrfs",
        "io.containerd.snapshotter.v1.devmapper",
        "io.containerd.snapshotter.v1.erofs",
        "io.containerd.snapshotter.v1.zfs",
    ];
    format!(
        "version = 2\nroot = {root:?}\nstate = \"/run/containerd\"\noom_score = 0\ndisabled_plugins = {off:?}\n\
         [grpc]\naddress = \"{CONTAINERD_SOCKET}\"\n[debug]\nlevel = \"warn\"\n"
    )
}

fn agent(spec: &NodeSpec, unified: Option<&Path>) -> Program {
    let text = |path: &Path| path.display().to_string();
    let addresses: Vec<String> = spec.addresses.iter().map(|address| address.own.addr().to_string()).collect();
    let arguments = [
        ("--config", text(&spec.agent_config)),
        ("--server", spec.server.clone()),
        ("--ca-file", text(&spec.ca_file)),
        ("--token-file", text(&spec.token_file)),
        ("--node-name", spec.name.clone()),
        ("--node-ip", addresses.join(",")),
        ("--data-dir", text(&spec.data.join("agent"))),
        ("--containerd-socket", CONTAINERD_SOCKET.to_owned()),
        ("--log-dir", text(&spec.data.join("pod-logs"))),
        ("--resolv-conf", "/run/xebec/resolv.conf".to_owned()),
    ];
    // A node that can be entered is on a machine with others.
    let shared = spec.commands.is_none().then(|| "--shared-machine".to_owned());
    let arguments = ["agent".to_owned()]
        .into_iter()
        .chain(shared)
        .chain(arguments.into_iter().flat_map(|(k, v)| [k.to_owned(), v]))
        .collect();
    Program::new("agent", spec.program.clone(), arguments, spec, unified)
}

/// What runs commands on a node that nobody can enter.
fn commands(spec: &NodeSpec, unified: Option<&Path>) -> anyhow::Result<Option<Program>> {
    let Some(authority) = &spec.commands else { return Ok(None) };
    let address = spec.addresses.first().context("the node has no address")?.own.addr().to_string();
    let arguments = ["commands", "--address", &address, "--authority", &authority.display().to_string()];
    let arguments = arguments.map(str::to_owned).to_vec();
    Ok(Some(Program::new("exec", spec.program.clone(), arguments, spec, unified)))
}

/// Keeps the programs running.
struct Keeper {
    programs: Vec<Program>,
    /// Process ids, and the index of the program each is.
    running: BTreeMap<i32, usize>,
}

impl Keeper {
    fn run(mut self, signals: &SignalFd) -> anyhow::Result<ExitCode> {
        loop {
            let next = self.start_due();
            let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let timeout = next.map_or(PollTimeout::NONE, |d| PollTimeout::try_from(d).unwrap_or(PollTimeout::MAX));
            match nix::poll::poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e).context("cannot wait for signals"),
            }
            while let Ok(Some(signal)) = signals.read_signal() {
                if signal.ssi_signo != Signal::SIGCHLD as u32 {
                    tracing::info!("asked to stop");
                    // Everything in this process namespace dies with its process 1.
                    return Ok(ExitCode::SUCCESS);
                }
            }
            self.reap();
        }
    }

    /// Starts what is due; returns how long until the next is.
    fn start_due(&mut self) -> Option<Duration> {
        let now = monotonic();
        for index in 0..self.programs.len() {
            if self.programs[index].due.is_some_and(|due| due <= now) {
                self.start(index, now);
            }
        }
        self.programs.iter().filter_map(|p| p.due).min().map(|due| due.saturating_sub(now) + Duration::from_millis(1))
    }

    fn start(&mut self, index: usize, now: Duration) {
        let program = &mut self.programs[index];
        match spawn(program) {
            Ok(pid) => {
                tracing::info!(program = program.name, pid, "started");
                program.due = None;
                program.started = now;
                self.running.insert(pid, index);
            }
            Err(e) => {
                tracing::error!(program = program.name, "cannot start: {e:#}");
                program.due = Some(now + program.delay);
                program.delay = (program.delay * 2).min(LAST_DELAY);
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, status) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::from_raw(code << 8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitStatus::from_raw(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(e) => {
                    tracing::error!("cannot reap: {e}");
                    return;
                }
            };
            let Some(index) = self.running.remove(&pid.as_raw()) else { continue };
            let now = monotonic();
            let program = &mut self.programs[index];
            if now.saturating_sub(program.started) >= STEADY {
                program.delay = FIRST_DELAY;
            }
            tracing::warn!(program = program.name, %status, "ended; starting it again in {:?}", program.delay);
            program.due = Some(now + program.delay);
            program.delay = (program.delay * 2).min(LAST_DELAY);
        }
    }
}

fn spawn(program: &Program) -> anyhow::Result<i32> {
    let log = open_log(&program.log)?;
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if program.name == "agent" {
        command.arg0("xebec");
    }
    let group = program
        .group
        .as_ref()
        .map(|g| fs::File::options().write(true).open(g).with_context(|| format!("cannot open {}", g.display())))
        .transpose()?;
    // SAFETY: writes to an open descriptor and changes the signal mask; both are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if let Some(group) = &group {
                nix::unistd::write(group, b"0")?;
            }
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    let child = command.spawn().with_context(|| format!("cannot run {}", program.path.display()))?;
    i32::try_from(child.id()).context("an impossible process id")
}

/// Time since boot. Not wall time: a step of the clock must not stop or hurry a restart.
fn monotonic() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerds_configuration_quotes_paths() {
        let text = containerd_config(Path::new("/var/lib/x \"y\"/containerd"));
        assert!(text.contains(r#"root = "/var/lib/x \"y\"/containerd""#), "{text}");
        assert!(text.contains("io.containerd.grpc.v1.cri"));
    }
}
