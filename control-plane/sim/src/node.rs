//! A node: the real pod workers over a fake runtime, and the signs of life of an agent.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};
use xebec_controllers::runtime::api::{Api, ApiError, PatchKind};
use xebec_controllers::runtime::kind;
use xebec_node_agent::pods::{Parts, PodManager, PodManagerConfig};
use xebec_node_agent::runtime::fake::FakeRuntime;

use crate::invariants::PODS_PER_NODE;

/// How often a node renews its lease, and how often at least it writes its status (the kubelet's defaults).
const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: u32 = 40;
const STATUS_PERIOD: Duration = Duration::from_secs(300);

/// A running node. Dropped, it is dead: its containers and its agent stop at once, without a word.
pub struct Node {
    /// Its containers; scripts say how they behave.
    pub runtime: FakeRuntime,
    cancel: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Node {
    /// Starts the `number`-th node. `client` is a user who may do everything.
    pub fn start(name: &str, number: usize, client: kube::Client, clock: &Clock, random: &Random) -> Self {
        let cancel = CancellationToken::new();
        let address = IpAddr::V4(Ipv4Addr::from(0xac1e_0000 + u32::try_from(number).unwrap_or_default() + 11));
        // Pod addresses are the fake network's own business; nodes' ranges do not overlap.
        let pods = Ipv4Addr::from(0x0a00_0000 + (u32::try_from(number).unwrap_or_default() << 8));
        let runtime = FakeRuntime::new(clock.clone(), pods);
        let config = PodManagerConfig::simulated(name, address);
        let manager =
            PodManager::new(config, client.clone(), Parts::simulated(&runtime), clock.clone(), random.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(manager.run(cancel.clone()));
        let heart = Heart { api: Api::new(client), clock: clock.clone(), name: name.to_owned(), address };
        tasks.spawn(heart.beat(random.clone()));
        Self { runtime, cancel, _tasks: tasks }
    }
}

/// Registers the node and gives signs of life.
struct Heart {
    api: Api,
    clock: Clock,
    name: String,
    address: IpAddr,
}

impl Heart {
    async fn beat(self, random: Random) {
        let mut status_due = tokio::time::Instant::now();
        loop {
            let outcome = async {
                if status_due <= tokio::time::Instant::now() {
                    self.write_status().await?;
                    status_due = tokio::time::Instant::now() + STATUS_PERIOD;
                }
                self.renew_lease().await
            };
            if let Err(error) = outcome.await {
                tracing::debug!(node = self.name, %error, "no sign of life could be given");
            }
            // Nodes do not all speak at once.
            let wait = LEASE_PERIOD - Duration::from_millis(random.below(400));
            tokio::time::sleep(wait).await;
        }
    }

    fn status(&self) -> Value {
        let now = self.clock.now_seconds();
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": now})
        };
        let room = json!({"cpu": "64", "memory": "256Gi", "ephemeral-storage": "100Gi",
            "pods": PODS_PER_NODE.to_string()});
        json!({
            "addresses": [{"type": "InternalIP", "address": self.address}, {"type": "Hostname", "address": self.name}],
            "capacity": room,
            "allocatable": room,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
        })
    }

    async fn write_status(&self) -> Result<(), ApiError> {
        let status = json!({"status": self.status()});
        let patched = self.api.patch(&kind::NODE, "", &self.name, "status", PatchKind::Strategic, &status).await;
        match patched {
            Err(error) if error.is_not_found() => {}
            other => return other.map(drop),
        }
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name,
            "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"},
            "annotations": {xebec_controllers::persistent_volume::provision::DIRECTORY: "/var/lib/volumes"}},
            "status": self.status()});
        self.api.create(&kind::NODE, "", &node).await?;
        self.api.patch(&kind::NODE, "", &self.name, "status", PatchKind::Strategic, &status).await.map(drop)
    }

    async fn renew_lease(&self) -> Result<(), ApiError> {
        let spec = json!({"holderIdentity": self.name, "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": micro_time(self.clock.now())});
        let patch = json!({"spec": spec});
        let patched = self.api.patch(&kind::LEASE, "kube-node-lease", &self.name, "", PatchKind::Merge, &patch).await;
        match patched {
            Err(error) if error.is_not_found() => {}
            other => return other.map(drop),
        }
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec,
            "metadata": {"name": self.name, "namespace": "kube-node-lease"}});
        self.api.create(&kind::LEASE, "kube-node-lease", &lease).await.map(drop)
    }
}

/// `metav1.MicroTime`.
fn micro_time(now: Timestamp) -> String {
    format!("{now:.6}")
}
