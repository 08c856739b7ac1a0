//! Devices, their classes, and claims to them (`resource.k8s.io/v1`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use xebec_schema::quantity::Quantity;

use super::NodeSelector;
use crate::runtime::cache::{BY_CONTROLLER, BY_POOL};
use crate::runtime::kind;
use crate::runtime::meta::{Condition, Meta, null_default};

/// Index of claims by the uids of the pods that they are reserved for.
pub const BY_CONSUMER: &str = "consumer";

/// A quantity as the API writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(pub Quantity);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let amount = Quantity::of_json(&value).map(Self);
        amount.ok_or_else(|| serde::de::Error::custom(format!("{value} is no quantity")))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Amounts by their qualified names.
pub type Amounts = BTreeMap<String, Amount>;

/// `ResourceClaim`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaim {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: ResourceClaimSpec,
    /// What is.
    #[serde(deserialize_with = "null_default")]
    pub status: ResourceClaimStatus,
}

super::view!(ResourceClaim, kind::RESOURCE_CLAIM, |claim| {
    let owner = claim.metadata.controller().map(|owner| (BY_CONTROLLER, owner.uid.clone()));
    let consumers = claim.status.reserved_for.iter().map(|by| (BY_CONSUMER, by.uid.clone()));
    owner.into_iter().chain(consumers).collect()
});

/// `ResourceClaimSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ResourceClaimSpec {
    /// The devices.
    pub devices: DeviceClaim,
}

/// `DeviceClaim`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DeviceClaim {
    /// Which devices.
    #[serde(deserialize_with = "null_default")]
    pub requests: Vec<DeviceRequest>,
    /// What must hold for several of them together.
    #[serde(deserialize_with = "null_default")]
    pub constraints: Vec<DeviceConstraint>,
    /// What their drivers are told.
    #[serde(deserialize_with = "null_default")]
    pub config: Vec<DeviceConfiguration>,
}

/// `DeviceRequest`: devices of one kind, or of the first of several kinds that can be had.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceRequest {
    /// Its name in the claim.
    pub name: String,
    /// These devices.
    pub exactly: Option<WantedDevices>,
    /// The first of these that can be had.
    #[serde(deserialize_with = "null_default")]
    pub first_available: Vec<WantedDevices>,
}

/// `ExactDeviceRequest` and `DeviceSubRequest`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WantedDevices {
    /// Its name in the request, if there are others.
    pub name: String,
    /// The class.
    pub device_class_name: String,
    /// What the devices must be like.
    #[serde(deserialize_with = "null_default")]
    pub selectors: Vec<DeviceSelector>,
    /// `ExactCount`, `All`.
    pub allocation_mode: String,
    /// How many.
    pub count: i64,
    /// To look at devices that others use.
    pub admin_access: Option<bool>,
    /// Taints of devices that are put up with.
    #[serde(deserialize_with = "null_default")]
    pub tolerations: Vec<DeviceToleration>,
    /// How much of each device.
    #[serde(deserialize_with = "null_default")]
    pub capacity: CapacityRequirements,
}

/// `CapacityRequirements`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CapacityRequirements {
    /// How much, by the capacity's name.
    #[serde(deserialize_with = "null_default")]
    pub requests: Amounts,
}

/// `DeviceSelector`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DeviceSelector {
    /// By an expression.
    pub cel: Option<CelSelector>,
}

/// `CELDeviceSelector`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CelSelector {
    /// The expression.
    pub expression: String,
}

/// `DeviceConstraint`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceConstraint {
    /// For the devices of these requests; all, if there are none.
    #[serde(deserialize_with = "null_default")]
    pub requests: Vec<String>,
    /// All have this attribute, with the same value.
    pub match_attribute: Option<String>,
    /// All have this attribute, each with another value.
    pub distinct_attribute: Option<String>,
}

/// `DeviceClaimConfiguration`, `DeviceClassConfiguration` and `DeviceAllocationConfiguration`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct DeviceConfiguration {
    /// `FromClass`, `FromClaim`; of an allocation only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// For these requests; all, if there are none.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<String>,
    /// For a driver to understand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opaque: Option<Value>,
}

/// `DeviceToleration`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceToleration {
    /// The taint's key; empty is any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// `Equal`, `Exists`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// The taint's value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// The taint's effect; empty is any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// How long a `NoExecute` taint is put up with; forever if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

impl DeviceToleration {
    /// Whether it puts up with a taint.
    pub fn tolerates(&self, taint: &DeviceTaint) -> bool {
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let key = self.key.is_empty() || self.key == taint.key;
        effect
            && key
            && match self.operator.as_str() {
                "" | "Equal" => self.value == taint.value,
                "Exists" => true,
                _ => false,
            }
    }
}

/// `DeviceTaint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceTaint {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// `NoSchedule`, `NoExecute`, `None`.
    pub effect: String,
    /// Since when.
    pub time_added: Option<Timestamp>,
}

/// `ResourceClaimStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceClaimStatus {
    /// The devices that the claim has.
    pub allocation: Option<Arc<Allocation>>,
    /// Who may use them.
    #[serde(deserialize_with = "null_default")]
    pub reserved_for: Vec<Consumer>,
    /// What their drivers say of them.
    #[serde(deserialize_with = "null_default")]
    pub devices: Vec<DeviceStatus>,
}

/// `AllocationResult`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Allocation {
    /// The devices.
    pub devices: DeviceAllocation,
    /// Where they can be used; everywhere, if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<NodeSelector>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation_timestamp: Option<Timestamp>,
}

/// `DeviceAllocationResult`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct DeviceAllocation {
    /// The devices.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<AllocatedDevice>,
    /// What their drivers are told.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<DeviceConfiguration>,
}

/// `DeviceRequestAllocationResult`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocatedDevice {
    /// For which request: `request` or `request/alternative`.
    pub request: String,
    /// The device's driver.
    pub driver: String,
    /// Its pool.
    pub pool: String,
    /// Its name in the pool.
    pub device: String,
    /// To be looked at only, beside those who use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_access: Option<bool>,
    /// Taints that are put up with.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<DeviceToleration>,
    /// Conditions that must hold before a pod is placed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub binding_conditions: Vec<String>,
    /// Conditions of which none may hold.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub binding_failure_conditions: Vec<String>,
    /// Which share of a device that several claims have.
    #[serde(rename = "shareID", skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    /// How much of it.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub consumed_capacity: Amounts,
}

impl AllocatedDevice {
    /// Which device.
    pub fn id(&self) -> DeviceId {
        DeviceId { driver: self.driver.clone(), pool: self.pool.clone(), device: self.device.clone() }
    }

    /// Whether it is only looked at.
    pub fn is_admin(&self) -> bool {
        self.admin_access == Some(true)
    }
}

/// Which device.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceId {
    /// Whose.
    pub driver: String,
    /// In which pool.
    pub pool: String,
    /// Which there.
    pub device: String,
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// `ResourceClaimConsumerReference`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Consumer {
    /// The group; empty for pods.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// `pods`.
    pub resource: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Consumer {
    /// A pod.
    pub fn pod(meta: &Meta) -> Self {
        Self { api_group: String::new(), resource: "pods".into(), name: meta.name.clone(), uid: meta.uid.clone() }
    }

    /// Whether it is a pod.
    pub fn is_pod(&self) -> bool {
        self.api_group.is_empty() && self.resource == "pods"
    }
}

/// `AllocatedDeviceStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceStatus {
    /// The device's driver.
    pub driver: String,
    /// Its pool.
    pub pool: String,
    /// Its name in the pool.
    pub device: String,
    /// Which share of it.
    #[serde(rename = "shareID")]
    pub share_id: Option<String>,
    /// What its driver says.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

impl ResourceClaim {
    /// Whether a pod may use the devices.
    pub fn is_reserved_for(&self, uid: &str) -> bool {
        self.status.reserved_for.iter().any(|by| by.uid == uid)
    }
}

/// `DeviceClass`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeviceClass {
    /// Metadata.
    pub metadata: Meta,
    /// What it stands for.
    pub spec: DeviceClassSpec,
}

super::view!(DeviceClass, kind::DEVICE_CLASS);

/// `DeviceClassSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceClassSpec {
    /// What the devices are like.
    #[serde(deserialize_with = "null_default")]
    pub selectors: Vec<DeviceSelector>,
    /// What their drivers are told.
    #[serde(deserialize_with = "null_default")]
    pub config: Vec<DeviceConfiguration>,
    /// The name by which containers may ask for them like for other resources.
    pub extended_resource_name: Option<String>,
}

/// `ResourceSlice`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceSlice {
    /// Metadata.
    pub metadata: Meta,
    /// The devices.
    pub spec: ResourceSliceSpec,
}

super::view!(ResourceSlice, kind::RESOURCE_SLICE, |slice| {
    vec![(BY_POOL, pool_key(&slice.spec.driver, &slice.spec.pool.name))]
});

/// A pool, for an index.
pub fn pool_key(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

/// `ResourceSliceSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceSliceSpec {
    /// Whose they are.
    pub driver: String,
    /// In which pool.
    pub pool: ResourcePool,
    /// On which node.
    pub node_name: Option<String>,
    /// On which nodes.
    pub node_selector: Option<NodeSelector>,
    /// On every node.
    pub all_nodes: Option<bool>,
    /// Each says for itself on which.
    pub per_device_node_selection: Option<bool>,
    /// The devices.
    #[serde(deserialize_with = "null_default")]
    pub devices: Vec<Device>,
    /// What devices of the pool draw on together.
    #[serde(deserialize_with = "null_default")]
    pub shared_counters: Vec<CounterSet>,
}

/// `ResourcePool`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourcePool {
    /// Its name.
    pub name: String,
    /// Slices of an earlier one do not count.
    pub generation: i64,
    /// How many slices it has.
    pub resource_slice_count: i64,
}

/// `CounterSet`, and `DeviceCounterConsumption`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CounterSet {
    /// Its name in the pool.
    #[serde(alias = "counterSet")]
    pub name: String,
    /// How much there is, or how much a device takes.
    #[serde(deserialize_with = "null_default")]
    pub counters: BTreeMap<String, Counter>,
}

/// `Counter`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Counter {
    /// How much.
    pub value: Amount,
}

/// `Device`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Its name in the pool.
    pub name: String,
    /// What it is like.
    #[serde(deserialize_with = "null_default")]
    pub attributes: BTreeMap<String, DeviceAttribute>,
    /// How much of what it has.
    #[serde(deserialize_with = "null_default")]
    pub capacity: BTreeMap<String, DeviceCapacity>,
    /// What it draws of what devices of the pool share.
    #[serde(deserialize_with = "null_default")]
    pub consumes_counters: Vec<CounterSet>,
    /// On which node, if the slice leaves that to it.
    pub node_name: Option<String>,
    /// On which nodes.
    pub node_selector: Option<NodeSelector>,
    /// On every node.
    pub all_nodes: Option<bool>,
    /// What claims must put up with.
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<DeviceTaint>,
    /// Once allocated it can be used on the chosen node only.
    pub binds_to_node: bool,
    /// Conditions that must hold before a pod is placed.
    #[serde(deserialize_with = "null_default")]
    pub binding_conditions: Vec<String>,
    /// Conditions of which none may hold.
    #[serde(deserialize_with = "null_default")]
    pub binding_failure_conditions: Vec<String>,
    /// Several claims may have it at once.
    pub allow_multiple_allocations: Option<bool>,
}

impl Device {
    /// Whether several claims may have it at once.
    pub fn is_shared(&self) -> bool {
        self.allow_multiple_allocations == Some(true)
    }

    /// The attribute of a fully qualified name.
    pub fn attribute(&self, driver: &str, name: &str) -> Option<&DeviceAttribute> {
        self.attributes.get(name).or_else(|| {
            let (domain, id) = name.split_once('/')?;
            if domain == driver { self.attributes.get(id) } else { None }
        })
    }
}

/// `DeviceAttribute`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RawAttribute")]
pub enum DeviceAttribute {
    /// A number.
    Int(i64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// A semantic version.
    Version(String),
    /// Something that is not understood.
    Unknown,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawAttribute {
    int: Option<i64>,
    bool: Option<bool>,
    string: Option<String>,
    version: Option<String>,
}

impl From<RawAttribute> for DeviceAttribute {
    fn from(raw: RawAttribute) -> Self {
        match raw {
            RawAttribute { int: Some(value), .. } => Self::Int(value),
            RawAttribute { bool: Some(value), .. } => Self::Bool(value),
            RawAttribute { string: Some(text), .. } => Self::String(text),
            RawAttribute { version: Some(version), .. } => Self::Version(version),
            _ => Self::Unknown,
        }
    }
}

/// `DeviceCapacity`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCapacity {
    /// How much.
    pub value: Amount,
    /// How much of it can be asked for, of a device that several claims have.
    #[serde(default)]
    pub request_policy: Option<CapacityPolicy>,
}

/// `CapacityRequestPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CapacityPolicy {
    /// What who asks for nothing gets.
    pub default: Option<Amount>,
    /// These amounts only.
    #[serde(deserialize_with = "null_default")]
    pub valid_values: Vec<Amount>,
    /// Amounts of this range only.
    pub valid_range: Option<CapacityRange>,
}

/// `CapacityRequestPolicyRange`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CapacityRange {
    /// The least.
    pub min: Option<Amount>,
    /// The most.
    pub max: Option<Amount>,
    /// In steps of this, from the least.
    pub step: Option<Amount>,
}

/// `DeviceTaintRule`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeviceTaintRule {
    /// Metadata.
    pub metadata: Meta,
    /// What it does.
    pub spec: DeviceTaintRuleSpec,
}

super::view!(DeviceTaintRule, kind::DEVICE_TAINT_RULE);

/// `DeviceTaintRuleSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceTaintRuleSpec {
    /// The devices; none, if `None`.
    pub device_selector: Option<DeviceTaintSelector>,
    /// Their taint.
    pub taint: DeviceTaint,
}

/// `DeviceTaintSelector`: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DeviceTaintSelector {
    /// Of this driver.
    pub driver: Option<String>,
    /// Of this pool.
    pub pool: Option<String>,
    /// Of this name.
    pub device: Option<String>,
}

impl DeviceTaintRule {
    /// Whether it taints a device.
    pub fn taints(&self, driver: &str, pool: &str, device: &str) -> bool {
        let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        let selector = self.spec.device_selector.as_ref();
        selector.is_some_and(|s| is(&s.driver, driver) && is(&s.pool, pool) && is(&s.device, device))
    }
}

/// The devices that a pod claims by one name: `core/v1 PodResourceClaim`, and what its status says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodClaim {
    /// Its name in the pod.
    pub name: Box<str>,
    /// Which claim it is.
    pub claim: ClaimSource,
}

/// Which claim a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimSource {
    /// The one of this name.
    Named(Box<str>),
    /// One that is made for it after a template.
    Template {
        /// The template.
        template: Box<str>,
        /// What became of it.
        made: Made,
    },
}

/// What became of a claim that is made for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// It has not been made yet.
    NotYet,
    /// It is not needed.
    Needless,
    /// It was made by this name.
    As(Box<str>),
}

impl PodClaim {
    /// The claim's name, and whether it must be the pod's own; `None` while there is none.
    pub fn object(&self) -> Option<(&str, bool)> {
        match &self.claim {
            ClaimSource::Named(name) => Some((name, false)),
            ClaimSource::Template { made: Made::As(name), .. } => Some((name, true)),
            ClaimSource::Template { .. } => None,
        }
    }

    /// Whether its claim is still to be made.
    pub fn is_to_be_made(&self) -> bool {
        matches!(self.claim, ClaimSource::Template { made: Made::NotYet, .. })
    }
}

/// `core/v1 PodResourceClaim`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawPodClaim {
    name: Box<str>,
    resource_claim_name: Option<Box<str>>,
    resource_claim_template_name: Option<Box<str>>,
}

/// `core/v1 PodResourceClaimStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawPodClaimStatus {
    name: Box<str>,
    resource_claim_name: Option<Box<str>>,
}

/// A pod's claims, of what its spec and its status say.
pub fn pod_claims(spec: &[RawPodClaim], status: &[RawPodClaimStatus]) -> Box<[PodClaim]> {
    let made = |name: &str| match status.iter().find(|made| *made.name == *name) {
        None => Made::NotYet,
        Some(RawPodClaimStatus { resource_claim_name: None, .. }) => Made::Needless,
        Some(RawPodClaimStatus { resource_claim_name: Some(claim), .. }) => Made::As(claim.clone()),
    };
    let claim = |raw: &RawPodClaim| {
        let claim = match (&raw.resource_claim_name, &raw.resource_claim_template_name) {
            (Some(name), _) => ClaimSource::Named(name.clone()),
            (None, template) => {
                ClaimSource::Template { made: made(&raw.name), template: template.clone().unwrap_or_default() }
            }
        };
        PodClaim { name: raw.name.clone(), claim }
    };
    spec.iter().map(claim).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_allocation_is_written_as_it_was_read() {
        let allocation = json!({
            "devices": {
                "results": [{"request": "r", "driver": "d", "pool": "p", "device": "x", "adminAccess": true,
                    "tolerations": [{"key": "k", "operator": "Exists"}], "shareID": "s",
                    "consumedCapacity": {"memory": "1Gi"}}],
                "config": [{"source": "FromClass", "requests": ["r"], "opaque": {"driver": "d", "parameters": {"a": 1}}}]},
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}});
        let read: Allocation = serde_json::from_value(allocation.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), allocation);
    }

    #[test]
    fn a_pods_claims_are_those_of_its_spec_and_status() {
        let spec = json!([{"name": "a", "resourceClaimName": "x"}, {"name": "b", "resourceClaimTemplateName": "t"},
            {"name": "c", "resourceClaimTemplateName": "t"}, {"name": "d", "resourceClaimTemplateName": "t"}]);
        let status: Vec<RawPodClaimStatus> =
            serde_json::from_value(json!([{"name": "b", "resourceClaimName": "p-b-1"}, {"name": "c"}])).unwrap();
        let claims = pod_claims(&serde_json::from_value::<Vec<_>>(spec).unwrap(), &status);
        let objects: Vec<_> = claims.iter().map(PodClaim::object).collect();
        assert_eq!(objects, [Some(("x", false)), Some(("p-b-1", true)), None, None]);
        assert_eq!(claims.iter().map(PodClaim::is_to_be_made).collect::<Vec<_>>(), [false, false, false, true]);
    }
}
