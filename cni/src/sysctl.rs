//! The kernel's settings for the network namespace this process is in.

use std::fs;
use std::io;

/// A setting that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set the sysctl {name} to {value}: {source} (mount /proc/sys writable, or set it beforehand)")]
pub struct Error {
    /// Which, with dots.
    pub name: String,
    /// To what.
    pub value: String,
    /// The kernel's reason.
    pub source: io::Error,
}

/// Writes a setting, given with slashes (interfaces' names may hold dots). If it has the value already, nothing is
/// written: in a container the file may be read-only and right.
pub fn set(name: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/{name}");
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| Error { name: name.replace('/', "."), value: value.to_owned(), source })
}

/// First and last of the ports that sockets are given which ask for none, of both families.
pub fn local_ports() -> Option<[u16; 2]> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map(str::parse);
    Some([ports.next()?.ok()?, ports.next()?.ok()?])
}

/// What a node's forwarding needs.
pub fn prepare_node() -> Result<(), Error> {
    set("net/ipv4/ip_forward", "1")?;
    // A pod's packets leave by a redirect and their answers come by another way: strict reverse path checks drop them.
    set("net/ipv4/conf/all/rp_filter", "0")?;
    set("net/ipv4/conf/default/rp_filter", "0")
}
