//! A runtime without containers, for the simulation: everything happens in virtual time, and as scripted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use xebec_clock::Clock;

use super::{
    ContainerSpec, Credentials, DiskUsage, ExecOutput, ExecSpec, ExecStreams, Exit, Images, Layers, Limits, LocalImage,
    Mount, Phase, Record, Runtime, RuntimeError, RuntimeEvent, Sandbox, SandboxSpec, Usage,
};
use crate::api::Pod;
use crate::api::pod::{Container, Handler};
use crate::network::{NetworkError, PodAddresses, PodIdentity, PodNetwork};
use crate::probes::{Outcome, Prober};
use crate::volumes::{PodVolumes, VolumeError, Volumes};

/// How containers of an image behave. The default: they start in 70 ms, are ready at once and run until stopped, and
/// stop 10 ms after they are asked.
#[derive(Clone, Debug)]
pub struct Script {
    /// From create to running.
    pub start_delay: Duration,
    /// From running to the first successful probe of any kind.
    pub ready_delay: Duration,
    /// Ends by itself after this, with this exit code.
    pub exit: Option<(Duration, i32)>,
    /// How long it takes to stop when asked; longer than the pod's grace period: it is killed.
    pub stop_delay: Duration,
    /// The image cannot be pulled: the message.
    pub pull_error: Option<String>,
    /// How long a pull takes; zero: the image is on the node.
    pub pull_delay: Duration,
    /// The container cannot be created: the message.
    pub create_error: Option<String>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            start_delay: Duration::from_millis(70),
            ready_delay: Duration::ZERO,
            exit: None,
            stop_delay: Duration::from_millis(10),
            pull_error: None,
            pull_delay: Duration::ZERO,
            create_error: None,
        }
    }
}

struct Running {
    record: Record,
    spec: ContainerSpec,
    script: Script,
    started: Option<Instant>,
}

#[derive(Default)]
struct State {
    scripts: BTreeMap<String, Script>,
    pulled: BTreeMap<String, LocalImage>,
    containers: BTreeMap<String, Running>,
    sandboxes: BTreeMap<String, PodIdentity>,
    events: Option<mpsc::Sender<RuntimeEvent>>,
    next_address: u32,
    addresses: BTreeMap<String, IpAddr>,
    down: bool,
}

/// The runtime, image store, network, volumes and prober of one simulated node. Clones share it.
#[derive(Clone)]
pub struct FakeRuntime {
    clock: Clock,
    /// First address given to a pod; the next ones follow.
    pod_network: Ipv4Addr,
    state: Arc<Mutex<State>>,
}

impl FakeRuntime {
    /// A node whose pods get addresses after `pod_network` (10.244.3.0: the first pod gets 10.244.3.1).
    pub fn new(clock: Clock, pod_network: Ipv4Addr) -> Self {
        Self { clock, pod_network, state: Arc::default() }
    }

    /// Makes the containers of `image` (the name as in the pod) behave like `script` from their next start on.
    pub fn script(&self, image: &str, script: Script) {
        self.state.lock().scripts.insert(image.to_owned(), script);
    }

    /// Makes the runtime stop (or start) to answer. Containers go on meanwhile.
    pub async fn set_down(&self, down: bool) {
        let events = {
            let mut state = self.state.lock();
            state.down = down;
            state.events.clone()
        };
        if let Some(events) = events {
            let event = if down { RuntimeEvent::Down } else { RuntimeEvent::Resync };
            // A node that has gone needs no event.
            drop(events.send(event).await);
        }
    }

    /// Ends the running containers of a pod that are named `container`, as a crash would. Gives how many there were.
    pub async fn crash(&self, pod_uid: &str, container: &str, code: i32) -> usize {
        let ids: Vec<String> = self
            .state
            .lock()
            .containers
            .values()
            .filter(|c| c.record.pod.uid == pod_uid && c.record.name == container)
            .filter(|c| matches!(c.record.phase, Phase::Running(_)))
            .map(|c| c.record.id.clone())
            .collect();
        for id in &ids {
            self.end(id, code).await;
        }
        ids.len()
    }

    /// What the running containers called `container` are held to.
    pub fn limits(&self, container: &str) -> Vec<Limits> {
        let state = self.state.lock();
        let running = |c: &&Running| c.record.name == container && matches!(c.record.phase, Phase::Running(_));
        state.containers.values().filter(running).map(|c| c.spec.limits.clone()).collect()
    }

    /// What is mounted into the running containers called `container`.
    pub fn mounts(&self, container: &str) -> Vec<Mount> {
        let state = self.state.lock();
        let running = |c: &&Running| c.record.name == container && matches!(c.record.phase, Phase::Running(_));
        state.containers.values().filter(running).flat_map(|c| c.spec.mounts.clone()).collect()
    }

    /// All containers that run.
    pub fn running(&self) -> Vec<Record> {
        let state = self.state.lock();
        let records = state.containers.values().map(|c| &c.record);
        records.filter(|r| matches!(r.phase, Phase::Running(_))).cloned().collect()
    }

    fn up(&self) -> Result<(), RuntimeError> {
        if self.state.lock().down { Err(RuntimeError::Down("scripted".to_owned())) } else { Ok(()) }
    }

    fn script_of(&self, image: &str) -> Script {
        let state = self.state.lock();
        state.scripts.get(image).cloned().unwrap_or_default()
    }

    async fn end(&self, id: &str, code: i32) {
        let (event, events) = {
            let mut state = self.state.lock();
            let finished_at = self.clock.now();
            let Some(container) = state.containers.get_mut(id) else { return };
            let Phase::Running(since) = container.record.phase else { return };
            let exit = Exit { code, finished_at, oom_killed: false };
            container.record.phase = Phase::Exited(Some(since), exit.clone());
            (RuntimeEvent::Exited { id: id.to_owned(), exit }, state.events.clone())
        };
        if let Some(events) = events {
            // A node that has gone needs no event.
            drop(events.send(event).await);
        }
    }

    fn end_later(&self, id: &str, after: Duration, code: i32) {
        let (this, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            this.end(&id, code).await;
        });
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        self.up().map(|()| "fake://1.0".to_owned())
    }

    fn subscribe(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (tx, rx) = mpsc::channel(super::EVENT_QUEUE);
        // The queue is new and empty.
        drop(tx.try_send(RuntimeEvent::Resync));
        self.state.lock().events = Some(tx);
        rx
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, RuntimeError> {
        self.up()?;
        self.state.lock().sandboxes.insert(spec.pod.uid.clone(), spec.pod.clone());
        Ok(Sandbox { netns: (!spec.host_network).then(|| self.netns_path(&spec.pod)) })
    }

    fn netns_path(&self, pod: &PodIdentity) -> PathBuf {
        PathBuf::from(format!("/run/xebec/netns/{}", pod.uid))
    }

    async fn remove_sandbox(&self, pod: &PodIdentity, _cgroup: &str) -> Result<(), RuntimeError> {
        self.up()?;
        self.state.lock().sandboxes.remove(&pod.uid);
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<String>, RuntimeError> {
        self.up()?;
        Ok(self.state.lock().sandboxes.keys().cloned().collect())
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        self.up()?;
        let script = self.script_of(&spec.image.name);
        if let Some(message) = script.create_error {
            return Err(RuntimeError::Failed(message));
        }
        let record = Record {
            id: spec.id.clone(),
            pod: spec.pod.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            image: spec.image.clone(),
            phase: Phase::Created,
        };
        let running = Running { record, spec: spec.clone(), script, started: None };
        self.state.lock().containers.insert(spec.id.clone(), running);
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<jiff::Timestamp, RuntimeError> {
        self.up()?;
        let script = self
            .state
            .lock()
            .containers
            .get(id)
            .map(|c| c.script.clone())
            .ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
        tokio::time::sleep(script.start_delay).await;
        let now = self.clock.now();
        match self.state.lock().containers.get_mut(id) {
            Some(container) => {
                container.record.phase = Phase::Running(now);
                container.started = Some(Instant::now());
            }
            None => return Err(RuntimeError::NotFound(format!("container {id}"))),
        }
        if let Some((after, code)) = script.exit {
            self.end_later(id, after, code);
        }
        Ok(now)
    }

    async fn signal(&self, id: &str, signal: Option<i32>) -> Result<(), RuntimeError> {
        self.up()?;
        let stop_delay = self.state.lock().containers.get(id).map(|c| c.script.stop_delay);
        match (stop_delay, signal) {
            (None, _) => {}
            (Some(_), Some(libc::SIGKILL)) => self.end(id, 137).await,
            (Some(delay), _) => self.end_later(id, delay, 143),
        }
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.up()?;
        self.end(id, 137).await;
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn inspect(&self, id: &str) -> Result<Record, RuntimeError> {
        self.up()?;
        let state = self.state.lock();
        let found = state.containers.get(id).map(|c| c.record.clone());
        found.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))
    }

    async fn list(&self) -> Result<Vec<Record>, RuntimeError> {
        self.up()?;
        Ok(self.state.lock().containers.values().map(|c| c.record.clone()).collect())
    }

    async fn exec(&self, _id: &str, _spec: ExecSpec) -> Result<ExecStreams, RuntimeError> {
        Err(RuntimeError::Invalid("a simulated container has no processes".to_owned()))
    }

    async fn exec_output(&self, id: &str, _command: &[String], _timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        let state = self.state.lock();
        let container = state.containers.get(id).ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
        let ready = container.started.is_some_and(|t| t.elapsed() >= container.script.ready_delay);
        Ok(ExecOutput { code: i32::from(!ready), output: Vec::new() })
    }

    async fn usage(&self, id: &str) -> Result<Usage, RuntimeError> {
        let state = self.state.lock();
        let container = state.containers.get(id).ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
        // As busy as its weight says: a tenth of what it asked for.
        let ran_ns = container.started.map_or(0, |t| t.elapsed().as_nanos());
        let cpu_ns = ran_ns * u128::from(container.spec.limits.cpu_shares) / 10_240;
        let cpu_ns = u64::try_from(cpu_ns).unwrap_or(u64::MAX);
        Ok(Usage { cpu_ns, memory_working_set_bytes: 1 << 20, processes: 1 })
    }

    async fn disk_usage(&self, _id: &str) -> Result<DiskUsage, RuntimeError> {
        self.up().map(|()| DiskUsage::default())
    }

    async fn node_usage(&self) -> Result<Usage, RuntimeError> {
        let ids: Vec<String> = self.state.lock().containers.keys().cloned().collect();
        let mut sum = Usage::default();
        for id in ids {
            let usage = self.usage(&id).await?;
            sum.cpu_ns += usage.cpu_ns;
            sum.memory_working_set_bytes += usage.memory_working_set_bytes;
            sum.processes += usage.processes;
        }
        Ok(sum)
    }

    async fn stdin(&self, _id: &str, _once: bool) -> Result<mpsc::Sender<Bytes>, RuntimeError> {
        Err(RuntimeError::Invalid("a simulated container has no standard input".to_owned()))
    }

    async fn limit(&self, id: &str, limits: &Limits) -> Result<(), RuntimeError> {
        self.up()?;
        let mut state = self.state.lock();
        let container = state.containers.get_mut(id);
        let container = container.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
        container.spec.limits = limits.clone();
        Ok(())
    }

    async fn limit_sandbox(&self, _cgroup: &str, _limits: &Limits) -> Result<(), RuntimeError> {
        self.up()
    }

    async fn resize(&self, _id: &str, _columns: u16, _rows: u16) -> Result<(), RuntimeError> {
        Ok(())
    }
}

#[async_trait]
impl Images for FakeRuntime {
    async fn find(&self, name: &str) -> Result<Option<LocalImage>, RuntimeError> {
        self.up()?;
        if let Some(image) = self.state.lock().pulled.get(name) {
            return Ok(Some(image.clone()));
        }
        let script = self.script_of(name);
        Ok((script.pull_delay.is_zero() && script.pull_error.is_none()).then(|| image(name)))
    }

    async fn pull(&self, name: &str, _credentials: &[Credentials]) -> Result<LocalImage, RuntimeError> {
        self.up()?;
        let script = self.script_of(name);
        tokio::time::sleep(script.pull_delay).await;
        if let Some(message) = script.pull_error {
            return Err(RuntimeError::Failed(message));
        }
        self.state.lock().pulled.insert(name.to_owned(), image(name));
        Ok(image(name))
    }

    async fn images(&self) -> Result<Vec<(Vec<String>, u64)>, RuntimeError> {
        self.up()?;
        Ok(self.state.lock().pulled.values().map(|i| (vec![i.name.clone()], i.size_bytes)).collect())
    }

    async fn remove(&self, digest: &str) -> Result<(), RuntimeError> {
        self.up()?;
        self.state.lock().pulled.retain(|_, image| image.digest != digest);
        Ok(())
    }

    async fn root(&self) -> Result<PathBuf, RuntimeError> {
        self.up().map(|()| PathBuf::from("/"))
    }

    async fn hold(&self, _key: &str, _image: &LocalImage) -> Result<Vec<Layers>, RuntimeError> {
        self.up().map(|()| Vec::new())
    }

    async fn release(&self, _key: &str) -> Result<(), RuntimeError> {
        self.up()
    }
}

fn image(name: &str) -> LocalImage {
    LocalImage { name: name.to_owned(), id: format!("{name}@sha256:0"), digest: "sha256:0".to_owned(), size_bytes: 1 }
}

#[async_trait]
impl PodNetwork for FakeRuntime {
    async fn setup(&self, pod: &PodIdentity, _netns: &Path) -> Result<PodAddresses, NetworkError> {
        let mut state = self.state.lock();
        if let Some(address) = state.addresses.get(&pod.uid) {
            return Ok(PodAddresses(vec![*address]));
        }
        // Up to 253 of a /24, reused in turn; those in use are skipped.
        for _ in 0..253 {
            state.next_address = state.next_address % 253 + 1;
            let address = IpAddr::V4(Ipv4Addr::from(u32::from(self.pod_network) + state.next_address));
            if !state.addresses.values().any(|a| *a == address) {
                state.addresses.insert(pod.uid.clone(), address);
                return Ok(PodAddresses(vec![address]));
            }
        }
        Err(NetworkError { pod: pod.clone(), message: "no address is free".to_owned() })
    }

    async fn teardown(&self, pod: &PodIdentity, _netns: &Path) -> Result<(), NetworkError> {
        self.state.lock().addresses.remove(&pod.uid);
        Ok(())
    }

    async fn collect(&self, live: &[PodIdentity]) -> Result<(), NetworkError> {
        self.state.lock().addresses.retain(|uid, _| live.iter().any(|p| p.uid == *uid));
        Ok(())
    }
}

#[async_trait]
impl Volumes for FakeRuntime {
    async fn mount(&self, _pod: Arc<Pod>) -> Result<PodVolumes, VolumeError> {
        Ok(PodVolumes::default())
    }

    async fn update(&self, _pod: Arc<Pod>) {}

    async fn image_mount(
        &self,
        _pod: &Pod,
        container: &Container,
        index: usize,
        image: &LocalImage,
        _env: &[(String, String)],
    ) -> Result<Mount, VolumeError> {
        let wanted = container.volume_mounts.get(index).map(|m| m.mount_path.clone()).unwrap_or_default();
        let host = PathBuf::from(format!("/images/{}", image.name));
        Ok(Mount { host, container: wanted, read_only: true, no_exec: true, propagation: "rprivate" })
    }

    async fn unmount(&self, _pod: &PodIdentity) -> Result<(), VolumeError> {
        Ok(())
    }
}

#[async_trait]
impl Prober for FakeRuntime {
    async fn probe(
        &self,
        _handler: &Handler,
        _container: &Container,
        id: &str,
        _address: Option<IpAddr>,
        timeout: Duration,
    ) -> Outcome {
        match self.exec_output(id, &[], timeout).await {
            Ok(ExecOutput { code: 0, .. }) => Outcome::Success,
            Ok(_) => Outcome::Failure("not ready yet (scripted)".to_owned()),
            Err(error) => Outcome::Failure(error.to_string()),
        }
    }
}
