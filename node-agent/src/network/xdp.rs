//! Whether the uplink's driver forwards what only passes through the node, or the hooks behind it do all.

use std::io;

use xebec_cni::netlink::Link;
use xebec_ebpf_loader::{Datapath, Error, driver};

/// Drivers that can, and should not be told to by themselves: with a program in the driver they receive no segments larger than
/// the link's and no checksums that the sender left to be done, so every connection of the node's own pods pays more for it than
/// connections that pass through gain. (A veth pair's other end needs a program of its own besides, or
/// what is sent back is not received.)
const COSTLY: [&str; 3] = ["veth", "virtio_net", "tun"];

/// When the uplink's driver forwards connections that pass through the node (to NodePorts and load balancer addresses with an
/// endpoint on another node).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    /// Where the driver can, and nothing else becomes slower for it.
    #[default]
    Auto,
    /// Where the driver can.
    Always,
    /// Never.
    Never,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct XdpState {
    /// Whether the driver forwards.
    pub in_use: bool,
    /// The uplink's driver; empty if it has not said.
    pub driver: String,
    /// Why it does not; empty if it does.
    pub reason: String,
}

/// Puts the program into the driver, or takes it out, as the setting and the driver say. That a driver cannot is no error:
/// the hooks behind it do all that it would.
pub(super) fn apply(setting: Xdp, datapath: &mut Datapath, uplink: &Link) -> Result<XdpState, Error> {
    let driver = driver::name(&uplink.name);
    let refused = refusal(setting, driver.as_deref().ok());
    let reason = match refused {
        Some(reason) => Some(reason),
        None => datapath.attach_uplink_xdp(uplink.index).err().map(|error| error.to_string()),
    };
    let driver = driver.unwrap_or_else(said_nothing);
    match &reason {
        None if COSTLY.contains(&driver.as_str()) => tracing::warn!(
            interface = %uplink.name,
            %driver,
            "XDP is in use: this driver receives no large segments with it, which slows down the node's own connections; the \
             other end of a veth pair needs an XDP program too, or packets are lost"
        ),
        None => tracing::info!(interface = %uplink.name, %driver, "the uplink's driver forwards NodePorts, by XDP"),
        Some(reason) => {
            datapath.detach_uplink_xdp()?;
            if setting == Xdp::Always {
                tracing::warn!(interface = %uplink.name, %driver, %reason, "no XDP, though the setting xdp is always: tcx forwards NodePorts");
            } else {
                tracing::info!(interface = %uplink.name, %driver, %reason, "no XDP: tcx forwards NodePorts");
            }
        }
    }
    Ok(XdpState { in_use: reason.is_none(), driver, reason: reason.unwrap_or_default() })
}

fn said_nothing(error: io::Error) -> String {
    tracing::debug!(%error, "the uplink's driver has no name");
    String::new()
}

/// Why not even to try.
fn refusal(setting: Xdp, driver: Option<&str>) -> Option<String> {
    match (setting, driver) {
        (Xdp::Never, _) => Some("the setting xdp is never".to_owned()),
        (Xdp::Auto, Some(driver)) if COSTLY.contains(&driver) => Some(format!(
            "with XDP the driver {driver} receives no large segments; set xdp to always to have it all the same"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_pays_for_it_is_asked_only_if_it_must() {
        let refused = |setting, driver| refusal(setting, driver).is_some();
        for (driver, costly) in
            [(Some("veth"), true), (Some("virtio_net"), true), (Some("ixgbe"), false), (None, false)]
        {
            assert_eq!(refused(Xdp::Auto, driver), costly, "{driver:?}");
            assert!(!refused(Xdp::Always, driver), "{driver:?}");
            assert!(refused(Xdp::Never, driver), "{driver:?}");
        }
    }
}
