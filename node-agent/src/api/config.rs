//! ConfigMaps, Secrets, Services and trust bundles, as far as pods refer to them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer};

use super::{Meta, Object};

/// `v1.ConfigMap`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    /// Name and namespace.
    pub metadata: Meta,
    /// Text.
    pub data: BTreeMap<String, String>,
    /// Bytes.
    #[serde(deserialize_with = "decode_all")]
    pub binary_data: BTreeMap<String, Vec<u8>>,
}

/// `v1.Secret`.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// Name and namespace.
    pub metadata: Meta,
    /// Bytes.
    #[serde(deserialize_with = "decode_all")]
    pub data: BTreeMap<String, Vec<u8>>,
    /// `Opaque`, `kubernetes.io/dockerconfigjson`.
    #[serde(rename = "type")]
    pub kind: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({}/{})", self.metadata.namespace, self.metadata.name)
    }
}

/// `v1.Service`, for the variables that tell a container where services are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Name and namespace.
    pub metadata: Meta,
    /// Address and ports.
    pub spec: ServiceSpec,
}

/// `v1.ServiceSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// The cluster address; `None` for a headless service, empty for none.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Ports.
    pub ports: Vec<ServicePort>,
}

/// `v1.ServicePort`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name, if there are several.
    pub name: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: u16,
}

/// `certificates.k8s.io/v1.ClusterTrustBundle`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterTrustBundle {
    /// Name and labels.
    pub metadata: Meta,
    /// Whom to trust.
    pub spec: ClusterTrustBundleSpec,
}

/// `certificates.k8s.io/v1.ClusterTrustBundleSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterTrustBundleSpec {
    /// Whose anchors they are, if somebody's.
    pub signer_name: String,
    /// PEM.
    pub trust_bundle: String,
}

impl Object for ClusterTrustBundle {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Object for ConfigMap {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Object for Secret {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Object for Service {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

fn decode_all<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Vec<u8>>, D::Error> {
    let text = Option::<BTreeMap<String, String>>::deserialize(deserializer)?.unwrap_or_default();
    text.into_iter()
        .map(|(key, value)| {
            let bytes = BASE64_STANDARD
                .decode(value.as_bytes())
                .map_err(|e| serde::de::Error::custom(format!("{key} is not base64: {e}")))?;
            Ok((key, bytes))
        })
        .collect()
}
