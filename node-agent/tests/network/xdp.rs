//! The uplink's driver forwards what passes through a node.

use std::process::Command;

use nix::net::if_::if_nametoindex;
use serde_json::json;
use xebec_ebpf_loader::Datapath;
use xebec_ebpf_loader::layout::{Config, flow_counters};

use crate::fixture::{Cluster, eventually};
use crate::services::balanced;
use crate::{ask_until, slice};

/// Has ports of a switch add up checksums before they send. (There may be no `ethtool` here; this is its request, of
/// linux/ethtool.h.)
const ADD_UP: &str = r#"
import array, fcntl, socket, struct, sys
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in sys.argv[1:]:
    data = array.array("B", struct.pack("II", ETHTOOL_STXCSUM, 0))
    fcntl.ioctl(s, SIOCETHTOOL, struct.pack("16sP", port.encode(), data.buffer_info()[0]))
"#;

/// Makes of the switch's ends of veth pairs what a wire's are: what comes from there has its checksums, and what a driver sends
/// there is received, for which the end needs a program of its own. One that knows no node passes everything on.
fn like_wires(ports: &[&str]) -> Datapath {
    let (mut datapath, _) = Datapath::load_unpinned(&Config::ZERO).unwrap();
    for port in ports {
        datapath.attach_uplink_xdp(if_nametoindex(*port).unwrap()).unwrap();
    }
    let status = Command::new("python3").args(["-S", "-c", ADD_UP]).args(ports).status().unwrap();
    assert!(status.success());
    datapath
}

fn carried(cluster: &Cluster, node: &str) -> u64 {
    cluster.maps(node).flow_counters.sum(flow_counters::CARRIED_BY_XDP).unwrap()
}

/// A word of its own: not `xdpgeneric`.
fn is_in_driver(cluster: &Cluster, node: &str) -> bool {
    cluster.uplink(node).split_whitespace().any(|word| word == "xdp")
}

/// The kernel lets go of a program some time after nobody holds its link any more.
fn is_out_of_driver(cluster: &Cluster, node: &str) {
    eventually(&format!("{node} is without XDP"), || {
        if is_in_driver(cluster, node) { Err(cluster.uplink(node)) } else { Ok(()) }
    });
}

#[test]
fn what_passes_through_a_node_is_forwarded_by_its_driver() {
    let mut cluster = Cluster::new();
    let a1 = cluster.pod("n1", "a1");
    let a2 = cluster.pod("n2", "a2");
    let a3 = cluster.pod("n3", "a3");
    let client = cluster.client();
    assert!(!is_in_driver(&cluster, "n1"), "nobody asked, and this driver pays for it");
    let _wires = cluster.at_the_switch(|| like_wires(&["n1", "n2"]));
    for node in ["n1", "n2"] {
        cluster.reconfigure(node, "xdp", "always");
        assert!(is_in_driver(&cluster, node), "{}", cluster.uplink(node));
    }

    // A node port of one node, an endpoint on the other.
    cluster.put("services", &balanced(&json!({})));
    cluster.put("endpointslices", &slice("web", &[(&a2.address, "n2")]));
    assert_eq!(ask_until(&client, "172.30.0.11:30080", &["a2"]), ["172.30.0.11"; 4]);
    let before = carried(&cluster, "n1");
    client.transfer("172.30.0.11", 30_081, 3_000_000);
    let bulk = carried(&cluster, "n1") - before;
    assert!(bulk > 2_000, "of the 2,072 segments and their answers only {bulk}");
    let before = carried(&cluster, "n1");
    let mut socket = client.datagrams("172.30.0.11:30080", true);
    assert!((0..40).all(|_| socket.ask() == "a2"));
    let datagrams = carried(&cluster, "n1") - before;
    assert!(datagrams >= 60, "of 80 datagrams only {datagrams}");
    let answer = client.ask_large("172.30.0.11:30080", 4_000);
    assert!(answer.starts_with("a2"), "in fragments: {answer}");

    // A load balancer's address, at whichever node.
    ask_until(&client, "172.30.0.130:80", &["a2"]);
    let owner = cluster.owner_of("172.30.0.130");
    client.transfer("172.30.0.130", 81, 300_000);
    if owner == "n1" {
        assert!(carried(&cluster, "n1") > before + datagrams + 200);
    }

    // The agent goes, and another comes: connections stay, and so does what carries them.
    let mut stream = client.open("172.30.0.11:30080");
    stream.exchange("before");
    cluster.kill_agent("n1");
    let before = carried(&cluster, "n1");
    (0..20).for_each(|_| stream.exchange("without an agent"));
    assert!(carried(&cluster, "n1") >= before + 30);
    cluster.start_agent("n1");
    stream.exchange("with a new one");
    let before = carried(&cluster, "n1");
    (0..20).for_each(|_| stream.exchange("with a new one"));
    assert!(carried(&cluster, "n1") >= before + 30);

    // Endpoints of its own, and those behind the tunnel, as ever.
    for (pod, node) in [(&a1, "n1"), (&a3, "n3")] {
        cluster.put("endpointslices", &slice("web", &[(&pod.address, node)]));
        eventually("the new endpoint", || {
            let answer = client.ask("tcp", "172.30.0.11:30080")?;
            if answer.server == pod.name { Ok(()) } else { Err(answer.server) }
        });
        client.transfer("172.30.0.11", 30_081, 300_000);
    }
    stream.exchange("to the endpoint that has it");

    cluster.reconfigure("n1", "xdp", "never");
    is_out_of_driver(&cluster, "n1");
    stream.exchange("behind the driver");
    cluster.unload("n2");
    is_out_of_driver(&cluster, "n2");
}
