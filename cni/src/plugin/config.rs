//! What the runtime passes: the configuration on standard input, and the environment.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde_json::Value;

use super::failure::{Failure, code};
use super::version::Version;

/// A network's configuration, checked.
#[derive(Debug)]
pub struct Network {
    /// By which version of the specification the runtime speaks.
    pub version: Version,
    /// The range that pods' addresses are from.
    pub subnet: Ipv4Net,
    /// Dual stack: the range of their second addresses.
    pub subnet6: Option<Ipv6Net>,
    /// Where the network's leases are kept.
    pub leases: PathBuf,
    /// Pods' largest packet; none: as large as the node's own.
    pub mtu: Option<u32>,
    /// The node's address: the source of its own packets to pods.
    pub node_ip: Option<Ipv4Addr>,
    /// What the plugins before this one did.
    pub previous: Option<Value>,
    /// GC: what is to stay.
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// An interface of a container.
#[derive(Debug, Deserialize)]
pub struct Attachment {
    /// Which container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Its interface.
    pub ifname: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    name: String,
    subnet: Option<IpNet>,
    #[serde(default)]
    subnets: Vec<IpNet>,
    #[serde(default = "default_data_dir")]
    data_dir: PathBuf,
    mtu: Option<u32>,
    #[serde(rename = "nodeIP")]
    node_ip: Option<Ipv4Addr>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", alias = "cni.dev/attachments")]
    valid_attachments: Option<Vec<Attachment>>,
}

fn default_data_dir() -> PathBuf {
    PathBuf::from("/var/lib/xebec/cni")
}

impl Network {
    /// Reads it. The version first: by it the rest is understood.
    pub fn parse(input: &str) -> Result<Self, Failure> {
        let value: Value = serde_json::from_str(input)
            .map_err(|e| Failure::new(code::DECODE, format!("the network configuration is not JSON: {e}")))?;
        let version = Version::of(&value)?;
        let invalid = |message: String| Failure::new(code::INVALID_CONFIG, message);
        let raw: Raw =
            serde_json::from_value(value).map_err(|e| invalid(format!("the network configuration is invalid: {e}")))?;
        if !is_name(&raw.name) {
            return Err(invalid(format!(
                "the network's name {:?} is invalid: want a letter or digit, then letters, digits, '.', '_' or '-'",
                raw.name
            )));
        }
        let (mut subnet, mut subnet6) = (None, None);
        for range in raw.subnets.iter().chain(&raw.subnet) {
            let twice = match range {
                IpNet::V4(v4) => subnet.replace(*v4).is_some(),
                IpNet::V6(v6) => subnet6.replace(*v6).is_some(),
            };
            if twice {
                return Err(invalid(format!("{range} is a second range of its family: subnets holds one of each")));
            }
        }
        let subnet = subnet.ok_or_else(|| {
            invalid("no IPv4 range: give the node's podCIDR as \"subnet\", or its podCIDRs as \"subnets\"".to_owned())
        })?;
        Ok(Self {
            version,
            subnet,
            subnet6,
            leases: raw.data_dir.join(&raw.name),
            mtu: raw.mtu.filter(|mtu| *mtu != 0),
            node_ip: raw.node_ip,
            previous: raw.prev_result,
            valid_attachments: raw.valid_attachments,
        })
    }
}

/// What the specification allows as a name of a network or a container.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// The variables that a command needs, checked.
#[derive(Debug)]
pub struct Environment {
    container_id: String,
    /// The interface in the container.
    pub interface: String,
    netns: Option<PathBuf>,
}

impl Environment {
    /// Reads them by `variable`.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let invalid = |message: String| Failure::new(code::INVALID_ENVIRONMENT, message);
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let needed = |name: &str| given(name).ok_or_else(|| invalid(format!("{name} is missing")));
        let (container_id, interface) = (needed("CNI_CONTAINERID")?, needed("CNI_IFNAME")?);
        if !is_name(&container_id) || container_id.len() > 180 {
            return Err(invalid(format!("CNI_CONTAINERID {container_id:?} is not valid")));
        }
        // IFNAMSIZ, and what the kernel refuses in a name.
        let refused = |c: char| matches!(c, '/' | ':' | '@') || c.is_whitespace() || c.is_control();
        if interface.len() > 15 || matches!(interface.as_str(), "." | "..") || interface.contains(refused) {
            return Err(invalid(format!("CNI_IFNAME {interface:?} is not valid")));
        }
        Ok(Self { container_id, interface, netns: given("CNI_NETNS").map(PathBuf::from) })
    }

    /// Who has the lease.
    pub fn owner(&self) -> String {
        owner(&self.container_id, &self.interface)
    }

    /// The container's network namespace.
    pub fn netns(&self) -> Result<&Path, Failure> {
        self.netns.as_deref().ok_or_else(|| Failure::new(code::INVALID_ENVIRONMENT, "CNI_NETNS is missing"))
    }
}

/// The owner of a lease: an interface of a container.
pub fn owner(container_id: &str, interface: &str) -> String {
    format!("{container_id}:{interface}")
}
