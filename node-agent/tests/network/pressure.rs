//! More flows than a node has room for.

use serde_json::json;
use xebec_node_agent::network::flow_table::Fill;

use crate::fixture::{Cluster, eventually};
use crate::services::balanced;
use crate::{ask_until, slice};

/// Sends one datagram each from so many addresses and ports that are nobody's. Nothing comes back to them.
const FLOOD: &str = r#"
import socket, struct, sys
to, port, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
dst = socket.inet_aton(to)
udp = struct.pack(">HHHH", 40000, port, 9, 0) + b"?"
for n in range(first, first + count):
    # 198.18.0.0/15 is for tests (RFC 2544). The kernel fills in the header's checksum.
    src = struct.pack(">I", 0xc6120000 + n)
    s.sendto(struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + src + dst + udp, (to, 0))
"#;

/// What is sent between two looks at the connections that live.
const AT_ONCE: usize = 4_000;

#[test]
fn under_pressure_idle_flows_go_before_live_ones() {
    let mut cluster = Cluster::new();
    let a1 = cluster.pod("n1", "a1");
    let client = cluster.client();
    cluster.put("services", &balanced(&json!({})));
    cluster.put("endpointslices", &slice("web", &[(&a1.address, "n1")]));
    ask_until(&client, "172.30.0.11:30080", &["a1"]);
    let mut live: Vec<_> = (0..10).map(|_| client.open("172.30.0.11:30080")).collect();
    live.iter_mut().for_each(|stream| stream.exchange("before"));
    assert_eq!(cluster.flow_table_problem("n1"), None);

    let maps = cluster.maps("n1");
    let fill = || Fill::read(&maps.flows, &maps.flow_counters).unwrap();
    let room = fill().room as usize;
    let mut sent = 0;
    // Each flow has two entries. Some of the datagrams may be lost on the way.
    while fill().evicted() < room as u64 / 2 {
        assert!(sent < room * 3, "{:?} after {sent} flows", fill());
        client.output(FLOOD, &["172.30.0.11", "30080", &sent.to_string(), &AT_ONCE.to_string()]);
        sent += AT_ONCE;
        live.iter_mut().for_each(|stream| stream.exchange("meanwhile"));
    }
    let full = fill();
    assert!(full.present <= full.room && full.present * 10 >= full.room * 9, "{full:?}");
    // New connections find room, and the operator is told.
    eventually("a new connection", || client.ask("tcp", "172.30.0.11:30080").map(drop));
    let problem = cluster.flow_table_problem("n1").expect("the table is full");
    assert!(problem.contains("were evicted so far, idle ones first"), "{problem}");
    live.iter_mut().for_each(|stream| stream.exchange("after"));
}
