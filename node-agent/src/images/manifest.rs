//! Manifests and indexes, OCI's and Docker's: what the agent reads of them (image-spec manifest.md, image-index.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::runtime::RuntimeError;
use crate::runtime::containerd::oci::ImageConfig;

/// Media types of manifests and indexes.
pub const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Points to a blob.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:...`.
    pub digest: String,
    /// In bytes.
    pub size: i64,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Names, for example.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Platform {
    /// `amd64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v8`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A manifest or an index: which of the two shows by what it has.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Document {
    /// Always 2.
    pub schema_version: u32,
    /// What it is; may be missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// A manifest's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    /// A manifest's layers, the lowest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Descriptor>,
    /// An index's manifests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Descriptor>,
}

impl Document {
    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Self, RuntimeError> {
        serde_json::from_slice(bytes)
            .map_err(|e| RuntimeError::Invalid(format!("the image's manifest is not one: {e}")))
    }

    /// Whether it is an index of several images.
    pub fn is_index(&self) -> bool {
        self.config.is_none()
    }

    /// The manifest for this machine, of those in an index.
    pub fn for_this_machine(&self) -> Result<&Descriptor, RuntimeError> {
        let architecture = architecture();
        let fits = |p: &Platform| p.os == "linux" && p.architecture == architecture;
        let named = self.manifests.iter().find(|m| m.platform.as_ref().is_some_and(fits));
        // An archive of one image names no platform.
        let only = || self.manifests.iter().find(|m| m.platform.is_none());
        named.or_else(only).ok_or_else(|| {
            RuntimeError::Invalid(format!("no match for platform linux/{architecture} in the image's index: not found"))
        })
    }
}

/// This machine's architecture, as Go names it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// An image's configuration blob.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConfigBlob {
    /// For containers.
    pub config: Option<ImageConfig>,
    /// What the layers unpack to.
    pub rootfs: RootFs,
}

/// The layers' contents.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<String>,
}

/// The digest of bytes.
pub fn digest(bytes: &[u8]) -> String {
    hex_digest(Sha256::digest(bytes).as_slice())
}

/// A SHA-256 sum as a digest.
pub fn hex_digest(sum: &[u8]) -> String {
    let hex: String = sum.iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// The names of the snapshots that layers unpack to: each depends on those below it (identity/chainid.go in the image
/// specification).
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => digest(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_depends_on_all_layers_below() {
        let ids = ["sha256:aa", "sha256:bb"].map(str::to_owned);
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], "sha256:aa");
        assert_eq!(chain[1], digest(b"sha256:aa sha256:bb"));
    }

    #[test]
    fn the_machines_manifest_is_chosen_from_an_index() {
        let entry = |architecture: &str| Descriptor {
            digest: architecture.to_owned(),
            platform: Some(Platform {
                architecture: architecture.to_owned(),
                os: "linux".to_owned(),
                variant: String::new(),
            }),
            ..Descriptor::default()
        };
        let index = Document { manifests: vec![entry("s390x"), entry(architecture())], ..Document::default() };
        assert_eq!(index.for_this_machine().unwrap().digest, architecture());
        let foreign = Document { manifests: vec![entry("mips")], ..Document::default() };
        assert!(foreign.for_this_machine().is_err());
    }
}
