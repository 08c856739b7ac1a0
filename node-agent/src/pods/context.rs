//! What the workers of a node share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use xebec_clock::{Clock, Random};

use super::env::{Facts, Sources};
use super::resize::Ledger;
use crate::api::pod::Container;
use crate::api::watch::View;
use crate::api::{ApiError, ConfigMap, Pod, Rest, Secret, Service};
use crate::devices::{Devices, NoDevices};
use crate::drain::{NoServices, Services};
use crate::events::Recorder;
use crate::network::{PodIdentity, PodNetwork};
use crate::news::tell;
use crate::probes::Prober;
use crate::runtime::{Images, Runtime};
use crate::volumes::Volumes;

/// What a node offers to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocatable {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// How many pods.
    pub pods: i64,
}

impl Default for Allocatable {
    fn default() -> Self {
        Self { cpu_milli: i64::MAX / 2, memory_bytes: i64::MAX / 2, pods: 110 }
    }
}

/// The node's parts that carry out what workers want.
#[derive(Clone)]
pub struct Parts {
    /// Runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Has images.
    pub images: Arc<dyn Images>,
    /// Connects pods.
    pub network: Arc<dyn PodNetwork>,
    /// Makes their files.
    pub volumes: Arc<dyn Volumes>,
    /// Probes them.
    pub prober: Arc<dyn Prober>,
    /// Sends them connections, and lets go of them before they stop.
    pub services: Arc<dyn Services>,
    /// Makes the devices usable that they claim.
    pub devices: Arc<dyn Devices>,
}

impl Parts {
    /// All of them simulated by `fake`.
    pub fn simulated(fake: &crate::runtime::fake::FakeRuntime) -> Self {
        let fake = Arc::new(fake.clone());
        Self {
            runtime: Arc::clone(&fake) as Arc<dyn Runtime>,
            images: Arc::clone(&fake) as Arc<dyn Images>,
            network: Arc::clone(&fake) as Arc<dyn PodNetwork>,
            volumes: Arc::clone(&fake) as Arc<dyn Volumes>,
            prober: fake,
            services: Arc::new(NoServices),
            devices: Arc::new(NoDevices),
        }
    }
}

/// What the workers of a node share.
pub struct Context {
    /// The node's name.
    pub node_name: String,
    /// Its address.
    pub host_ip: IpAddr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// What it offers.
    pub allocatable: Allocatable,
    /// Logs are in `<this>/<namespace>_<name>_<uid>/<container>/<attempt>.log`.
    pub log_root: PathBuf,
    /// How many processes a pod may have.
    pub pod_pids_max: Option<i64>,
    /// The API.
    pub rest: Rest,
    /// Carries things out.
    pub parts: Parts,
    /// Takes events.
    pub events: Recorder,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// The services that containers are told about; none: they are told about none.
    pub services: Option<Arc<RwLock<View<Service>>>>,
    /// What pods have been granted.
    pub ledger: Ledger,
    /// Which pod a container id belongs to: its uid.
    pub owners: Mutex<BTreeMap<String, String>>,
    /// The latest containers, by pod uid and name.
    pub latest: Mutex<BTreeMap<(String, String), watch::Sender<Latest>>>,
}

/// The latest container of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latest {
    /// Its id.
    pub id: String,
    /// How many there were before it.
    pub attempt: u32,
    /// Whether it runs.
    pub running: bool,
}

impl Context {
    /// Where a container's log is.
    pub fn log_path(&self, pod: &PodIdentity, container: &str, attempt: u32) -> PathBuf {
        self.log_root
            .join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
            .join(container)
            .join(format!("{attempt}.log"))
    }

    /// Tells those who look at a container (streams, mostly) what it does.
    pub fn tell_latest(&self, uid: &str, container: &str, latest: Latest) {
        let mut all = self.latest.lock();
        let sender = all.entry((uid.to_owned(), container.to_owned())).or_default();
        tell(sender, latest);
    }

    /// Forgets the containers of a pod.
    pub fn forget_latest(&self, uid: &str) {
        self.latest.lock().retain(|(pod, _), _| pod != uid);
    }

    /// What the latest container of a name does, and will do.
    pub fn latest(&self, uid: &str, container: &str) -> Option<watch::Receiver<Latest>> {
        let all = self.latest.lock();
        all.get(&(uid.to_owned(), container.to_owned())).map(watch::Sender::subscribe)
    }

    /// What variables and files may be told about the pod.
    pub fn facts(&self, addresses: &[IpAddr]) -> Facts {
        Facts {
            addresses: addresses.to_vec(),
            host_ip: self.host_ip,
            allocatable_cpu_milli: self.allocatable.cpu_milli,
            allocatable_memory_bytes: self.allocatable.memory_bytes,
        }
    }

    /// Reads what a container's variables refer to.
    pub async fn sources(&self, pod: &Pod, container: &Container) -> Result<Sources, ApiError> {
        let (config_maps, secrets) = super::env::references(container);
        let namespace = &pod.metadata.namespace;
        let mut sources = Sources::default();
        for name in config_maps {
            let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
            let found = optional(self.rest.get::<ConfigMap>(&path).await)?;
            sources.config_maps.insert(name, found);
        }
        for name in secrets {
            let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
            let found = optional(self.rest.get::<Secret>(&path).await)?;
            sources.secrets.insert(name, found);
        }
        if let Some(services) = &self.services {
            let view = services.read();
            // The API server is told to all, the namespace's own services unless the pod says no.
            sources.services.extend(view.get("default", "kubernetes").map(|s| (**s).clone()));
            if pod.spec.enable_service_links != Some(false) {
                let own = view
                    .namespace(namespace)
                    .filter(|s| !(s.metadata.namespace == "default" && s.metadata.name == "kubernetes"));
                sources.services.extend(own.map(|s| (**s).clone()));
            }
        }
        Ok(sources)
    }

    /// The credentials that a pod brings for its images.
    pub async fn pull_secrets(&self, pod: &Pod) -> Vec<Secret> {
        let mut secrets = Vec::new();
        for reference in &pod.spec.image_pull_secrets {
            let path = format!("/api/v1/namespaces/{}/secrets/{}", pod.metadata.namespace, reference.name);
            match self.rest.get::<Secret>(&path).await {
                Ok(secret) => secrets.push(secret),
                Err(error) => {
                    tracing::debug!(secret = %reference.name, %error, "image pull secret not read");
                    self.events.warning(
                        crate::events::About::pod(pod),
                        "FailedToRetrieveImagePullSecret",
                        format!(
                            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                            reference.name
                        ),
                    );
                }
            }
        }
        secrets
    }
}

fn optional<T>(result: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
