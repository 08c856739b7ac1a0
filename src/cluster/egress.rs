//! The way from the nodes to networks beyond this machine: forwarding, and the host's own address on what leaves.
//!
//! The one place where a packet filter's rule is used, and on the host only, since what leaves must share the host's
//! ports with the host's own connections. Nodes on machines of their own have no use for it.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::{Cluster, Name, host_link};

/// What the nodes can do without [`set_up`], and how to have the rest.
pub const WITHOUT: &str = "the nodes reach this machine and each other, but nothing beyond";

/// Lets the cluster's addresses out. Returns the links whose forwarding was turned on; doing it again changes nothing.
pub fn set_up(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let table = table(&cluster.name);
    let (link, subnet) = (cluster.host_link(), cluster.addresses().subnet());
    // Declared, emptied and filled in one transaction.
    let rules = format!(
        "table ip {table} {{\n}}\ndelete table ip {table}\ntable ip {table} {{\n\
         chain out {{ type nat hook postrouting priority srcnat; \
         ip saddr {subnet} oifname != \"{link}\" ip daddr != {subnet} masquerade; }}\n}}\n"
    );
    nft(&rules)?;
    let mut turned_on = Vec::new();
    let mut ways = default_links()?;
    ways.push(link);
    for way in ways {
        let setting = forwarding(&way);
        if fs::read_to_string(&setting).is_ok_and(|v| v.trim() == "0") {
            fs::write(&setting, "1").with_context(|| format!("cannot set {}", setting.display()))?;
            turned_on.push(way);
        }
    }
    Ok(turned_on)
}

/// Undoes it; true if there was something to undo.
pub fn remove(name: &Name) -> anyhow::Result<bool> {
    // Without nft, or before the first rule, there is nothing to undo.
    let listed = Command::new("nft").args(["list", "table", "ip", &table(name)]).stdin(Stdio::null()).output();
    if !listed.is_ok_and(|o| o.status.success()) {
        return Ok(false);
    }
    nft(&format!("delete table ip {}\n", table(name)))?;
    Ok(true)
}

/// Turns forwarding off on `links`, those that `up` turned it on for.
pub fn stop_forwarding(links: &[String]) {
    for link in links {
        let _ = fs::write(forwarding(link), "0");
    }
}

fn table(name: &Name) -> String {
    host_link(name).replace('-', "_")
}

fn forwarding(link: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv4/conf").join(link).join("forwarding")
}

/// The links that the host's default routes leave by.
fn default_links() -> anyhow::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/net/route").context("cannot read the routing table")?;
    let default = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let link = fields.next()?;
        (fields.next() == Some("00000000")).then(|| link.to_owned())
    };
    Ok(table.lines().skip(1).filter_map(default).collect())
}

fn nft(rules: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!("nft is not installed (apt-get install nftables)"),
            _ => anyhow::anyhow!("cannot run nft: {e}"),
        })?;
    child.stdin.take().context("nft has no input")?.write_all(rules.as_bytes()).context("nft reads no rules")?;
    let output = child.wait_with_output().context("nft does not end")?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
