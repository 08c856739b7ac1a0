//! containerd's native API (1.6 to 2.x): containers, tasks, snapshots, content, leases, images, events.
//!
//! No CRI and no pause container: the pod's namespaces are pinned by the agent ([`namespaces`]), its containers share
//! one shim, and their logs are written by a process of ours that outlives agent and containerd ([`crate::logger`]).

pub mod cgroups;
pub mod client;
mod events;
mod exec;
pub mod host;
mod labels;
pub mod namespaces;
pub mod oci;
mod pid_namespace;
mod seccomp;
mod stdio;
pub mod user;

pub use client::Client;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::container::Runtime as ShimRuntime;
use containerd_client::services::v1::snapshots::PrepareSnapshotRequest;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest, DeleteTaskRequest,
    GetContainerRequest, GetRequest, KillRequest, ListContainersRequest, ListTasksRequest, ResizePtyRequest,
    StartRequest, UpdateTaskRequest,
};
use containerd_client::types::Mount;
use parking_lot::Mutex;
use prost_types::Any;
use tokio::sync::mpsc;
use xebec_clock::{Clock, Random};

use self::client::{request, timestamp};
use self::host::Host;
use self::labels::Known;
use self::namespaces::Pins;
use self::pid_namespace::PidNamespace;
use super::{
    ContainerSpec, DiskUsage, ExecOutput, ExecSpec, ExecStreams, Exit, Limits, Phase, PidMode, Record, Runtime,
    RuntimeError, RuntimeEvent, Sandbox, SandboxSpec, Usage,
};
use crate::images::content;
use crate::images::store::ImageStore;
use crate::network::PodIdentity;

/// The snapshotter: in every kernel that runs our eBPF programs.
pub const SNAPSHOTTER: &str = "overlayfs";

/// How often a container's start is tried again that came upon the shim of the pod's last one.
const SHIM_ATTEMPTS: u32 = 10;
/// How many tasks may be created at the same time: each is a runc and perhaps a shim, and more at once only take longer
/// each.
const CREATES_AT_ONCE: usize = 8;

/// Where things are.
#[derive(Clone, Debug)]
pub struct ContainerdConfig {
    /// containerd's socket.
    pub socket: PathBuf,
    /// Where namespaces are pinned and pipes made: `/run/xebec`.
    pub run_root: PathBuf,
    /// Where pods' cgroups are, from the root of the hierarchy: `/kubepods`.
    pub cgroup_root: String,
    /// Where profiles of system calls are that pods name.
    pub seccomp_root: PathBuf,
    /// The program that writes logs, called as `<it> container-log <file>`.
    pub logger: PathBuf,
}

/// containerd as a [`Runtime`].
pub struct Containerd {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    config: ContainerdConfig,
    host: Host,
    images: Arc<ImageStore>,
    clock: Clock,
    random: Random,
    /// What is known of the containers that were seen.
    known: Mutex<BTreeMap<String, Known>>,
    /// Root file systems of created containers.
    roots: Mutex<BTreeMap<String, Vec<Mount>>>,
    /// Log and pipes of created containers.
    outputs: Mutex<BTreeMap<String, stdio::Output>>,
    /// Containers of which the kernel was said to have killed a process for its memory.
    out_of_memory: Mutex<BTreeSet<String>>,
    creates: tokio::sync::Semaphore,
}

impl Containerd {
    /// Over the containerd at `config.socket`. Makes no connection yet.
    pub fn new(
        config: ContainerdConfig,
        client: Client,
        images: Arc<ImageStore>,
        clock: Clock,
        random: Random,
    ) -> Result<Self, RuntimeError> {
        let host = Host::detect().map_err(|e| RuntimeError::Failed(format!("cannot read /proc/self: {e}")))?;
        let inner = Inner {
            client,
            config,
            host,
            images,
            clock,
            random,
            known: Mutex::default(),
            roots: Mutex::default(),
            outputs: Mutex::default(),
            out_of_memory: Mutex::default(),
            creates: tokio::sync::Semaphore::new(CREATES_AT_ONCE),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What this machine lets containers have.
    pub fn host(&self) -> &Host {
        &self.inner.host
    }
}

impl Inner {
    fn pins(&self, uid: &str) -> Pins {
        Pins::new(&self.config.run_root, uid)
    }

    fn pid_namespace(&self, uid: &str) -> PidNamespace {
        PidNamespace::new(&self.config.run_root, uid)
    }

    /// The PID namespace that a container is to join; none: it gets one of its own, or has the node's.
    async fn shared_pids(&self, spec: &ContainerSpec) -> Result<Option<PathBuf>, RuntimeError> {
        match &spec.pid {
            PidMode::Container | PidMode::Node => Ok(None),
            PidMode::Pod => Ok(Some(self.pid_namespace(&spec.pod.uid).path)),
            PidMode::Target(id) => {
                let get = GetRequest { container_id: id.clone(), exec_id: String::new() };
                let process = self.client.tasks().get(request(get)).await?.into_inner().process;
                let process = process.filter(|p| p.pid != 0);
                let process = process.ok_or_else(|| RuntimeError::NotFound(format!("a process of container {id}")))?;
                Ok(Some(PathBuf::from(format!("/proc/{}/ns/pid", process.pid))))
            }
        }
    }

    fn pod_cgroup(&self, cgroup: &str) -> String {
        format!("{}/{cgroup}", self.config.cgroup_root.trim_end_matches('/'))
    }

    /// What is known of a container, asking containerd if it was not seen yet.
    async fn known(&self, id: &str) -> Result<Known, RuntimeError> {
        if let Some(known) = self.known.lock().get(id) {
            return Ok(known.clone());
        }
        let get = GetContainerRequest { id: id.to_owned() };
        let found = self.client.containers().get(request(get)).await?.into_inner().container;
        let known = found.as_ref().and_then(labels::known);
        let known = known.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
        self.known.lock().insert(id.to_owned(), known.clone());
        Ok(known)
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let image = self.images.config(&spec.image.name).await?;
        let mounts = self.prepare(&spec.id, &image.chain_id).await?;
        let layers = layers(&mounts);
        let user = user::resolve(&image.config.user, &spec.security, &layers)?;
        let cgroup = format!("{}/{}", self.pod_cgroup(&spec.cgroup), spec.id);
        let pins = self.pins(&spec.pod.uid);
        let shared_pids = self.shared_pids(spec).await?;
        let input = oci::Input {
            spec,
            image: &image.config,
            user: &user,
            host: &self.host,
            pins: &pins,
            shared_pids: shared_pids.as_deref(),
            cgroup: &cgroup,
        };
        let mut oci = oci::specification(&input)?;
        if let Some(profile) = seccomp::profile(&spec.security, &self.config.seccomp_root)? {
            oci["linux"]["seccomp"] = profile;
        }
        let stop_signal = [spec.stop_signal.as_deref().unwrap_or(""), &image.config.stop_signal];
        let stop_signal = stop_signal.into_iter().find_map(signal_number).unwrap_or(libc::SIGTERM);
        let labels = labels::labels(spec, &cgroup, stop_signal);
        let container = Container {
            id: spec.id.clone(),
            labels,
            image: spec.image.name.clone(),
            runtime: Some(ShimRuntime { name: "io.containerd.runc.v2".to_owned(), options: None }),
            spec: Some(any("types.containerd.io/opencontainers/runtime-spec/1/Spec", &oci)?),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: spec.id.clone(),
            ..Container::default()
        };
        if let Some(known) = labels::known(&container) {
            self.known.lock().insert(spec.id.clone(), known);
        }
        self.client.containers().create(request(CreateContainerRequest { container: Some(container) })).await?;
        self.roots.lock().insert(spec.id.clone(), mounts);
        self.outputs.lock().insert(spec.id.clone(), stdio::Output::of(spec));
        Ok(())
    }

    async fn prepare(&self, id: &str, parent: &str) -> Result<Vec<Mount>, RuntimeError> {
        // A root of its own: until the container refers to it, the collector would take it away.
        let labels = [("containerd.io/gc.root".to_owned(), self.clock.now_seconds().to_string())].into();
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
            parent: parent.to_owned(),
            labels,
        };
        Ok(self.client.snapshots().prepare(request(prepare)).await?.into_inner().mounts)
    }

    async fn start(&self, id: &str) -> Result<jiff::Timestamp, RuntimeError> {
        let rootfs = self.roots.lock().remove(id);
        let output = self.outputs.lock().remove(id);
        let (Some(rootfs), Some(output)) = (rootfs, output) else {
            return Err(RuntimeError::NotFound(format!("created container {id}")));
        };
        let stdio = output.prepare(&self.config, id)?;
        let create = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: output.tty,
            ..CreateTaskRequest::default()
        };
        self.create_task(create).await?;
        let start = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
        if let Err(status) = self.client.tasks().start(request(start)).await {
            self.delete_task(id).await;
            return Err(status.into());
        }
        let now = self.clock.now();
        if let Some(known) = self.known.lock().get_mut(id)
            && known.record.phase == Phase::Created
        {
            known.record.phase = Phase::Running(now);
        }
        Ok(now)
    }

    async fn create_task(&self, create: CreateTaskRequest) -> Result<(), RuntimeError> {
        let _turn = self.creates.acquire().await;
        let mut attempt = 0;
        loop {
            match self.client.tasks().create(request(create.clone())).await.map_err(RuntimeError::from) {
                Ok(_) => return Ok(()),
                Err(error) if attempt < SHIM_ATTEMPTS && met_a_leaving_shim(&error) => attempt += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn delete_task(&self, id: &str) {
        let delete = DeleteTaskRequest { container_id: id.to_owned() };
        if let Err(status) = self.client.tasks().delete(request(delete)).await {
            tracing::debug!(%id, status = %status.message(), "task not deleted");
        }
    }

    async fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), RuntimeError> {
        let kill = KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal: u32::try_from(signal).unwrap_or(15),
            all,
        };
        match self.client.tasks().kill(request(kill)).await {
            Ok(_) => Ok(()),
            Err(status) => match RuntimeError::from(status) {
                // It has ended meanwhile, or never was.
                RuntimeError::NotFound(_) => Ok(()),
                RuntimeError::Failed(message) if message.contains("process already finished") => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        match self.kill(id, libc::SIGKILL, true).await {
            Err(error @ RuntimeError::Down(_)) => return Err(error),
            // One that has ended cannot be killed; whether it has, its deletion tells.
            Err(error) => tracing::debug!(%id, %error, "not killed"),
            Ok(()) => {}
        }
        // runc takes a moment to see that all processes are gone.
        for attempt in 0..50_u32 {
            let delete = DeleteTaskRequest { container_id: id.to_owned() };
            match self.client.tasks().delete(request(delete)).await.map_err(RuntimeError::from) {
                Ok(_) | Err(RuntimeError::NotFound(_)) => break,
                Err(error @ RuntimeError::Down(_)) => return Err(error),
                Err(error) if attempt == 49 => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        let delete = DeleteContainerRequest { id: id.to_owned() };
        ignore_missing(self.client.containers().delete(request(delete)).await.map(drop))?;
        content::remove_snapshot(&self.client, id).await?;
        stdio::remove(&self.config, id);
        self.known.lock().remove(id);
        self.roots.lock().remove(id);
        self.outputs.lock().remove(id);
        self.out_of_memory.lock().remove(id);
        Ok(())
    }

    /// Combines what the labels say and what the task does.
    fn record(
        &self,
        known: &Known,
        task: Option<&containerd_client::types::v1::Process>,
        created_at: Option<jiff::Timestamp>,
    ) -> Record {
        use containerd_client::types::v1::Status;
        let mut record = known.record.clone();
        let since = match record.phase {
            Phase::Running(since) => Some(since),
            _ => created_at,
        };
        let now = self.clock.now();
        match task.map(|t| t.status()) {
            Some(Status::Stopped) => {
                let finished_at = task.and_then(|t| timestamp(t.exited_at.as_ref())).unwrap_or(now);
                let code = task.map_or(137, |t| i32::try_from(t.exit_status).unwrap_or(255));
                record.phase = Phase::Exited(since, self.exit(known, code, finished_at));
            }
            Some(Status::Running | Status::Paused | Status::Pausing) => {
                record.phase = Phase::Running(since.unwrap_or(now));
            }
            Some(Status::Created | Status::Unknown) => record.phase = Phase::Created,
            // Its process is gone without a trace: the machine was restarted, perhaps.
            None if matches!(record.phase, Phase::Running(_)) => {
                record.phase = Phase::Exited(since, Exit { code: 255, finished_at: now, oom_killed: false });
            }
            None => {}
        }
        record
    }

    fn exit(&self, known: &Known, code: i32, finished_at: jiff::Timestamp) -> Exit {
        let counted = || self.host.cgroups.oom_kills(&known.cgroup).is_some_and(|n| n > 0);
        let oom_killed = code != 0 && (self.out_of_memory.lock().contains(&known.record.id) || counted());
        Exit { code, finished_at, oom_killed }
    }

    async fn list(&self) -> Result<Vec<Record>, RuntimeError> {
        let all = ListContainersRequest { filters: vec!["labels.\"io.kubernetes.pod.uid\"".to_owned()] };
        let containers = self.client.containers().list(request(all)).await?.into_inner().containers;
        let tasks = self.client.tasks().list(request(ListTasksRequest::default())).await?.into_inner().tasks;
        let mut records = Vec::new();
        for container in containers {
            let Some(mut known) = labels::known(&container) else { continue };
            let task = tasks.iter().find(|t| t.id == container.id);
            let created_at = timestamp(container.created_at.as_ref());
            if known.record.phase == Phase::Created
                && task.is_none()
                && self.known.lock().get(&container.id).is_some_and(|k| matches!(k.record.phase, Phase::Running(_)))
            {
                known.record.phase = Phase::Running(created_at.unwrap_or_else(|| self.clock.now()));
            }
            let record = self.record(&known, task, created_at);
            known.record = record.clone();
            self.known.lock().insert(container.id.clone(), known);
            records.push(record);
        }
        records.sort_by(|a, b| (&a.pod, &a.name, a.attempt).cmp(&(&b.pod, &b.name, b.attempt)));
        Ok(records)
    }

    async fn inspect(&self, id: &str) -> Result<Record, RuntimeError> {
        let known = self.known(id).await?;
        if let Phase::Exited(..) = known.record.phase {
            return Ok(known.record);
        }
        let get = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
        let task = match self.client.tasks().get(request(get)).await.map_err(RuntimeError::from) {
            Ok(response) => response.into_inner().process,
            Err(RuntimeError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(self.record(&known, task.as_ref(), None))
    }
}

/// The folders that a root file system is made of, the upper ones first.
fn layers(mounts: &[Mount]) -> Vec<PathBuf> {
    let Some(mount) = mounts.first() else { return Vec::new() };
    let mut folders = Vec::new();
    for option in &mount.options {
        if let Some(upper) = option.strip_prefix("upperdir=") {
            folders.insert(0, PathBuf::from(upper));
        } else if let Some(lower) = option.strip_prefix("lowerdir=") {
            folders.extend(lower.split(':').map(PathBuf::from));
        }
    }
    if folders.is_empty() {
        folders.push(PathBuf::from(&mount.source));
    }
    folders
}

/// The number of a signal: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
fn signal_number(name: &str) -> Option<i32> {
    if name.is_empty() {
        return None;
    }
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(offset) = full.strip_prefix("SIGRTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return Some(libc::SIGRTMIN() + offset);
    }
    full.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

fn any(type_url: &str, value: &serde_json::Value) -> Result<Any, RuntimeError> {
    let value = serde_json::to_vec(value).map_err(|e| RuntimeError::Invalid(e.to_string()))?;
    Ok(Any { type_url: type_url.to_owned(), value })
}

/// Whether a container was to join the shim of the pod's others just as that left, before or after it answered: it goes with
/// the last of them, which a restarted container, or the first after the init containers, comes right after.
fn met_a_leaving_shim(error: &RuntimeError) -> bool {
    let RuntimeError::Failed(why) = error else { return false };
    why.contains("failed to start shim") || why.contains("failed to create shim task: ttrpc: closed")
}

fn ignore_missing(result: Result<(), containerd_client::tonic::Status>) -> Result<(), RuntimeError> {
    match result.map_err(RuntimeError::from) {
        Err(RuntimeError::NotFound(_)) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}

fn io_error(what: &str, path: &Path, error: &std::io::Error) -> RuntimeError {
    RuntimeError::Failed(format!("cannot {what} {}: {error}", path.display()))
}

#[async_trait]
impl Runtime for Containerd {
    async fn version(&self) -> Result<String, RuntimeError> {
        let ask = async { Ok(self.inner.client.version().version(()).await?.into_inner().version) };
        let version: Result<String, RuntimeError> = tokio::time::timeout(Duration::from_secs(5), ask)
            .await
            .unwrap_or_else(|_| Err(RuntimeError::Down("no answer within 5 s".to_owned())));
        // `v2.1.0`, or Debian's `1.6.20~ds1`.
        version.map(|v| format!("containerd://{}", v.trim_start_matches('v')))
    }

    fn subscribe(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (tx, rx) = mpsc::channel(super::EVENT_QUEUE);
        tokio::spawn(events::follow(Arc::clone(&self.inner), tx));
        rx
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, RuntimeError> {
        let pins = self.inner.pins(&spec.pod.uid);
        pins.create(spec).await.map_err(|e| io_error("pin namespaces at", &pins.net, &e))?;
        if spec.share_pid {
            let shared = self.inner.pid_namespace(&spec.pod.uid);
            let made = shared.create(&self.inner.config.logger).await;
            made.map_err(|e| io_error("pin namespaces at", &shared.path, &e))?;
        }
        let cgroup = self.inner.pod_cgroup(&spec.cgroup);
        let made = self.inner.host.cgroups.create(&cgroup, &spec.limits);
        made.map_err(|e| RuntimeError::Failed(format!("cannot make the pod's cgroup {cgroup}: {e}")))?;
        Ok(Sandbox { netns: (!spec.host_network).then_some(pins.net) })
    }

    async fn remove_sandbox(&self, pod: &PodIdentity, cgroup: &str) -> Result<(), RuntimeError> {
        let pins = self.inner.pins(&pod.uid);
        pins.remove().map_err(|e| io_error("unpin", &pins.net, &e))?;
        let shared = self.inner.pid_namespace(&pod.uid);
        shared.remove().map_err(|e| io_error("unpin", &shared.path, &e))?;
        let cgroup = self.inner.pod_cgroup(cgroup);
        // The last processes may take a moment to leave it.
        let mut result = Ok(());
        for _ in 0..50 {
            result = self.inner.host.cgroups.remove(&cgroup);
            if result.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        result.map_err(|e| RuntimeError::Failed(e.to_string()))
    }

    fn netns_path(&self, pod: &PodIdentity) -> PathBuf {
        self.inner.pins(&pod.uid).net
    }

    async fn sandboxes(&self) -> Result<Vec<String>, RuntimeError> {
        let root = &self.inner.config.run_root;
        namespaces::pinned(root).map_err(|e| io_error("list", root, &e))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        self.inner.create(spec).await
    }

    async fn start(&self, id: &str) -> Result<jiff::Timestamp, RuntimeError> {
        self.inner.start(id).await
    }

    async fn signal(&self, id: &str, signal: Option<i32>) -> Result<(), RuntimeError> {
        let signal = match signal {
            Some(signal) => signal,
            None => match self.inner.known(id).await {
                Ok(known) => known.stop_signal,
                Err(RuntimeError::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        self.inner.kill(id, signal, signal == libc::SIGKILL).await
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.inner.remove(id).await
    }

    async fn inspect(&self, id: &str) -> Result<Record, RuntimeError> {
        self.inner.inspect(id).await
    }

    async fn list(&self) -> Result<Vec<Record>, RuntimeError> {
        self.inner.list().await
    }

    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecStreams, RuntimeError> {
        exec::exec(&self.inner, id, spec).await
    }

    async fn exec_output(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        exec::output(&self.inner, id, command, timeout).await
    }

    async fn usage(&self, id: &str) -> Result<Usage, RuntimeError> {
        let known = self.inner.known(id).await?;
        let usage = self.inner.host.cgroups.usage(&known.cgroup);
        usage.ok_or_else(|| RuntimeError::NotFound(format!("cgroup of container {id}")))
    }

    async fn disk_usage(&self, id: &str) -> Result<DiskUsage, RuntimeError> {
        content::snapshot_usage(&self.inner.client, id).await
    }

    async fn node_usage(&self) -> Result<Usage, RuntimeError> {
        let usage = self.inner.host.cgroups.usage("/").or_else(cgroups::machine_usage);
        usage.ok_or_else(|| RuntimeError::NotFound("neither the root cgroup nor /proc tells what is used".to_owned()))
    }

    async fn stdin(&self, id: &str, once: bool) -> Result<mpsc::Sender<Bytes>, RuntimeError> {
        stdio::open_stdin(&self.inner, id, once)
    }

    async fn limit(&self, id: &str, limits: &Limits) -> Result<(), RuntimeError> {
        let resources = oci::changed_resources(limits, &self.inner.host);
        let update = UpdateTaskRequest {
            container_id: id.to_owned(),
            resources: Some(any("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", &resources)?),
            ..UpdateTaskRequest::default()
        };
        Ok(self.inner.client.tasks().update(request(update)).await.map(drop)?)
    }

    async fn limit_sandbox(&self, cgroup: &str, limits: &Limits) -> Result<(), RuntimeError> {
        let cgroup = self.inner.pod_cgroup(cgroup);
        let set = self.inner.host.cgroups.create(&cgroup, limits);
        set.map_err(|e| RuntimeError::Failed(format!("cannot limit the pod's cgroup {cgroup}: {e}")))
    }

    async fn resize(&self, id: &str, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        let resize = ResizePtyRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            width: u32::from(columns),
            height: u32::from(rows),
        };
        Ok(self.inner.client.tasks().resize_pty(request(resize)).await.map(drop)?)
    }
}
