//! `xebec supervise`: keeps a cluster on this machine running. Started by `xebec up`, in the background.
//!
//! It owns no state that is not written down: killed, it leaves the server and the nodes running, and the next `up`
//! starts a new one that takes them over by the record in [`State`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use xebec_clock::Clock;

use crate::cluster::process::{PidFd, Process};
use crate::cluster::state::{Component, State, boot};
use crate::cluster::{Cluster, Name, Paths, cgroups, dns_relay, egress, links, namespaces, node};

/// The name of the API server among the components.
pub const SERVER: &str = "server";

/// Delays between a death and the next start: doubled from the first to the last, and the first again after a life
/// as long as [`STEADY`].
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(10);
const STEADY: Duration = Duration::from_secs(20);

/// A log longer than this is emptied. In bytes.
const MAX_LOG_BYTES: u64 = 64 << 20;
const LOG_CHECK_PERIOD: Duration = Duration::from_secs(30);

/// Runs until SIGTERM; SIGHUP has it read the cluster's description again.
pub fn main(name: &Name) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(name)).map(|()| ExitCode::SUCCESS)
}

async fn supervise(name: &Name) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let paths = Paths::of(name);
    let cluster =
        Cluster::load(&paths)?.with_context(|| format!("there is no cluster {name}; `xebec up` makes one"))?;
    let mut cluster_now = Supervisor::new(cluster, paths)?.start().await?;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => {
                if let Err(e) = cluster_now.reload().await {
                    tracing::error!("cannot read the cluster's description: {e:#}");
                }
            }
        }
    }
}

/// What the tasks share.
struct Shared {
    cluster: Mutex<Cluster>,
    paths: Paths,
    fabric: File,
    state: Mutex<State>,
    clock: Clock,
}

impl Shared {
    /// Changes the record and writes it down.
    fn record(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if let Err(e) = state.save(&self.paths) {
            tracing::error!("{e:#}");
        }
    }

    fn cluster(&self) -> Cluster {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    /// The tasks that keep the nodes, by number.
    nodes: BTreeMap<u16, (CancellationToken, JoinHandle<()>)>,
}

impl Supervisor {
    fn new(cluster: Cluster, paths: Paths) -> anyhow::Result<Self> {
        fs::create_dir_all(&paths.run).with_context(|| format!("cannot make {}", paths.run.display()))?;
        let mut state = State::load(&paths);
        if let Some(other) = state.live_supervisor() {
            bail!("cluster {} is supervised by process {} already", cluster.name, other.pid);
        }
        state.boot = boot();
        state.supervisor = Process::of(i32::try_from(std::process::id())?);
        state.warnings.clear();
        // Those of earlier supervisors say nothing about what this one starts.
        state.components.values_mut().for_each(|c| c.restarts = 0);
        let (fabric, _) = namespaces::keep_network(&paths.fabric())?;
        let shared =
            Shared { cluster: Mutex::new(cluster), paths, fabric, state: Mutex::new(state), clock: Clock::system() };
        shared.record(|_| ());
        Ok(Self { shared: Arc::new(shared), nodes: BTreeMap::new() })
    }

    async fn start(mut self) -> anyhow::Result<Self> {
        let cluster = self.shared.cluster();
        links::fabric(self.shared.fabric.as_fd(), &cluster).await?;
        tokio::spawn(keep(Arc::clone(&self.shared), Kept::Server, CancellationToken::new()));
        self.keep_nodes(cluster.nodes);
        tokio::spawn(relay_names(Arc::clone(&self.shared)));
        tokio::spawn(open_the_way_out(Arc::clone(&self.shared)));
        tokio::spawn(bound_logs(Arc::clone(&self.shared)));
        Ok(self)
    }

    fn keep_nodes(&mut self, count: u16) {
        for number in 1..=count {
            self.nodes.entry(number).or_insert_with(|| {
                let stop = CancellationToken::new();
                (stop.clone(), tokio::spawn(keep(Arc::clone(&self.shared), Kept::Node(number), stop)))
            });
        }
    }

    async fn reload(&mut self) -> anyhow::Result<()> {
        let cluster = Cluster::load(&self.shared.paths)?.context("it is gone")?;
        let count = cluster.nodes;
        *self.shared.cluster.lock().unwrap_or_else(PoisonError::into_inner) = cluster;
        for (_, (stop, task)) in self.nodes.split_off(&(count + 1)) {
            stop.cancel();
            let _ = task.await;
        }
        self.keep_nodes(count);
        Ok(())
    }
}

async fn relay_names(shared: Arc<Shared>) {
    let cluster = shared.cluster();
    if let Err(e) = dns_relay::serve(cluster.preferred(cluster.addresses().host())).await {
        let text = format!("{e:#}; nodes and pods resolve the cluster's names, and none outside");
        tracing::warn!("{text}");
        shared.record(|s| drop(s.warnings.insert("names outside".into(), text)));
    }
}

async fn open_the_way_out(shared: Arc<Shared>) {
    let cluster = shared.cluster();
    if !cluster.ip_family.has_v4() {
        let text = format!("what leaves this machine gets its address by IPv4 only; {}", egress::WITHOUT);
        shared.record(|s| drop(s.warnings.insert("way out".into(), text)));
        return;
    }
    let done = tokio::task::spawn_blocking(move || egress::set_up(&cluster)).await;
    match done.unwrap_or_else(|e| Err(e.into())) {
        Ok(links) if links.is_empty() => {}
        Ok(links) => {
            let mut cluster = shared.cluster.lock().unwrap_or_else(PoisonError::into_inner);
            cluster.forwarding_set.extend(links);
            if let Err(e) = cluster.save(&shared.paths) {
                tracing::error!("{e:#}");
            }
        }
        Err(e) => {
            let text = format!("{e:#}; {}", egress::WITHOUT);
            tracing::warn!("{text}");
            shared.record(|s| drop(s.warnings.insert("way out".into(), text)));
        }
    }
}

/// Programs write to their logs directly, so that these survive the supervisor; it bounds them.
async fn bound_logs(shared: Arc<Shared>) {
    loop {
        sleep(LOG_CHECK_PERIOD).await;
        let entries = fs::read_dir(shared.paths.state.join("logs")).into_iter().flatten().flatten();
        for entry in entries {
            if entry.metadata().is_ok_and(|m| m.len() > MAX_LOG_BYTES)
                && let Ok(log) = File::options().write(true).open(entry.path())
            {
                // They append; what is written next starts the file again.
                let _ = log.set_len(0);
            }
        }
    }
}

/// One thing to keep running.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Server,
    Node(u16),
}

impl Kept {
    fn name(self, shared: &Shared) -> String {
        match self {
            Self::Server => SERVER.to_owned(),
            Self::Node(number) => shared.cluster().name.node(number),
        }
    }

    async fn start(self, shared: &Shared) -> anyhow::Result<Process> {
        match self {
            Self::Server => start_server(shared),
            Self::Node(number) => node::start(&shared.cluster(), &shared.paths, number, shared.fabric.as_fd()).await,
        }
    }

    /// Takes away what it was and kept.
    async fn remove(self, shared: &Shared) -> anyhow::Result<()> {
        let Self::Node(number) = self else { return Ok(()) };
        let cluster = shared.cluster();
        let name = cluster.name.node(number);
        node::clear(&cgroups::hierarchies()?, &node::group(&cluster, &name))?;
        links::disconnect_node(shared.fabric.as_fd(), number).await?;
        let _ = fs::remove_dir_all(shared.paths.machine(&name));
        fs::remove_dir_all(shared.paths.node(&name)).with_context(|| format!("cannot remove the data of {name}"))
    }
}

/// Keeps one thing running until `stop`; what runs already is taken over.
async fn keep(shared: Arc<Shared>, what: Kept, stop: CancellationToken) {
    let name = what.name(&shared);
    let mut delay = FIRST_DELAY;
    let mut process = shared.state.lock().unwrap_or_else(PoisonError::into_inner).live(&name);
    loop {
        let started = Instant::now();
        let ended = match process.take() {
            Some(running) => {
                tracing::info!(component = name, pid = running.pid, "taken over");
                until_end(running, &stop).await
            }
            None => match what.start(&shared).await {
                Ok(running) => {
                    tracing::info!(component = name, pid = running.pid, "started");
                    note(&shared, &name, |c, now| (c.process, c.since) = (Some(running), Some(now)));
                    until_end(running, &stop).await
                }
                Err(e) => Some(format!("{e:#}")),
            },
        };
        let Some(why) = ended else {
            if let Err(e) = what.remove(&shared).await {
                tracing::error!(component = name, "{e:#}");
            }
            shared.record(|s| drop(s.components.remove(&name)));
            return;
        };
        if started.elapsed() >= STEADY {
            delay = FIRST_DELAY;
        }
        tracing::warn!(component = name, "{why}; starting it again in {delay:?}");
        note(&shared, &name, |c, _| {
            c.process = None;
            c.restarts = c.restarts.saturating_add(1);
            c.last_error = Some(why);
        });
        sleep(delay).await;
        delay = (delay * 2).min(LAST_DELAY);
    }
}

fn note(shared: &Shared, name: &str, change: impl FnOnce(&mut Component, jiff::Timestamp)) {
    let now = shared.clock.now_seconds();
    shared.record(|s| change(s.components.entry(name.to_owned()).or_default(), now));
}

/// Waits for the end of a process, ours or an earlier supervisor's, and says what it was; `None` once `stop` is set,
/// and the process is dead.
async fn until_end(process: Process, stop: &CancellationToken) -> Option<String> {
    let Some(fd) = process.open() else { return Some(exit_text(process)) };
    // SAFETY: an owned descriptor, which stays open and the same until `watched` is dropped with it.
    let watched = match unsafe { AsyncFd::register(fd.into_fd()) } {
        Ok(watched) => watched,
        Err(e) => return Some(format!("cannot watch process {}: {e}", process.pid)),
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {
            if let Ok(fd) = PidFd::open(process.pid) && process.alive() {
                let _ = fd.signal(Signal::SIGKILL);
            }
            let _ = watched.readable().await;
            exit_text(process);
            None
        }
        _ = watched.readable() => Some(exit_text(process)),
    }
}

/// Reaps a child; of others the exit status is not to be had.
fn exit_text(process: Process) -> String {
    match waitpid(Pid::from_raw(process.pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => match namespaces::explain_early_exit(code) {
            Some(why) => format!("it {why}"),
            None => format!("it ended: {}", ExitStatus::from_raw(code << 8)),
        },
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("it was killed by {signal}"),
        _ => "it ended".to_owned(),
    }
}

fn start_server(shared: &Shared) -> anyhow::Result<Process> {
    let hierarchies = cgroups::hierarchies()?;
    let group = shared.cluster().name.cgroup().join(SERVER);
    // An earlier server would hold the store's lock and the port.
    node::clear(&hierarchies, &group)?;
    let log = node::open_log(&shared.paths.log(SERVER))?;
    let mut command = Command::new(shared.paths.binary());
    command
        .arg0("xebec")
        .arg(SERVER)
        .args([Path::new("--config"), &shared.paths.server_config()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let fabric = shared.fabric.try_clone()?;
    cgroups::start_in(&mut command, &hierarchies, &group)?;
    // SAFETY: setns is async-signal-safe, and the descriptor is open.
    unsafe {
        command.pre_exec(move || setns(&fabric, CloneFlags::CLONE_NEWNET).map_err(Into::into));
    }
    let child = command.spawn().with_context(|| format!("cannot run {}", shared.paths.binary().display()))?;
    Process::of(i32::try_from(child.id())?).context("it ended at once; see its log")
}
