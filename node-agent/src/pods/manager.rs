//! Follows the pods that are bound to the node, and gives each a worker.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};

use super::admission;
use super::context::{Allocatable, Context, Parts};
use super::resize::{Ledger, Resize, Room};
use super::spec::identity;
use super::worker::{INBOX, Input, Worker};
use crate::api::watch::{Change, follow};
use crate::api::{Pod, Rest, Service};
use crate::events::Recorder;
use crate::eviction::Pressure;
use crate::eviction::run::Eviction;
use crate::network::PodIdentity;
use crate::runtime::{Phase, Record, RuntimeEvent};

/// How often devices are looked for that pods had who are gone (upstream's reconcile loop).
const LEFTOVERS_PERIOD: Duration = Duration::from_secs(60);

/// How many pods that have to go may wait to be told. At the limit who sends them away waits.
const EVICTION_QUEUE: usize = 16;

/// How a node runs its pods.
#[derive(Clone, Debug)]
pub struct PodManagerConfig {
    /// The node's name.
    pub node_name: String,
    /// Its address.
    pub host_ip: IpAddr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// What it offers to pods.
    pub allocatable: Allocatable,
    /// Where logs are.
    pub log_root: PathBuf,
    /// How many processes a pod may have.
    pub pod_pids_max: Option<i64>,
    /// Whether events are recorded.
    pub events: bool,
    /// Whether containers are told about services by their environment.
    pub service_links: bool,
    /// What the node is short of.
    pub pressure: watch::Receiver<Pressure>,
}

impl PodManagerConfig {
    /// A node of the simulation: as much as a real one does, but for what would only cost time.
    pub fn simulated(node_name: &str, host_ip: IpAddr) -> Self {
        Self {
            node_name: node_name.to_owned(),
            host_ip,
            cluster_domain: "cluster.local".to_owned(),
            allocatable: Allocatable::default(),
            log_root: PathBuf::from("/var/log/pods"),
            pod_pids_max: None,
            events: true,
            service_links: false,
            // Never: nobody tells it anything.
            pressure: watch::channel(Pressure::default()).1,
        }
    }
}

/// The pods of a node.
pub struct PodManager {
    context: Arc<Context>,
    pods: Pods,
    workers: BTreeMap<String, mpsc::Sender<Input>>,
    tasks: JoinSet<String>,
    /// What was found in the runtime at the start, by pod uid.
    found: BTreeMap<String, Vec<Record>>,
    found_sandboxes: Vec<String>,
    random: Random,
    pressure: watch::Receiver<Pressure>,
    /// Pods that have to go.
    evictions: (mpsc::Sender<Eviction>, mpsc::Receiver<Eviction>),
}

/// The node's pods as the API server knows them, by uid. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pods(Arc<RwLock<BTreeMap<String, Arc<Pod>>>>);

impl Pods {
    /// All of them, by uid.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.0.read().values().cloned().collect()
    }

    /// The namespace of the pod that has `address`; none if none has, or the node's pods do that share its address.
    pub fn namespace_of(&self, address: IpAddr) -> Option<String> {
        let text = address.to_string();
        let pods = self.0.read();
        let has = |pod: &&Arc<Pod>| !pod.spec.host_network && pod.status.pod_ip.as_deref() == Some(&text);
        pods.values().filter(|pod| !pod.status.is_final()).find(has).map(|pod| pod.metadata.namespace.clone())
    }

    /// The pod of that name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.0.read().values().find(|p| p.metadata.namespace == namespace && p.metadata.name == name).cloned()
    }
}

impl PodManager {
    /// Over `parts`; follows the API with `client`. Begins nothing yet.
    pub fn new(config: PodManagerConfig, client: kube::Client, parts: Parts, clock: Clock, random: Random) -> Self {
        let rest = Rest::new(client);
        let events = if config.events {
            Recorder::start(rest.clone(), &config.node_name, clock.clone())
        } else {
            Recorder::disabled()
        };
        let context = Context {
            node_name: config.node_name,
            host_ip: config.host_ip,
            cluster_domain: config.cluster_domain,
            allocatable: config.allocatable,
            log_root: config.log_root,
            pod_pids_max: config.pod_pids_max,
            rest,
            parts,
            events,
            clock,
            random: random.clone(),
            services: config.service_links.then(Arc::default),
            ledger: Ledger::default(),
            owners: Mutex::default(),
            latest: Mutex::default(),
        };
        Self {
            context: Arc::new(context),
            pods: Pods::default(),
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            found: BTreeMap::new(),
            found_sandboxes: Vec::new(),
            random,
            pressure: config.pressure,
            evictions: mpsc::channel(EVICTION_QUEUE),
        }
    }

    /// What its workers share.
    pub fn context(&self) -> Arc<Context> {
        Arc::clone(&self.context)
    }

    /// Takes pods that have to go.
    pub fn evictions(&self) -> mpsc::Sender<Eviction> {
        self.evictions.0.clone()
    }

    /// The pods, kept up to date.
    pub fn pods(&self) -> Pods {
        self.pods.clone()
    }

    /// Runs the node's pods until `cancel`. Containers go on then.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut runtime_events = self.context.parts.runtime.subscribe();
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = self.take_stock() => {}
        }
        let mut services = self.follow_services();
        let (tx, mut changes) = mpsc::channel(64);
        let query = format!("fieldSelector=spec.nodeName%3D{}", self.context.node_name);
        let rest = self.context.rest.clone();
        tokio::spawn(follow::<Pod>(rest, "/api/v1/pods".to_owned(), query, self.random.clone(), tx));
        let mut first = true;
        let mut leftovers = tokio::time::interval(LEFTOVERS_PERIOD);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(eviction) = self.evictions.1.recv() => {
                    if let Some(worker) = self.workers.get(&eviction.uid) {
                        // A worker that has ended has no pod to send away.
                        drop(worker.send(Input::Evicted(eviction.why)).await);
                    }
                }
                Some(event) = runtime_events.recv() => self.runtime_event(event).await,
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(uid) = ended {
                        self.workers.remove(&uid);
                    }
                }
                _ = leftovers.tick(), if !first => self.collect_devices(),
                Some(change) = services.recv() => {
                    if let Some(view) = &self.context.services {
                        view.write().apply(change);
                    }
                }
                change = changes.recv() => {
                    let Some(change) = change else { return };
                    self.pods_changed(change).await;
                    if std::mem::take(&mut first) {
                        self.collect().await;
                    }
                }
            }
        }
    }

    /// Asks the runtime what is there, until it answers.
    async fn take_stock(&mut self) {
        let runtime = &self.context.parts.runtime;
        let mut delay = Duration::from_millis(100);
        loop {
            match (runtime.list().await, runtime.sandboxes().await) {
                (Ok(records), Ok(sandboxes)) => {
                    for record in records {
                        // One that was created, but not started, when the agent went away: nobody waits for it.
                        if record.phase == Phase::Created {
                            drop(runtime.remove(&record.id).await);
                            continue;
                        }
                        self.context.owners.lock().insert(record.id.clone(), record.pod.uid.clone());
                        self.found.entry(record.pod.uid.clone()).or_default().push(record);
                    }
                    self.found_sandboxes = sandboxes;
                    return;
                }
                (Err(error), _) | (_, Err(error)) => {
                    tracing::warn!(%error, "waiting for the container runtime");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    fn follow_services(&self) -> mpsc::Receiver<Change<Service>> {
        let (tx, rx) = mpsc::channel(16);
        if self.context.services.is_some() {
            let rest = self.context.rest.clone();
            let path = "/api/v1/services".to_owned();
            tokio::spawn(follow::<Service>(rest, path, String::new(), self.random.clone(), tx));
        }
        rx
    }

    async fn pods_changed(&mut self, change: Change<Pod>) {
        match change {
            Change::All(all) => {
                let gone: Vec<Arc<Pod>> = {
                    let pods = self.pods.0.read();
                    pods.values().filter(|p| !all.iter().any(|a| a.metadata.uid == p.metadata.uid)).cloned().collect()
                };
                for pod in gone {
                    self.pod_gone(&pod).await;
                }
                let mut all = all;
                // Admission is by age: the older pod keeps its place.
                all.sort_by(|a, b| {
                    (a.metadata.creation_timestamp, &a.metadata.uid)
                        .cmp(&(b.metadata.creation_timestamp, &b.metadata.uid))
                });
                for pod in all {
                    self.pod_changed(pod).await;
                }
            }
            Change::Put(pod) => self.pod_changed(pod).await,
            Change::Gone(pod) => self.pod_gone(&pod).await,
        }
    }

    async fn pod_changed(&mut self, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone();
        // A watch with a field selector may tell of a pod that is not ours only by its end.
        if pod.spec.node_name != self.context.node_name {
            return;
        }
        if pod.status.is_final() {
            self.context.ledger.remove(&uid);
        }
        if let Some(worker) = self.workers.get(&uid) {
            self.pods.0.write().insert(uid, Arc::clone(&pod));
            // A worker that has ended is taken off the list on the next turn.
            drop(worker.send(Input::Pod(pod)).await);
            return;
        }
        let records = self.found.remove(&uid).unwrap_or_default();
        let rejected = if records.is_empty() { self.admit(&pod) } else { None };
        if let Some(rejection) = &rejected {
            let about = crate::events::About::pod(&pod);
            self.context.events.warning(about, &rejection.reason, rejection.message.clone());
        }
        if rejected.is_none() && !pod.status.is_final() {
            self.context.ledger.set(&uid, Room::of(&Resize::of(&pod).granted_to(&pod).spec));
        }
        self.pods.0.write().insert(uid.clone(), Arc::clone(&pod));
        let (tx, inbox) = mpsc::channel(INBOX);
        self.workers.insert(uid.clone(), tx);
        let worker = Worker::new(Arc::clone(&self.context), pod, records, rejected, inbox);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }

    /// Whether there is room for a pod that is new here.
    fn admit(&self, pod: &Pod) -> Option<super::state::Rejection> {
        let has_run = pod.status.container_statuses.iter().any(|s| s.container_id.is_some());
        if has_run || pod.status.is_final() || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let pods = self.pods.0.read();
        let others = pods.values().filter(|p| !p.status.is_final() && p.metadata.uid != pod.metadata.uid);
        let used = self.context.ledger.others(&pod.metadata.uid);
        admission::admit(pod, others.map(|p| &**p), used, &self.context.allocatable, *self.pressure.borrow())
    }

    async fn pod_gone(&mut self, pod: &Pod) {
        let uid = &pod.metadata.uid;
        self.pods.0.write().remove(uid);
        self.context.ledger.remove(uid);
        if let Some(worker) = self.workers.get(uid) {
            // A worker that has ended has nothing left to clean up.
            drop(worker.send(Input::Removed).await);
        }
    }

    async fn runtime_event(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Exited { id, exit } => {
                let uid = self.context.owners.lock().get(&id).cloned();
                if let Some(worker) = uid.and_then(|uid| self.workers.get(&uid)) {
                    // A worker that has ended does not care.
                    drop(worker.send(Input::Exited { id, exit }).await);
                }
            }
            RuntimeEvent::Resync => {
                for worker in self.workers.values() {
                    drop(worker.send(Input::Resync).await);
                }
            }
            RuntimeEvent::Down => tracing::warn!("the container runtime does not answer"),
        }
    }

    /// Has devices given back that pods had who are gone: their drivers may have been away then.
    fn collect_devices(&self) {
        let known = |uid: &String| PodIdentity { namespace: String::new(), name: String::new(), uid: uid.clone() };
        let mut live: Vec<PodIdentity> = self.workers.keys().map(known).collect();
        live.extend(self.pods.all().iter().map(|pod| identity(pod)));
        let devices = Arc::clone(&self.context.parts.devices);
        tokio::spawn(async move { devices.collect(&live).await });
    }

    /// Removes what is on the node and belongs to no pod: they went while the agent was away.
    async fn collect(&mut self) {
        let parts = &self.context.parts;
        for record in std::mem::take(&mut self.found).into_values().flatten() {
            tracing::info!(container = %record.name, pod = %record.pod.name, "removing a container without a pod");
            if let Err(error) = parts.runtime.remove(&record.id).await {
                tracing::warn!(id = %record.id, %error, "cannot remove it");
            }
            drop(parts.volumes.unmount(&record.pod).await);
            drop(parts.volumes.forget(&record.pod).await);
        }
        let live: Vec<PodIdentity> = self.pods.all().iter().map(|p| identity(p)).collect();
        for uid in std::mem::take(&mut self.found_sandboxes) {
            if live.iter().any(|p| p.uid == uid) {
                continue;
            }
            let pod = PodIdentity { namespace: String::new(), name: String::new(), uid };
            for cgroup in ["", "burstable/", "besteffort/"] {
                drop(parts.runtime.remove_sandbox(&pod, &format!("{cgroup}pod{}", pod.uid)).await);
            }
        }
        if let Err(error) = parts.network.collect(&live).await {
            tracing::warn!(%error, "cannot clean up after pods that are gone");
        }
        if let Err(error) = parts.volumes.collect(&live).await {
            tracing::warn!(%error, "cannot remove the files of pods that are gone");
        }
    }
}

impl std::fmt::Debug for PodManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PodManager({}, {} pods)", self.context.node_name, self.workers.len())
    }
}

#[cfg(test)]
mod tests;
