//! Has drivers prepare what pods claim, and remembers what they did (upstream `pkg/kubelet/cm/dra/manager.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;

use super::cdi::{self, ContainerEdits};
use super::plugins::{Plugin, Plugins};
use super::prepared::{Claim, State, StateError};
use super::{Devices, rpc};
use crate::api::pod::{Container, PodClaim};
use crate::api::{Meta, Pod, Rest};
use crate::network::PodIdentity;

/// Has drivers prepare what pods claim.
pub struct DeviceManager {
    rest: Rest,
    plugins: Plugins,
    cdi: Vec<PathBuf>,
    state: Mutex<State>,
}

/// `ResourceClaim`, as far as it is read here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ResourceClaim {
    metadata: ClaimMeta,
    status: ClaimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimMeta {
    namespace: String,
    name: String,
    uid: String,
    owner_references: Vec<Owner>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    uid: String,
    controller: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimStatus {
    allocation: Option<Allocation>,
    reserved_for: Vec<Consumer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Consumer {
    uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Allocation {
    devices: AllocatedDevices,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AllocatedDevices {
    results: Vec<AllocatedDevice>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AllocatedDevice {
    driver: String,
}

/// A pod's status, as far as it says which claims were made for it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct MadeFor {
    metadata: Meta,
    status: MadeClaims,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MadeClaims {
    resource_claim_statuses: Vec<MadeClaim>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MadeClaim {
    name: String,
    resource_claim_name: Option<String>,
}

/// What is to be prepared of a pod: its claims, what the pod calls them, and their drivers.
type Wanted = Vec<(PodClaim, ResourceClaim, BTreeMap<String, Plugin>)>;

impl DeviceManager {
    /// Over `plugins`; what is prepared is in the file `state`, and what containers get in the directories of `cdi`.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn new(rest: Rest, plugins: Plugins, cdi: Vec<PathBuf>, state: PathBuf) -> Result<Self, StateError> {
        Ok(Self { rest, plugins, cdi, state: Mutex::new(State::load(state)?) })
    }

    /// Looks up what a pod claims. Nothing is noted yet: a pod whose drivers are not there can go without them.
    async fn wanted(&self, pod: &Pod) -> Result<Wanted, String> {
        let meta = &pod.metadata;
        let (namespace, name) = (&meta.namespace, &meta.name);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let now: MadeFor = self.rest.get(&path).await.map_err(|e| format!("fetch Pod {namespace}/{name}: {e}"))?;
        if now.metadata.uid != meta.uid {
            return Err(format!("pod \"{namespace}/{name}\" has been replaced"));
        }
        let mut wanted = Wanted::new();
        for pod_claim in &pod.spec.resource_claims {
            let made = now.status.resource_claim_statuses.iter().find(|made| made.name == pod_claim.name);
            let (claim, own) = match (&pod_claim.resource_claim_name, made) {
                (Some(claim), _) => (claim, false),
                (None, None) => return Err(format!("pod \"{namespace}/{name}\": ResourceClaim not created yet")),
                (None, Some(made)) => match &made.resource_claim_name {
                    Some(claim) => (claim, true),
                    None => continue,
                },
            };
            let path = format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{claim}");
            let claim: ResourceClaim =
                self.rest.get(&path).await.map_err(|e| format!("fetch ResourceClaim {claim}: {e}"))?;
            check(pod, &claim, own)?;
            let mut drivers = BTreeMap::new();
            for device in claim.status.allocation.iter().flat_map(|allocation| &allocation.devices.results) {
                if !drivers.contains_key(&device.driver) {
                    drivers.insert(device.driver.clone(), self.plugins.get(&device.driver).await?);
                }
            }
            wanted.push((pod_claim.clone(), claim, drivers));
        }
        Ok(wanted)
    }

    /// Notes that a pod uses its claims; what is still to be prepared, by driver.
    fn note(&self, pod: &Pod, wanted: &Wanted) -> Result<BTreeMap<String, Vec<rpc::Claim>>, String> {
        let mut state = self.state.lock();
        let mut batches: BTreeMap<String, Vec<rpc::Claim>> = BTreeMap::new();
        for (pod_claim, claim, drivers) in wanted {
            let ClaimMeta { namespace, name, uid, .. } = &claim.metadata;
            let known = state.claims.entry((namespace.clone(), name.clone())).or_insert_with(|| Claim {
                namespace: namespace.clone(),
                name: name.clone(),
                uid: uid.clone(),
                drivers: drivers.keys().map(|driver| (driver.clone(), Vec::new())).collect(),
                ..Claim::default()
            });
            if known.uid != *uid {
                let old = &known.uid;
                return Err(format!(
                    "old ResourceClaim with same name {name} and different UID {old} still exists (previous pod \
                     force-deleted?!)"
                ));
            }
            known.pods.entry(pod.metadata.uid.clone()).or_default().insert(pod_claim.name.clone());
            if !known.prepared {
                for driver in drivers.keys() {
                    let batch = batches.entry(driver.clone()).or_default();
                    if !batch.iter().any(|claim| claim.uid == *uid) {
                        batch.push(known.message());
                    }
                }
            }
        }
        state.save().map_err(|e| format!("checkpoint ResourceClaim cache: {e}"))?;
        Ok(batches)
    }

    /// Has a driver prepare claims.
    async fn ask(&self, plugin: &Plugin, claims: Vec<rpc::Claim>) -> Result<(), String> {
        let count = claims.len();
        let answer = plugin.connection.prepare(plugin.service, claims.clone()).await;
        let answer = answer.map_err(|e| format!("NodePrepareResources: {e}"))?;
        let mut answered = 0;
        for (uid, result) in answer.claims {
            let Some(claim) = claims.iter().find(|claim| claim.uid == uid) else {
                return Err(format!("NodePrepareResources returned result for unknown claim UID {uid}"));
            };
            if !result.error.is_empty() {
                let (name, error) = (&claim.name, &result.error);
                return Err(format!("NodePrepareResources failed for ResourceClaim {name}: {error}"));
            }
            answered += 1;
            let mut state = self.state.lock();
            let known = state.claims.get_mut(&(claim.namespace.clone(), claim.name.clone()));
            if let Some(known) = known.filter(|known| known.uid == uid) {
                let devices = result.devices.into_iter().map(Into::into).collect();
                known.drivers.insert(plugin.driver.clone(), devices);
            }
        }
        match count - answered {
            0 => Ok(()),
            skipped => Err(format!("NodePrepareResources skipped {skipped} ResourceClaims")),
        }
    }

    async fn try_prepare(&self, pod: &Pod) -> Result<(), String> {
        let wanted = self.wanted(pod).await?;
        let batches = self.note(pod, &wanted)?;
        let plugins: BTreeMap<&String, &Plugin> = wanted.iter().flat_map(|(_, _, drivers)| drivers).collect();
        for (driver, claims) in batches {
            if let Some(plugin) = plugins.get(&driver) {
                self.ask(plugin, claims).await?;
            }
        }
        let mut state = self.state.lock();
        for (_, claim, _) in &wanted {
            let ClaimMeta { namespace, name, uid, .. } = &claim.metadata;
            let known = state.claims.get_mut(&(namespace.clone(), name.clone()));
            if let Some(known) = known.filter(|known| known.uid == *uid) {
                known.prepared = true;
            }
        }
        state.save().map_err(|e| format!("checkpoint ResourceClaim state: {e}"))
    }

    async fn try_unprepare(&self, pod: &str) -> Result<(), String> {
        let mut batches: BTreeMap<String, Vec<rpc::Claim>> = BTreeMap::new();
        let mut last = BTreeSet::new();
        {
            let mut state = self.state.lock();
            for (key, claim) in &mut state.claims {
                match claim.pods.len() {
                    _ if !claim.pods.contains_key(pod) => {}
                    // Others use it, too.
                    2.. => drop(claim.pods.remove(pod)),
                    _ => {
                        last.insert(key.clone());
                        // From now on: a pod that comes while drivers are asked has the claim prepared again.
                        claim.prepared = false;
                        for driver in claim.drivers.keys() {
                            batches.entry(driver.clone()).or_default().push(claim.message());
                        }
                    }
                }
            }
        }
        for (driver, claims) in batches {
            let plugin = self.plugins.get(&driver).await?;
            let count = claims.len();
            let answer = plugin.connection.unprepare(plugin.service, claims.clone()).await;
            let answer = answer.map_err(|e| format!("NodeUnprepareResources: {e}"))?;
            for (uid, result) in &answer.claims {
                let Some(claim) = claims.iter().find(|claim| claim.uid == *uid) else {
                    return Err(format!("NodeUnprepareResources returned result for unknown claim UID {uid}"));
                };
                if !result.error.is_empty() {
                    let (name, error) = (&claim.name, &result.error);
                    return Err(format!("NodeUnprepareResources failed for claim {name}: {error}"));
                }
            }
            if answer.claims.len() < count {
                let skipped = count - answer.claims.len();
                return Err(format!("NodeUnprepareResources skipped {skipped} ResourceClaims"));
            }
        }
        let mut state = self.state.lock();
        for key in last {
            let Some(claim) = state.claims.get_mut(&key) else { continue };
            claim.pods.remove(pod);
            if claim.pods.is_empty() {
                state.claims.remove(&key);
            }
        }
        state.save().map_err(|e| format!("checkpoint ResourceClaim state: {e}"))
    }

    /// Whether anything is noted for a pod.
    fn concerns(&self, pod: &str) -> bool {
        self.state.lock().claims.values().any(|claim| claim.pods.contains_key(pod))
    }
}

/// Whether a pod may use a claim.
fn check(pod: &Pod, claim: &ResourceClaim, own: bool) -> Result<(), String> {
    let (of, by) = (&claim.metadata, &pod.metadata);
    let owners = &of.owner_references;
    if own && !owners.iter().any(|owner| owner.controller == Some(true) && owner.uid == by.uid) {
        let (namespace, claim, pod) = (&of.namespace, &of.name, &by.name);
        return Err(format!(
            "ResourceClaim {namespace}/{claim} was not created for Pod {namespace}/{pod} (Pod is not owner)"
        ));
    }
    if !claim.status.reserved_for.iter().any(|consumer| consumer.uid == by.uid) {
        let (pod, uid, claim, claim_uid) = (&by.name, &by.uid, &of.name, &of.uid);
        return Err(format!("pod {pod} ({uid}) is not allowed to use ResourceClaim {claim} ({claim_uid})"));
    }
    if claim.status.allocation.is_none() {
        return Err(format!("ResourceClaim {}: not allocated", of.name));
    }
    Ok(())
}

#[async_trait]
impl Devices for DeviceManager {
    async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        if pod.spec.resource_claims.is_empty() {
            return Ok(());
        }
        self.try_prepare(pod).await.map_err(|error| format!("prepare dynamic resources: {error}"))
    }

    async fn edits(&self, pod: &Pod, container: &Container) -> Result<Vec<ContainerEdits>, String> {
        let mut ids: Vec<String> = Vec::new();
        {
            let state = self.state.lock();
            let claims = || state.claims.values();
            for used in &container.resources.claims {
                let is_it = |names: &BTreeSet<String>| names.contains(&used.name);
                let Some(claim) = claims().find(|claim| claim.pods.get(&pod.metadata.uid).is_some_and(is_it)) else {
                    continue;
                };
                for id in claim.cdi(&used.request) {
                    if !ids.contains(id) {
                        ids.push(id.clone());
                    }
                }
            }
        }
        let edits = cdi::resolve(&self.cdi, &ids)?;
        edits.into_iter().map(ContainerEdits::complete).collect()
    }

    async fn unprepare(&self, pod: &PodIdentity) -> Result<(), String> {
        if !self.concerns(&pod.uid) {
            return Ok(());
        }
        self.try_unprepare(&pod.uid).await.map_err(|error| format!("unprepare dynamic resources: {error}"))
    }

    async fn collect(&self, pods: &[PodIdentity]) {
        let gone: BTreeSet<String> = {
            let state = self.state.lock();
            let known = state.claims.values().flat_map(|claim| claim.pods.keys());
            known.filter(|uid| !pods.iter().any(|pod| pod.uid == **uid)).cloned().collect()
        };
        for uid in gone {
            if let Err(error) = self.try_unprepare(&uid).await {
                tracing::warn!(pod = %uid, %error, "devices of a pod that is gone could not be given back");
            }
        }
    }
}

impl std::fmt::Debug for DeviceManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceManager").field("claims", &self.state.lock().claims.len()).finish_non_exhaustive()
    }
}
