//! Connects pods: an address from the node's range, a veth pair, the datapath's programs and the pod's policies on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use xebec_cni::connect::{self, Connection, host_interface};
use xebec_cni::ipam::{self, Lease, Pool};
use xebec_ebpf_loader::layout::{Addr, LocalPod};
use xebec_ebpf_loader::{Datapath, Table, kernel_clock_s};

use super::setup::NetworkConfig6;
use super::{NetworkError, PodAddresses, PodIdentity, PodNetwork};
use crate::policy::Gate;
use crate::policy::sync::Subjects;
use crate::policy::world::Sets;

/// The name of a pod's interface in its namespace.
const POD_INTERFACE: &str = "eth0";

/// The pods of this node.
pub struct NodeNetwork {
    inner: Arc<Inner>,
    gate: Gate,
}

/// The families that pods have addresses of.
#[derive(Clone, Copy, Debug)]
pub struct Families {
    /// The node's own address. None if there is no IPv4: then a lease is a number that the pod's IPv6 address goes with.
    pub node: Option<Ipv4Addr>,
    /// What there is of IPv6.
    pub v6: Option<NetworkConfig6>,
    /// Whether that comes first.
    pub v6_first: bool,
}

struct Inner {
    pool: Pool,
    mtu: u32,
    families: Families,
    kernel: Mutex<Kernel>,
}

/// What is in the kernel for pods; one at a time changes it.
struct Kernel {
    datapath: Datapath,
    local_pods: Table<Addr, LocalPod>,
    /// Pods that policies select, by uid, connected or about to be.
    isolated: BTreeMap<String, Sets>,
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
    /// Over a loaded datapath. `mtu` is the largest packet of pods in bytes of IP; `gate` says when a pod's policies are
    /// known.
    pub fn new(
        pool: Pool,
        mtu: u32,
        families: Families,
        datapath: Datapath,
        local_pods: Table<Addr, LocalPod>,
        gate: Gate,
    ) -> Self {
        let kernel = Mutex::new(Kernel { datapath, local_pods, isolated: BTreeMap::new() });
        Self { inner: Arc::new(Inner { pool, mtu, families, kernel }), gate }
    }

    /// Runs a step of some milliseconds where it holds nobody up.
    async fn blocking<T: Send + 'static>(
        &self,
        pod: &PodIdentity,
        step: impl FnOnce(&Inner) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let inner = Arc::clone(&self.inner);
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
        self.gate.pass(pod).await.map_err(|message| NetworkError { pod: pod.clone(), message })?;
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
    /// The IPv6 address that goes with a lease.
    fn address6(&self, lease: Ipv4Addr) -> Option<Ipv6Addr> {
        self.families.v6.map(|v6| self.pool.paired(lease, v6.pod_cidr))
    }

    /// All addresses of the pod that has this lease, the preferred one first. Never empty: there is one family at least.
    fn addresses(&self, lease: Ipv4Addr) -> Vec<IpAddr> {
        let (v4, v6) = (self.families.node.map(|_| IpAddr::V4(lease)), self.address6(lease).map(IpAddr::V6));
        let in_order = if self.families.v6_first { [v6, v4] } else { [v4, v6] };
        in_order.into_iter().flatten().collect()
    }

    /// What the kernel knows of the pod that has this lease.
    fn local_pod(&self, kernel: &Kernel, lease: Ipv4Addr) -> Result<Option<LocalPod>, Failure> {
        let Some(address) = self.addresses(lease).first().copied() else { return Ok(None) };
        Ok(kernel.local_pods.get(&address.into())?)
    }

    fn set_up(&self, uid: &str, netns: PathBuf) -> Result<PodAddresses, Failure> {
        let address = self.pool.lease(uid)?;
        let host_interface = host_interface(uid);
        let connection = Connection {
            host_interface: &host_interface,
            pod_interface: POD_INTERFACE,
            netns: &netns,
            address,
            has_v4: self.families.node.is_some(),
            mtu: self.mtu,
            node: self.families.node,
        };
        let connected = connection.create()?;
        let (ifindex, mac, host_mac) = (connected.host_index, connected.pod_mac, connected.host_mac);
        {
            let mut kernel = self.kernel.lock();
            let sets = kernel.isolated.get(uid).copied().unwrap_or_default();
            // A pod that is set up again may have been isolated while it ran.
            let before = self.local_pod(&kernel, address)?.filter(|before| before.ifindex == ifindex);
            let entry = LocalPod {
                ifindex,
                mac,
                host_mac,
                isolated_at_s: before.map_or(0, |before| before.isolated_at_s),
                ingress: sets.ingress.0,
                egress: sets.egress.0,
                ..LocalPod::NOWHERE
            };
            // The entry first: the program lets nothing out from an address it does not know. And both before the pod
            // can send or get a packet.
            for addr in self.addresses(address) {
                kernel.local_pods.insert(&addr.into(), &entry)?;
            }
            kernel.datapath.attach_pod(&host_interface, connected.host_index)?;
        }
        connection.bring_up()?;
        if let (Some(v6), Some(second)) = (self.families.v6, self.address6(address)) {
            connect::v6::connect(&connection, second, v6.node_address)?;
        }
        Ok(PodAddresses(self.addresses(address)))
    }

    /// The lease last: it is what a later collection finds the rest by.
    fn tear_down(&self, uid: &str) -> Result<(), Failure> {
        let host_interface = host_interface(uid);
        if let Some(address) = self.pool.find(uid)? {
            let mut kernel = self.kernel.lock();
            for addr in self.addresses(address) {
                kernel.local_pods.remove(&addr.into())?;
            }
        }
        connect::disconnect(&host_interface)?;
        let mut kernel = self.kernel.lock();
        kernel.datapath.detach_pod(&host_interface)?;
        kernel.isolated.remove(uid);
        drop(kernel);
        self.pool.release(uid)?;
        Ok(())
    }

    fn collect(&self, live: &BTreeSet<String>) -> Result<(), Failure> {
        let leases = self.pool.leases()?;
        for lease in leases.iter().filter(|lease| !live.contains(&lease.owner)) {
            tracing::info!(address = %lease.address, uid = %lease.owner, "taking back the address of a pod that is gone");
            self.tear_down(&lease.owner)?;
        }
        let lives = leases.iter().filter(|l| live.contains(&l.owner));
        let kept: BTreeSet<Addr> = lives.flat_map(|l| self.addresses(l.address)).map(Addr::from).collect();
        let interfaces: BTreeSet<String> = live.iter().map(|uid| host_interface(uid)).collect();
        let mut kernel = self.kernel.lock();
        kernel.isolated.retain(|uid, _| live.contains(uid));
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

impl Subjects for NodeNetwork {
    fn put(&self, uid: &str, sets: Sets) -> Result<(), String> {
        self.inner.put_sets(uid, sets).map_err(|error| error.to_string())
    }

    fn isolated(&self) -> Result<BTreeSet<String>, String> {
        let leases = self.inner.pool.leases().map_err(|error| error.to_string())?;
        let entries = self.inner.kernel.lock().local_pods.entries().map_err(|error| error.to_string())?;
        let isolated: BTreeSet<Addr> =
            entries.into_iter().filter(|(_, pod)| pod.is_isolated()).map(|(addr, _)| addr).collect();
        let is_isolated = |lease: &Lease| {
            self.inner.addresses(lease.address).iter().any(|address| isolated.contains(&(*address).into()))
        };
        Ok(leases.into_iter().filter(is_isolated).map(|lease| lease.owner).collect())
    }
}

impl Inner {
    /// Puts a pod under rule sets. One that is not connected yet finds them when it is.
    fn put_sets(&self, uid: &str, sets: Sets) -> Result<(), Failure> {
        let mut kernel = self.kernel.lock();
        if sets == Sets::default() {
            kernel.isolated.remove(uid);
        } else {
            kernel.isolated.insert(uid.to_owned(), sets);
        }
        let Some(address) = self.pool.find(uid)? else { return Ok(()) };
        let Some(before) = self.local_pod(&kernel, address)? else { return Ok(()) };
        let mut pod = LocalPod { ingress: sets.ingress.0, egress: sets.egress.0, ..before };
        if !pod.is_isolated() {
            pod.isolated_at_s = 0;
        } else if !before.is_isolated() {
            // It has connections that nobody remembers.
            pod.isolated_at_s = kernel_clock_s();
        }
        if pod != before {
            for addr in self.addresses(address) {
                kernel.local_pods.insert(&addr.into(), &pod)?;
            }
        }
        Ok(())
    }
}
