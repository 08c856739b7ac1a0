//! Addresses of services, and the ranges that they come from.

use ipnet::IpNet;
use serde::Deserialize;

use crate::runtime::kind;
use crate::runtime::meta::{Condition, Meta, null_default};

/// `networking.k8s.io/v1 ServiceCIDR`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: ServiceCidrSpec,
    /// What is.
    #[serde(deserialize_with = "null_default")]
    pub status: ServiceCidrStatus,
}

super::view!(ServiceCidr, kind::SERVICE_CIDR);

/// `networking.k8s.io/v1 ServiceCIDRSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// One range, or one of each family.
    #[serde(deserialize_with = "null_default")]
    pub cidrs: Vec<String>,
}

/// `networking.k8s.io/v1 ServiceCIDRStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrStatus {
    /// `Ready`.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

impl ServiceCidr {
    /// Its ranges.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.spec.cidrs.iter().filter_map(|cidr| cidr.parse().ok())
    }
}

/// `networking.k8s.io/v1 IPAddress`; its name is the address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct IpAddress {
    /// Metadata.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: IpAddressSpec,
}

super::view!(IpAddress, kind::IP_ADDRESS);

/// `networking.k8s.io/v1 IPAddressSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpAddressSpec {
    /// What the address is of.
    #[serde(deserialize_with = "null_default")]
    pub parent_ref: ParentReference,
}

/// `networking.k8s.io/v1 ParentReference`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ParentReference {
    /// Its API group.
    pub group: String,
    /// Its plural.
    pub resource: String,
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ParentReference {
    /// Whether it is a service.
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && self.resource == "services"
    }
}
