//! The container runtime behind a trait: what the pod worker asks for, in terms of pods and containers.
//!
//! [`containerd::Containerd`] carries it out for real; [`fake::FakeRuntime`] in virtual time, for the simulation.

pub mod containerd;
pub mod fake;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::devices::ContainerEdits;
use crate::network::PodIdentity;

/// Why the runtime did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime does not answer.
    #[error("container runtime is down: {0}")]
    Down(String),
    /// There is no such container, image or process.
    #[error("{0} not found")]
    NotFound(String),
    /// What was asked cannot be done on this machine or for this image.
    #[error("{0}")]
    Invalid(String),
    /// The runtime tried and failed.
    #[error("{0}")]
    Failed(String),
    /// It took too long.
    #[error("command timed out after {0:?}")]
    TimedOut(Duration),
}

/// What a pod's containers share, made before the first of them: namespaces, cgroup.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// Whose.
    pub pod: PodIdentity,
    /// What `hostname` prints; empty on the host's network.
    pub hostname: String,
    /// No network namespace of its own.
    pub host_network: bool,
    /// No IPC namespace of its own.
    pub host_ipc: bool,
    /// One PID namespace for all of its containers.
    pub share_pid: bool,
    /// Where in the cgroup hierarchy, relative to the configured root: `burstable/pod<uid>`.
    pub cgroup: String,
    /// What all of its containers may use together.
    pub limits: Limits,
}

/// A pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The pinned network namespace; none on the host's network.
    pub netns: Option<PathBuf>,
}

/// What cgroups hold a container (or pod) to. Zero or none: not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// cgroup v1 weight, 2 to 262144.
    pub cpu_shares: u64,
    /// CPU time in a period, in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// Memory, in bytes. Swap is off.
    pub memory_bytes: Option<i64>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

/// Length of the period that [`Limits::cpu_quota_us`] is a share of, in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;

/// A file or directory of the node in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// On the node.
    pub host: PathBuf,
    /// In the container.
    pub container: String,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// Whether programs in it cannot be run.
    pub no_exec: bool,
    /// `rprivate`, `rslave` or `rshared`.
    pub propagation: &'static str,
}

/// Which system calls a container's processes may make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// All.
    #[default]
    Unconfined,
    /// Those that no ordinary program lacks.
    Default,
    /// What a file of the node says, by its path below the folder of profiles.
    Local(String),
}

/// Who a container's process is and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Overrides the image's user.
    pub user: Option<i64>,
    /// Overrides the image's group.
    pub group: Option<i64>,
    /// Refuse to run as user 0.
    pub non_root: bool,
    /// Further groups.
    pub groups: Vec<i64>,
    /// Not those that the image's files give the user besides.
    pub only_these_groups: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// The root file system cannot be written.
    pub read_only_root: bool,
    /// Whether the process may gain privileges by executing a file.
    pub privilege_escalation: bool,
    /// Capabilities on top of the default ones, without `CAP_`; `ALL`.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default ones, without `CAP_`; `ALL`.
    pub drop_capabilities: Vec<String>,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// `/proc` is not masked.
    pub unmasked_proc: bool,
}

/// Whose processes a container sees, and who sees its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PidMode {
    /// Its own only.
    #[default]
    Container,
    /// Those of the pod's containers: the sandbox has a PID namespace.
    Pod,
    /// All of the node.
    Node,
    /// Those of another container, by its id.
    Target(String),
}

/// A container to be created.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Chosen by the caller, unique.
    pub id: String,
    /// Its pod.
    pub pod: PodIdentity,
    /// Name within the pod.
    pub name: String,
    /// How many containers of this name there were before it in the pod.
    pub attempt: u32,
    /// The image, as [`Images::ensure`] gave it.
    pub image: LocalImage,
    /// Replaces the image's entry point, if not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments, if not empty.
    pub args: Vec<String>,
    /// On top of the image's environment.
    pub env: Vec<(String, String)>,
    /// Replaces the image's, if not empty.
    pub working_dir: String,
    /// Files of the node, in order.
    pub mounts: Vec<Mount>,
    /// What its devices need.
    pub edits: Vec<ContainerEdits>,
    /// Where output goes.
    pub log_path: PathBuf,
    /// Whether it has a standard input.
    pub stdin: bool,
    /// Whether its standard input closes after the first attach.
    pub stdin_once: bool,
    /// Whether its standard streams are a terminal.
    pub tty: bool,
    /// What `hostname` prints.
    pub hostname: String,
    /// The pod's sandbox.
    pub sandbox: Sandbox,
    /// No network namespace of its own.
    pub host_network: bool,
    /// Whose processes it sees.
    pub pid: PidMode,
    /// No IPC namespace of its own.
    pub host_ipc: bool,
    /// The pod's cgroup, as in [`SandboxSpec::cgroup`].
    pub cgroup: String,
    /// What it may use.
    pub limits: Limits,
    /// How soon the kernel kills it when memory runs out, -1000 to 1000.
    pub oom_score_adj: i32,
    /// What it may do.
    pub security: Security,
    /// What stops it: `SIGTERM` unless the image or the pod says otherwise.
    pub stop_signal: Option<String>,
}

/// An image that is on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalImage {
    /// The name it was asked for by, normalised: `docker.io/library/nginx:1.27`.
    pub name: String,
    /// What a status reports as `imageID`: `docker.io/library/nginx@sha256:...`.
    pub id: String,
    /// Digest of its manifest or index.
    pub digest: String,
    /// Bytes of its content.
    pub size_bytes: u64,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 plus the signal if one ended it.
    pub code: i32,
    /// When.
    pub finished_at: Timestamp,
    /// Whether the kernel killed it for its memory.
    pub oom_killed: bool,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    Created,
    /// Since when.
    Running(Timestamp),
    /// Since when it ran (if it did), and how it ended.
    Exited(Option<Timestamp>, Exit),
}

/// A container that the runtime knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its pod.
    pub pod: PodIdentity,
    /// Its name within the pod.
    pub name: String,
    /// How many of this name there were before it.
    pub attempt: u32,
    /// Its image.
    pub image: LocalImage,
    /// What it does.
    pub phase: Phase,
}

/// Something that the runtime tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container ended.
    Exited {
        /// Which.
        id: String,
        /// How.
        exit: Exit,
    },
    /// Events may have been missed: ask for the state of what matters.
    Resync,
    /// The runtime does not answer any more.
    Down,
}

/// How many events may wait for the agent. At the limit the sender waits.
pub const EVENT_QUEUE: usize = 1024;

/// A command to run in a container.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it reads from [`ExecStreams::stdin`].
    pub stdin: bool,
    /// Whether its output goes to [`ExecStreams::stdout`].
    pub stdout: bool,
    /// Whether its errors go to [`ExecStreams::stderr`]; never with a terminal.
    pub stderr: bool,
}

/// The far ends of a running command's streams. Dropping them all ends the command's input; it is killed when
/// [`ExecStreams::exit`] is dropped.
pub struct ExecStreams {
    /// What the command reads. Dropped: end of file.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// What it prints, until it closes.
    pub stdout: Option<mpsc::Receiver<Bytes>>,
    /// Its errors, until it closes.
    pub stderr: Option<mpsc::Receiver<Bytes>>,
    /// New sizes of the terminal: (columns, rows).
    pub resize: mpsc::Sender<(u16, u16)>,
    /// Its exit code, in the end.
    pub exit: tokio::sync::oneshot::Receiver<Result<i32, RuntimeError>>,
}

/// What a command printed, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i32,
    /// Both streams, cut after [`EXEC_OUTPUT_BYTES_MAX`].
    pub output: Vec<u8>,
}

/// How much output of a probe or hook is kept.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since its start, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory without what the kernel can take back at once, in bytes.
    pub memory_working_set_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// What something takes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl DiskUsage {
    /// Takes so much more.
    pub fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// Runs containers.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Its name and version, `containerd://1.7.2`. Also tells whether it answers.
    async fn version(&self) -> Result<String, RuntimeError>;

    /// Where events go from now on. Called once; [`RuntimeEvent::Resync`] is the first.
    fn subscribe(&self) -> mpsc::Receiver<RuntimeEvent>;

    /// Makes what the pod's containers share. Again for the same pod: the same.
    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, RuntimeError>;

    /// Removes it, and every container of the pod with it if `containers`. What is not there is no error.
    async fn remove_sandbox(&self, pod: &PodIdentity, cgroup: &str) -> Result<(), RuntimeError>;

    /// Where the pod's network namespace is (or would be) pinned.
    fn netns_path(&self, pod: &PodIdentity) -> PathBuf;

    /// Uids of the pods that have a sandbox.
    async fn sandboxes(&self) -> Result<Vec<String>, RuntimeError>;

    /// Creates a container.
    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError>;

    /// Starts a created container; gives the time it started.
    async fn start(&self, id: &str) -> Result<Timestamp, RuntimeError>;

    /// Sends a signal to a container's first process; none: the one that asks it to stop. One that has ended (or never
    /// was) is no error.
    async fn signal(&self, id: &str, signal: Option<i32>) -> Result<(), RuntimeError>;

    /// Removes a container, killing it if it runs. One that is not there is no error.
    async fn remove(&self, id: &str) -> Result<(), RuntimeError>;

    /// A container's state.
    async fn inspect(&self, id: &str) -> Result<Record, RuntimeError>;

    /// All containers.
    async fn list(&self) -> Result<Vec<Record>, RuntimeError>;

    /// Runs a command in a container with its streams connected.
    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecStreams, RuntimeError>;

    /// Runs a command in a container to its end, killing it after `timeout`.
    async fn exec_output(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError>;

    /// What a container uses.
    async fn usage(&self, id: &str) -> Result<Usage, RuntimeError>;

    /// What a container has written to its root file system.
    async fn disk_usage(&self, id: &str) -> Result<DiskUsage, RuntimeError>;

    /// What the node uses as a whole.
    async fn node_usage(&self) -> Result<Usage, RuntimeError>;

    /// A container's standard input, if it was created with one: to write to, until dropped. With `once` it is closed
    /// then, for good (`stdinOnce`).
    async fn stdin(&self, id: &str, once: bool) -> Result<mpsc::Sender<Bytes>, RuntimeError>;

    /// Holds a container to other limits than it was created with, and not (yet) its pod.
    async fn limit(&self, id: &str, limits: &Limits) -> Result<(), RuntimeError>;

    /// Holds a pod to other limits than its sandbox was made with.
    async fn limit_sandbox(&self, cgroup: &str, limits: &Limits) -> Result<(), RuntimeError>;

    /// Sets the size of a container's terminal.
    async fn resize(&self, id: &str, columns: u16, rows: u16) -> Result<(), RuntimeError>;
}

/// `registry`, user and password for a pull.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.username)
    }
}

/// Has images.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// The image, if it is on the node.
    async fn find(&self, name: &str) -> Result<Option<LocalImage>, RuntimeError>;

    /// Fetches it. Concurrent pulls of one image are one.
    async fn pull(&self, name: &str, credentials: &[Credentials]) -> Result<LocalImage, RuntimeError>;

    /// All images, with all of their names.
    async fn images(&self) -> Result<Vec<(Vec<String>, u64)>, RuntimeError>;

    /// Removes the image of a digest, with all of its names. One that is not there is no error.
    async fn remove(&self, digest: &str) -> Result<(), RuntimeError>;

    /// Where images, and what containers write, are on the node.
    async fn root(&self) -> Result<PathBuf, RuntimeError>;

    /// Keeps what is in an image as it is, under a key of the caller's, until [`Images::release`]; gives how to mount it.
    /// Again for the same key: the same.
    async fn hold(&self, key: &str, image: &LocalImage) -> Result<Vec<Layers>, RuntimeError>;

    /// Lets go of it. What is not held is no error.
    async fn release(&self, key: &str) -> Result<(), RuntimeError>;
}

/// One mount of those that make a file system of an image's layers; it cannot be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// `overlay`, `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// As `mount -o` takes them.
    pub options: Vec<String>,
}
