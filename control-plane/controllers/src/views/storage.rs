//! Volumes, claims to them, and classes of storage.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use xebec_schema::quantity::Quantity;

use super::NodeSelector;
use crate::runtime::kind;
use crate::runtime::labels::LabelSelector;
use crate::runtime::meta::{Condition, Meta, ObjectReference, null_default};

/// The former place of a class's name, on claims and volumes.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// `core/v1 PersistentVolume`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PersistentVolume {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: PersistentVolumeSpec,
    /// What is.
    #[serde(deserialize_with = "null_default")]
    pub status: PersistentVolumeStatus,
}

super::view!(PersistentVolume, kind::PERSISTENT_VOLUME);

/// `core/v1 PersistentVolumeSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PersistentVolumeSpec {
    /// How much it holds, under `storage`.
    #[serde(deserialize_with = "null_default")]
    pub capacity: BTreeMap<String, Value>,
    /// How it can be mounted.
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    /// Whose it is.
    pub claim_ref: Option<ObjectReference>,
    /// Its class.
    #[serde(deserialize_with = "null_default")]
    pub storage_class_name: String,
    /// `Filesystem`, `Block`.
    pub volume_mode: Option<String>,
    /// `Retain`, `Delete`, `Recycle`.
    #[serde(rename = "persistentVolumeReclaimPolicy", deserialize_with = "null_default")]
    pub reclaim_policy: String,
    /// Where it can be reached from.
    #[serde(deserialize_with = "null_default")]
    pub node_affinity: VolumeNodeAffinity,
    /// What else was asked of its driver.
    pub volume_attributes_class_name: Option<String>,
    /// A directory of a node.
    pub local: Option<PathSource>,
    /// A directory of whichever node.
    pub host_path: Option<PathSource>,
}

/// `core/v1 LocalVolumeSource`, `core/v1 HostPathVolumeSource`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PathSource {
    /// The directory.
    pub path: String,
}

/// `core/v1 VolumeNodeAffinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeNodeAffinity {
    /// Which nodes can reach it; all, if `None`.
    pub required: Option<NodeSelector>,
}

/// `core/v1 PersistentVolumeStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PersistentVolumeStatus {
    /// `Available`, `Bound`, `Released`, `Failed`.
    #[serde(deserialize_with = "null_default")]
    pub phase: String,
    /// Why it failed.
    #[serde(deserialize_with = "null_default")]
    pub message: String,
}

impl PersistentVolume {
    /// Its class; empty if it has none.
    pub fn class(&self) -> &str {
        self.metadata.annotations.get(CLASS_ANNOTATION).unwrap_or(&self.spec.storage_class_name)
    }

    /// How much it holds.
    pub fn size(&self) -> Quantity {
        quantity(self.spec.capacity.get("storage"))
    }

    /// Whether a node can reach it.
    pub fn is_reachable(&self, node: &str, labels: &BTreeMap<String, String>) -> bool {
        self.spec.node_affinity.required.as_ref().is_none_or(|selector| selector.matches(node, labels))
    }

    /// Whether it is the claim's: taken for it by name and, once that is known, by its uid.
    pub fn is_for(&self, claim: &PersistentVolumeClaim) -> bool {
        self.spec.claim_ref.as_ref().is_some_and(|by| {
            (&by.namespace, &by.name) == (&claim.metadata.namespace, &claim.metadata.name)
                && (by.uid.is_empty() || by.uid == claim.metadata.uid)
        })
    }
}

/// `core/v1 PersistentVolumeClaim`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PersistentVolumeClaim {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: PersistentVolumeClaimSpec,
    /// What is.
    #[serde(deserialize_with = "null_default")]
    pub status: PersistentVolumeClaimStatus,
}

super::view!(PersistentVolumeClaim, kind::PERSISTENT_VOLUME_CLAIM);

/// `core/v1 PersistentVolumeClaimSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PersistentVolumeClaimSpec {
    /// How it is to be mounted.
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    /// Which volume it is, or is to be.
    #[serde(deserialize_with = "null_default")]
    pub volume_name: String,
    /// Its class; empty is none, and `None` is the default one.
    pub storage_class_name: Option<String>,
    /// `Filesystem`, `Block`.
    pub volume_mode: Option<String>,
    /// Which volumes will do.
    pub selector: Option<LabelSelector>,
    /// How much is asked for.
    #[serde(deserialize_with = "null_default")]
    pub resources: ClaimResources,
    /// What else is asked of the driver.
    pub volume_attributes_class_name: Option<String>,
    /// What it is to be filled with.
    pub data_source_ref: Option<serde::de::IgnoredAny>,
}

/// `core/v1 VolumeResourceRequirements`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClaimResources {
    /// How much is asked for, under `storage`.
    #[serde(deserialize_with = "null_default")]
    pub requests: BTreeMap<String, Value>,
}

/// `core/v1 PersistentVolumeClaimStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PersistentVolumeClaimStatus {
    /// `Pending`, `Bound`, `Lost`.
    #[serde(deserialize_with = "null_default")]
    pub phase: String,
    /// What its volume can do.
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<String>,
    /// What its volume holds.
    #[serde(deserialize_with = "null_default")]
    pub capacity: BTreeMap<String, Value>,
    /// `Resizing` and others.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// What its volume is like.
    pub current_volume_attributes_class_name: Option<String>,
    /// What its volume is to be like.
    pub modify_volume_status: Option<ModifyVolumeStatus>,
}

/// `core/v1 ModifyVolumeStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModifyVolumeStatus {
    /// The class that is being changed to.
    pub target_volume_attributes_class_name: Option<String>,
}

impl PersistentVolumeClaim {
    /// The classes of attributes that it names.
    pub fn attributes_classes(&self) -> impl Iterator<Item = &String> {
        let target = self.status.modify_volume_status.as_ref();
        let target = target.and_then(|modified| modified.target_volume_attributes_class_name.as_ref());
        let named = [&self.spec.volume_attributes_class_name, &self.status.current_volume_attributes_class_name];
        named.into_iter().flatten().chain(target)
    }

    /// Its class; empty if it has none.
    pub fn class(&self) -> &str {
        match self.metadata.annotations.get(CLASS_ANNOTATION) {
            Some(class) => class,
            None => self.spec.storage_class_name.as_deref().unwrap_or_default(),
        }
    }

    /// Whether it says of which class it is, be it of none.
    pub fn names_class(&self) -> bool {
        self.spec.storage_class_name.is_some() || self.metadata.annotations.contains_key(CLASS_ANNOTATION)
    }

    /// How much it asks for.
    pub fn size(&self) -> Quantity {
        quantity(self.spec.resources.requests.get("storage"))
    }
}

fn quantity(value: Option<&Value>) -> Quantity {
    value.and_then(Quantity::of_json).unwrap_or(Quantity::ZERO)
}

/// `storage.k8s.io/v1 StorageClass`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageClass {
    /// Metadata.
    pub metadata: Meta,
    /// Who makes its volumes.
    pub provisioner: String,
    /// What becomes of them: `Delete`, `Retain`.
    #[serde(deserialize_with = "null_default")]
    pub reclaim_policy: String,
    /// `Immediate`, `WaitForFirstConsumer`.
    #[serde(deserialize_with = "null_default")]
    pub volume_binding_mode: String,
    /// On which nodes they can be.
    #[serde(deserialize_with = "null_default")]
    pub allowed_topologies: Vec<TopologyTerm>,
    /// How they are mounted.
    #[serde(deserialize_with = "null_default")]
    pub mount_options: Vec<String>,
}

super::view!(StorageClass, kind::STORAGE_CLASS);

/// `core/v1 TopologySelectorTerm`: all of the requirements.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologyTerm {
    /// On labels.
    #[serde(deserialize_with = "null_default")]
    pub match_label_expressions: Vec<TopologyRequirement>,
}

/// `core/v1 TopologySelectorLabelRequirement`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TopologyRequirement {
    /// The label.
    pub key: String,
    /// Its values.
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<String>,
}

impl StorageClass {
    /// Whether a claim's volume is chosen only when it is known where its pod will be.
    pub fn waits(&self) -> bool {
        self.volume_binding_mode == "WaitForFirstConsumer"
    }

    /// Whether volumes of the class can be on a node with these labels.
    pub fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        let term = |term: &TopologyTerm| {
            term.match_label_expressions
                .iter()
                .all(|r| labels.get(&r.key).is_some_and(|value| r.values.contains(value)))
        };
        self.allowed_topologies.is_empty() || self.allowed_topologies.iter().any(term)
    }

    /// Whether claims without a class are of this one.
    pub fn is_default(&self) -> bool {
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| self.metadata.annotations.get(*key).is_some_and(|value| value == "true"))
    }
}

/// A claim that a pod's volume stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimUse {
    /// One that exists by itself.
    Named(Box<str>),
    /// One that is made for the pod, for the volume of this name.
    Ephemeral(Box<str>),
}

/// The claims among a pod's volumes; the other volumes are not kept.
pub fn claim_uses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<[ClaimUse]>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    #[derive(Default)]
    struct Volume {
        name: Box<str>,
        persistent_volume_claim: Option<Source>,
        ephemeral: Option<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Source {
        claim_name: Box<str>,
    }
    let volumes = Option::<Vec<Volume>>::deserialize(deserializer)?.unwrap_or_default();
    let claim = |volume: Volume| match (volume.persistent_volume_claim, volume.ephemeral) {
        (Some(source), _) => Some(ClaimUse::Named(source.claim_name)),
        (None, Some(_)) => Some(ClaimUse::Ephemeral(volume.name)),
        (None, None) => None,
    };
    Ok(volumes.into_iter().filter_map(claim).collect())
}

/// `storage.k8s.io/v1 VolumeAttributesClass`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeAttributesClass {
    /// Metadata.
    pub metadata: Meta,
}

super::view!(VolumeAttributesClass, kind::VOLUME_ATTRIBUTES_CLASS);
