//! What an agent with another layout of the maps finds.

use std::net::Ipv4Addr;

use xebec_ebpf_layout::{Flow, FlowKey, FlowKind, Port, VERSION, map, proto};

use super::{CLIENT, LB, POD};
use crate::{Datapath, unload};

/// A BPF file system of the test's own.
pub struct Bpffs(pub tempfile::TempDir);

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = unload(self.0.path());
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn connections_outlive_another_layout_and_what_is_compiled_anew_does_not() {
    let bpffs = Bpffs(tempfile::tempdir().unwrap());
    let key = FlowKey {
        src: CLIENT.into(),
        dst: LB.into(),
        src_port: Port::new(40_000),
        dst_port: Port::new(80),
        proto: proto::TCP,
        padding: [0; 3],
    };
    let flow = Flow {
        src: CLIENT.into(),
        dst: POD.into(),
        src_port: Port::new(40_000),
        dst_port: Port::new(8_080),
        kind: FlowKind::ServiceForward as u8,
        flags: 0,
        padding: 0,
        service: 1,
        backend: 1,
        last_seen_s: 7,
        begun_us: 0,
    };
    {
        let (_, mut maps) = Datapath::load(bpffs.0.path(), &super::config()).unwrap();
        maps.flows.insert(&key, &flow).unwrap();
        maps.lb_addresses.insert(&Ipv4Addr::LOCALHOST.into(), &1).unwrap();
    }
    // As if those had been an older version's.
    let root = bpffs.0.path().join("xebec");
    let (own, older) = (root.join(format!("v{VERSION}")), root.join(format!("v{}", VERSION - 1)));
    std::fs::rename(&own, &older).unwrap();
    let (_, maps) = Datapath::load(bpffs.0.path(), &super::config()).unwrap();
    assert_eq!(maps.flows.get(&key).unwrap(), Some(flow));
    assert_eq!(maps.lb_addresses.entries().unwrap(), []);
    assert!(!older.exists() && own.join(map::FLOWS).exists());
}
