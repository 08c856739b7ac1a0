//! What a pod's claims need, and on which nodes they can have it.

use std::collections::BTreeMap;
use std::sync::Arc;

use xebec_controllers::views::{Allocation, DeviceClass, DeviceSelector, ResourceClaim};
use xebec_schema::cel::device::Selector;

use super::search::{Problem, Search};
use super::{Devices, pools, result};
use crate::filters::Refusal;
use crate::snapshot::Snapshot;
use crate::views::{Node, Pod};

const CANNOT_ALLOCATE: &str = "cannot allocate all claims";
const ELSEWHERE: &str = "resourceclaim not available on the node";

/// What is to be done for a claim before its pod is placed: it is reserved for the pod.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The claim.
    pub claim: Arc<ResourceClaim>,
    /// The devices that it gets; `None` if it has its devices.
    pub allocation: Option<Arc<Allocation>>,
}

impl Grant {
    /// The devices that the claim has then.
    pub fn allocation(&self) -> Option<&Arc<Allocation>> {
        self.allocation.as_ref().or(self.claim.status.allocation.as_ref())
    }
}

/// A pod's claims, looked up.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The pod can be placed nowhere, and why.
    refusal: Option<String>,
    /// All of them.
    claims: Vec<Arc<ResourceClaim>>,
    /// Those that have no devices.
    pub(super) wanted: Vec<Arc<ResourceClaim>>,
    /// The classes of what they want.
    pub(super) classes: BTreeMap<String, Arc<DeviceClass>>,
    /// What they, and the classes, select by.
    pub(super) selectors: BTreeMap<String, Result<Selector, String>>,
}

impl Claimed {
    /// Looks a pod's claims up.
    pub fn new(devices: &Devices, pod: &Pod) -> Self {
        let mut claimed = Self::default();
        claimed.refusal = claimed.look_up(devices, pod).err();
        claimed
    }

    fn look_up(&mut self, devices: &Devices, pod: &Pod) -> Result<(), String> {
        for used in &pod.device_claims {
            let Some(claim) = devices.usable(pod, used)? else { continue };
            let meta = &claim.metadata;
            if self.claims.iter().any(|known| known.metadata.uid == meta.uid) {
                continue;
            }
            self.claims.push(claim.clone());
            if claim.status.allocation.is_none() {
                if devices.is_in_flight(claim) {
                    return Err(format!("resource claim {} is in the process of being allocated", meta.key()));
                }
                self.want(devices, claim)?;
            }
        }
        Ok(())
    }

    fn want(&mut self, devices: &Devices, claim: &Arc<ResourceClaim>) -> Result<(), String> {
        self.wanted.push(claim.clone());
        for request in &claim.spec.devices.requests {
            for wanted in request.exactly.iter().chain(&request.first_available) {
                let name = &wanted.device_class_name;
                let class = devices.classes.get(name).ok_or_else(|| {
                    let full = if request.exactly.is_some() { "" } else { &*format!("/{}", wanted.name) };
                    format!("request {}{full}: device class {name} does not exist", request.name)
                })?;
                self.compile(&class.spec.selectors);
                self.compile(&wanted.selectors);
                self.classes.insert(name.clone(), class.clone());
            }
        }
        Ok(())
    }

    fn compile(&mut self, selectors: &[DeviceSelector]) {
        for cel in selectors.iter().filter_map(|selector| selector.cel.as_ref()) {
            if !self.selectors.contains_key(&cel.expression) {
                let compiled = Selector::compile(&cel.expression).map_err(|error| error.to_string());
                self.selectors.insert(cel.expression.clone(), compiled);
            }
        }
    }

    /// Why the pod can be placed nowhere.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.refusal.is_none()
    }

    /// What is to be done if the pod is placed on a node, or why it cannot be.
    pub fn grants(&self, devices: &Devices, pod: &Pod, node: &Node) -> Result<Vec<Grant>, Refusal> {
        if let Some(why) = &self.refusal {
            return Err(Refusal::one(why.clone(), true));
        }
        let mut new = self.allocate(devices, node)?.into_iter();
        let mut grants = Vec::new();
        for claim in &self.claims {
            let allocation = match &claim.status.allocation {
                Some(allocation) if !is_usable(allocation, node) => return Err(Refusal::one(ELSEWHERE, true)),
                Some(_) => None,
                None => new.next().map(Arc::new),
            };
            if allocation.is_some() || !claim.is_reserved_for(&pod.metadata.uid) {
                grants.push(Grant { claim: claim.clone(), allocation });
            }
        }
        Ok(grants)
    }

    /// Devices of the node for those that have none, in their order.
    fn allocate(&self, devices: &Devices, node: &Node) -> Result<Vec<Allocation>, Refusal> {
        if self.wanted.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |problem| match problem {
            Problem::Node(why) => Refusal::one(why, true),
            Problem::Error(why) => Refusal::error(format!("running \"DynamicResources\" filter plugin: {why}")),
        };
        let mut search = Search::new(node, self, &devices.taken, pools::gather(devices, node)).map_err(failed)?;
        if !search.run().map_err(failed)? {
            return Err(Refusal::one(CANNOT_ALLOCATE, true));
        }
        result::allocations(&search, node).map_err(|why| failed(Problem::Error(why)))
    }

    /// A claim that keeps its pod from some node and that nobody else uses: without its devices it can get others.
    pub fn idle(&self, snapshot: &Snapshot, pod: &Pod) -> Option<&Arc<ResourceClaim>> {
        let is_idle = |claim: &ResourceClaim| match claim.status.reserved_for.as_slice() {
            [] => true,
            [only] => only.uid == pod.metadata.uid,
            _ => false,
        };
        let hinders = |claim: &ResourceClaim| {
            let allocation = claim.status.allocation.as_ref();
            allocation.is_some_and(|allocation| snapshot.live().any(|(node, _)| !is_usable(allocation, node)))
        };
        self.claims.iter().find(|claim| is_idle(claim) && hinders(claim))
    }
}

fn is_usable(allocation: &Allocation, node: &Node) -> bool {
    let selector = allocation.node_selector.as_ref();
    selector.is_none_or(|selector| selector.matches(&node.metadata.name, &node.metadata.labels))
}
