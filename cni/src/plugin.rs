//! The CNI specification 1.1: commands by environment variables and standard input, results as JSON.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::connect::{self, Connection, GATEWAY};
use crate::ipam::{self, Pool};
use crate::sysctl;

/// The version of the specification this follows, and those before whose results look the same to us.
const VERSION: &str = "1.1.0";
const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", VERSION];

/// Error codes of the specification, section "Error".
mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    pub const NOT_AVAILABLE: u32 = 50;
}

/// A failure as the specification has it.
#[derive(Debug)]
struct Failure {
    code: u32,
    message: String,
}

impl Failure {
    fn new(code: u32, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl From<ipam::Error> for Failure {
    fn from(error: ipam::Error) -> Self {
        let code = match &error {
            ipam::Error::Exhausted { .. } => code::TRY_AGAIN,
            ipam::Error::Io { .. } => code::IO,
            ipam::Error::Owner(_) => code::INVALID_ENVIRONMENT,
        };
        Self::new(code, error)
    }
}

impl From<connect::Error> for Failure {
    fn from(error: connect::Error) -> Self {
        let code = match &error {
            connect::Error::Netns { .. } => code::INVALID_ENVIRONMENT,
            _ => code::IO,
        };
        Self::new(code, error)
    }
}

/// The network's configuration, as the runtime passes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    #[serde(default)]
    cni_version: String,
    /// The range that pods' addresses are from.
    subnet: Ipv4Net,
    /// Where leases are kept.
    #[serde(default = "default_data_dir")]
    data_dir: PathBuf,
    #[serde(default = "default_mtu")]
    mtu: u32,
    /// The node's address: the source of its own packets to pods.
    #[serde(rename = "nodeIP")]
    node_ip: Option<Ipv4Addr>,
    prev_result: Option<Value>,
    /// GC: what is to stay.
    #[serde(default, rename = "cni.dev/valid-attachments", alias = "cni.dev/attachments")]
    valid_attachments: Vec<Attachment>,
}

#[derive(Debug, Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

fn default_data_dir() -> PathBuf {
    PathBuf::from("/var/lib/xebec/cni")
}

fn default_mtu() -> u32 {
    1_500
}

/// A success (specification, section "Success").
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Success {
    cni_version: String,
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    routes: Vec<Value>,
    dns: Value,
}

#[derive(Debug, Serialize)]
struct Interface {
    name: String,
    mac: String,
    mtu: u32,
    sandbox: String,
}

#[derive(Debug, Serialize)]
struct Ip {
    address: Ipv4Net,
    gateway: Ipv4Addr,
    /// Index into `interfaces`.
    interface: usize,
}

/// The variables a command needs, checked.
struct Environment {
    container_id: String,
    interface: String,
    netns: Option<PathBuf>,
}

impl Environment {
    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let needed = |name: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| Failure::new(code::INVALID_ENVIRONMENT, format!("{name} is missing")))
        };
        let interface = needed("CNI_IFNAME")?;
        // IFNAMSIZ, and what the kernel refuses in a name.
        if interface.len() > 15 || interface.contains(['/', ':']) || interface.contains(char::is_whitespace) {
            return Err(Failure::new(code::INVALID_ENVIRONMENT, format!("CNI_IFNAME {interface:?} is not valid")));
        }
        let netns = variable("CNI_NETNS").filter(|value| !value.is_empty()).map(PathBuf::from);
        Ok(Self { container_id: needed("CNI_CONTAINERID")?, interface, netns })
    }

    fn owner(&self) -> String {
        owner(&self.container_id, &self.interface)
    }

    fn netns(&self) -> Result<&Path, Failure> {
        self.netns.as_deref().ok_or_else(|| Failure::new(code::INVALID_ENVIRONMENT, "CNI_NETNS is missing"))
    }
}

fn owner(container_id: &str, interface: &str) -> String {
    format!("{container_id}:{interface}")
}

/// The plugin's entry: `xebec` invoked as `xebec-cni`.
pub fn main() -> ExitCode {
    let mut input = String::new();
    let read = std::io::stdin().read_to_string(&mut input);
    let result = match read {
        Ok(_) => run(&|name| std::env::var(name).ok(), &input),
        Err(error) => Err(Failure::new(code::IO, format!("cannot read the configuration: {error}"))),
    };
    let (output, exit) = match result {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(failure) => {
            (json!({ "cniVersion": VERSION, "code": failure.code, "msg": failure.message }), ExitCode::FAILURE)
        }
    };
    match writeln!(std::io::stdout(), "{output}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Carries out one command; the result to print, if it has one.
fn run(variable: &dyn Fn(&str) -> Option<String>, input: &str) -> Result<Option<Value>, Failure> {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Ok(Some(json!({ "cniVersion": VERSION, "supportedVersions": SUPPORTED })));
    }
    let value: Value = serde_json::from_str(input)
        .map_err(|e| Failure::new(code::DECODE, format!("the network configuration is not JSON: {e}")))?;
    let network: Network = serde_json::from_value(value)
        .map_err(|e| Failure::new(code::INVALID_CONFIG, format!("the network configuration is invalid: {e}")))?;
    if !SUPPORTED.contains(&network.cni_version.as_str()) {
        let message = format!("cniVersion {:?} is not supported: use one of {SUPPORTED:?}", network.cni_version);
        return Err(Failure::new(code::INCOMPATIBLE_VERSION, message));
    }
    let pool = Pool::new(&network.data_dir, network.subnet);
    match command.as_str() {
        "ADD" => add(&network, &pool, &Environment::read(variable)?).map(Some),
        "DEL" => delete(&pool, &Environment::read(variable)?).map(|()| None),
        "CHECK" => check(&network, &pool, &Environment::read(variable)?).map(|()| None),
        "GC" => collect(&network, &pool).map(|()| None),
        "STATUS" => status(&pool).map(|()| None),
        _ => Err(Failure::new(code::INVALID_ENVIRONMENT, format!("CNI_COMMAND {command:?} is not known"))),
    }
}

fn add(network: &Network, pool: &Pool, environment: &Environment) -> Result<Value, Failure> {
    let netns = environment.netns()?;
    sysctl::prepare_node().map_err(|e| Failure::new(code::IO, e))?;
    let owner = environment.owner();
    let had = pool.find(&owner)?.is_some();
    let address = pool.lease(&owner)?;
    let host_interface = connect::host_interface(&owner);
    let connection = Connection {
        host_interface: &host_interface,
        pod_interface: &environment.interface,
        netns,
        address,
        mtu: network.mtu,
        node: network.node_ip,
    };
    let connected = connection.connect().inspect_err(|_| {
        if !had {
            // The runtime may never call DEL after a failed ADD. Should this fail too, GC finds it.
            let _ = connect::disconnect(&host_interface);
            let _ = pool.release(&owner);
        }
    })?;
    let success = Success {
        cni_version: network.cni_version.clone(),
        interfaces: vec![
            Interface {
                name: host_interface.clone(),
                mac: mac(connected.host_mac),
                mtu: network.mtu,
                sandbox: String::new(),
            },
            Interface {
                name: environment.interface.clone(),
                mac: mac(connected.pod_mac),
                mtu: network.mtu,
                sandbox: netns.display().to_string(),
            },
        ],
        ips: vec![Ip { address: Ipv4Net::from(address), gateway: GATEWAY, interface: 1 }],
        routes: vec![json!({ "dst": "0.0.0.0/0", "gw": GATEWAY })],
        dns: json!({}),
    };
    merge(network, success)
}

/// A chained plugin adds to what those before it did.
fn merge(network: &Network, success: Success) -> Result<Value, Failure> {
    let mut result = serde_json::to_value(success).map_err(|e| Failure::new(code::DECODE, e))?;
    let Some(Value::Object(previous)) = &network.prev_result else { return Ok(result) };
    let offset = previous.get("interfaces").and_then(Value::as_array).map_or(0, Vec::len);
    for ip in result["ips"].as_array_mut().into_iter().flatten() {
        ip["interface"] = json!(1 + offset);
    }
    for list in ["interfaces", "ips", "routes"] {
        if let Some(Value::Array(before)) = previous.get(list) {
            let mut all = before.clone();
            all.extend(result[list].as_array().cloned().unwrap_or_default());
            result[list] = Value::Array(all);
        }
    }
    if let Some(dns) = previous.get("dns") {
        result["dns"] = dns.clone();
    }
    Ok(result)
}

fn delete(pool: &Pool, environment: &Environment) -> Result<(), Failure> {
    let owner = environment.owner();
    connect::disconnect(&connect::host_interface(&owner))?;
    pool.release(&owner)?;
    Ok(())
}

fn check(network: &Network, pool: &Pool, environment: &Environment) -> Result<(), Failure> {
    let owner = environment.owner();
    let Some(address) = pool.find(&owner)? else {
        return Err(Failure::new(code::IO, format!("{owner} has no address")));
    };
    let host_interface = connect::host_interface(&owner);
    let connection = Connection {
        host_interface: &host_interface,
        pod_interface: &environment.interface,
        netns: environment.netns()?,
        address,
        mtu: network.mtu,
        node: network.node_ip,
    };
    connection.check()?;
    Ok(())
}

fn collect(network: &Network, pool: &Pool) -> Result<(), Failure> {
    let live: BTreeSet<String> = network.valid_attachments.iter().map(|a| owner(&a.container_id, &a.ifname)).collect();
    // The interface first: a lease without interface is found by the next collection, an interface without lease
    // by none.
    for lease in pool.leases()?.iter().filter(|lease| !live.contains(&lease.owner)) {
        connect::disconnect(&connect::host_interface(&lease.owner))?;
    }
    pool.retain(|lease| live.contains(&lease.owner))?;
    Ok(())
}

fn status(pool: &Pool) -> Result<(), Failure> {
    let unavailable = |e: &dyn std::fmt::Display| Failure::new(code::NOT_AVAILABLE, e);
    pool.leases().map_err(|e| unavailable(&e))?;
    crate::netlink::Netlink::open().and_then(|mut netlink| netlink.links()).map_err(|e| unavailable(&e))?;
    Ok(())
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

#[cfg(test)]
mod tests;
