//! Connects pods: an address from the node's range, a veth pair, the datapath's program on it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use xebec_cni::connect::{self, Connection, host_interface};
use xebec_cni::ipam::{self, Pool};
use xebec_ebpf_loader::layout::{Addr, LocalPod};
use xebec_ebpf_loader::{Datapath, Table};

use super::{NetworkError, PodAddresses, PodIdentity, PodNetwork};

/// The name of a pod's interface in its namespace.
const POD_INTERFACE: &str = "eth0";

/// The pods of this node.
pub struct NodeNetwork(Arc<Inner>);

struct Inner {
    pool: Pool,
    mtu: u32,
    node: Ipv4Addr,
    kernel: Mutex<Kernel>,
}

/// What is in the kernel for pods; one at a time changes it.
struct Kernel {
    datapath: Datapath,
    local_pods: Table<Addr, LocalPod>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Lease(#[from] ipam::Error),
    #[error(transparent)]
    Connect(#[from] connect::Error),
    #[error(transparent)]
    Datapath(#[from] xebec_ebpf_loader::Error),
}

impl NodeNetwork {
    /// Over a loaded datapath. `node` is the node's own address, `mtu` the largest packet of pods in bytes of IP.
    pub fn new(pool: Pool, mtu: u32, node: Ipv4Addr, datapath: Datapath, local_pods: Table<Addr, LocalPod>) -> Self {
        let kernel = Mutex::new(Kernel { datapath, local_pods });
        Self(Arc::new(Inner { pool, mtu, node, kernel }))
    }

    /// Runs a step of some milliseconds where it holds nobody up.
    async fn blocking<T: Send + 'static>(
        &self,
        pod: &PodIdentity,
        step: impl FnOnce(&Inner) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let inner = Arc::clone(&self.0);
        let failed = |message: String| NetworkError { pod: pod.clone(), message };
        match tokio::task::spawn_blocking(move || step(&inner)).await {
            Ok(result) => result.map_err(|error| failed(error.to_string())),
            Err(error) => Err(failed(format!("the network step died: {error}"))),
        }
    }
}

#[async_trait]
impl PodNetwork for NodeNetwork {
    async fn setup(&self, pod: &PodIdentity, netns: &Path) -> Result<PodAddresses, NetworkError> {
        let (uid, netns) = (pod.uid.clone(), netns.to_owned());
        self.blocking(pod, move |inner| inner.set_up(&uid, netns)).await
    }

    async fn teardown(&self, pod: &PodIdentity, _netns: &Path) -> Result<(), NetworkError> {
        let uid = pod.uid.clone();
        self.blocking(pod, move |inner| inner.tear_down(&uid)).await
    }

    async fn collect(&self, live: &[PodIdentity]) -> Result<(), NetworkError> {
        let uids: BTreeSet<String> = live.iter().map(|pod| pod.uid.clone()).collect();
        let nobody = PodIdentity { namespace: String::new(), name: String::new(), uid: String::new() };
        self.blocking(&nobody, move |inner| inner.collect(&uids)).await
    }
}

impl Inner {
    fn set_up(&self, uid: &str, netns: PathBuf) -> Result<PodAddresses, Failure> {
        let address = self.pool.lease(uid)?;
        let host_interface = host_interface(uid);
        let connection = Connection {
            host_interface: &host_interface,
            pod_interface: POD_INTERFACE,
            netns: &netns,
            address,
            mtu: self.mtu,
            node: Some(self.node),
        };
        let connected = connection.connect()?;
        let entry = LocalPod {
            ifindex: connected.host_index,
            mac: connected.pod_mac,
            host_mac: connected.host_mac,
            ..LocalPod::NOWHERE
        };
        let mut kernel = self.kernel.lock();
        // The entry first: the program lets nothing out from an address it does not know.
        kernel.local_pods.insert(&address.into(), &entry)?;
        kernel.datapath.attach_pod(&host_interface, connected.host_index)?;
        Ok(PodAddresses(vec![IpAddr::V4(address)]))
    }

    /// The lease last: it is what a later collection finds the rest by.
    fn tear_down(&self, uid: &str) -> Result<(), Failure> {
        let host_interface = host_interface(uid);
        if let Some(address) = self.pool.find(uid)? {
            self.kernel.lock().local_pods.remove(&address.into())?;
        }
        connect::disconnect(&host_interface)?;
        self.kernel.lock().datapath.detach_pod(&host_interface)?;
        self.pool.release(uid)?;
        Ok(())
    }

    fn collect(&self, live: &BTreeSet<String>) -> Result<(), Failure> {
        let leases = self.pool.leases()?;
        for lease in leases.iter().filter(|lease| !live.contains(&lease.owner)) {
            tracing::info!(address = %lease.address, uid = %lease.owner, "taking back the address of a pod that is gone");
            self.tear_down(&lease.owner)?;
        }
        let kept: BTreeSet<Addr> =
            leases.iter().filter(|l| live.contains(&l.owner)).map(|l| l.address.into()).collect();
        let interfaces: BTreeSet<String> = live.iter().map(|uid| host_interface(uid)).collect();
        let mut kernel = self.kernel.lock();
        for (address, _) in kernel.local_pods.entries()? {
            if !kept.contains(&address) {
                kernel.local_pods.remove(&address)?;
            }
        }
        for interface in kernel.datapath.pod_interfaces()? {
            if !interfaces.contains(&interface) {
                kernel.datapath.detach_pod(&interface)?;
            }
        }
        Ok(())
    }
}
