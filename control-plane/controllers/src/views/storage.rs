//! Volumes and claims to them.

use serde::{Deserialize, Deserializer};

use crate::runtime::kind;
use crate::runtime::meta::Meta;

/// `core/v1 PersistentVolume`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PersistentVolume {
    /// Metadata.
    pub metadata: Meta,
    /// What is.
    pub status: PersistentVolumeStatus,
}

super::view!(PersistentVolume, kind::PERSISTENT_VOLUME);

/// `core/v1 PersistentVolumeStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PersistentVolumeStatus {
    /// `Available`, `Bound`, `Released`, `Failed`.
    pub phase: String,
}

/// `core/v1 PersistentVolumeClaim`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PersistentVolumeClaim {
    /// Metadata.
    pub metadata: Meta,
}

super::view!(PersistentVolumeClaim, kind::PERSISTENT_VOLUME_CLAIM);

/// A claim that a pod's volume stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimUse {
    /// One that exists by itself.
    Named(Box<str>),
    /// One that is made for the pod, for the volume of this name.
    Ephemeral(Box<str>),
}

/// The claims among a pod's volumes; the other volumes are not kept.
pub(super) fn claim_uses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<[ClaimUse]>, D::Error> {
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
