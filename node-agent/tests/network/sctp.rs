//! SCTP, by packets made here: the kernel that tests run on may know nothing of it.

use serde_json::{Value, json};

use crate::fixture::{Cluster, Place, Stream, eventually};

/// What both sides need.
const COMMON: &str = r#"
import socket, struct, sys
def crc(data):
    c = 0xffffffff
    for b in data:
        c ^= b
        for _ in range(8): c = c >> 1 ^ (0x82f63b78 if c & 1 else 0)
    return c ^ 0xffffffff
def packet(src, dst, tag, kind, body):
    data = struct.pack(">HHII", src, dst, tag, 0) + struct.pack(">BBH", kind, 0, 4 + len(body)) + body
    return data[:8] + struct.pack("<I", crc(data)) + data[12:]
def receive(s, family):
    data, peer = s.recvfrom(65536)
    if family == socket.AF_INET: data = data[(data[0] & 15) * 4:]
    src, dst, tag, check = struct.unpack(">HHI", data[:8]) + struct.unpack("<I", data[8:12])
    good = crc(data[:8] + bytes(4) + data[12:]) == check
    return peer[0], src, dst, tag, data[12], data[16:], good
"#;

/// Answers an INIT to port 8080 with an INIT ACK that names the server and who it thinks has asked.
const SERVER: &str = r#"
name, family = sys.argv[1], socket.AF_INET6 if sys.argv[2] == "6" else socket.AF_INET
s = socket.socket(family, socket.SOCK_RAW, 132)
print("open", flush=True)
while True:
    peer, src, dst, tag, kind, body, good = receive(s, family)
    if dst == 8080 and kind == 1 and good:
        s.sendto(packet(dst, src, struct.unpack(">I", body[:4])[0], 2, f"{name} {peer}".encode()), (peer, 0))
"#;

/// Sends an INIT, and says what came back, and from where.
const CLIENT: &str = r#"
to, port, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in to else socket.AF_INET
s = socket.socket(family, socket.SOCK_RAW, 132); s.settimeout(1)
s.sendto(packet(own, port, 0, 1, struct.pack(">IIHHI", 77, 65536, 1, 1, 1)), (to, 0))
try:
    while True:
        peer, src, dst, tag, kind, body, good = receive(s, family)
        if dst != own or kind not in (2, 6): continue
        if not good or tag != 77: print("error: checksum or tag")
        elif kind == 6: print("refused", peer, src)
        else: print(body.decode(), peer, src)
        break
except OSError as e: print("error:", e)
"#;

/// Asks until the answer comes from `server`; how the server saw the asker.
fn ask_until(place: &Place, to: &str, port: u16, own: u16, server: &str) -> String {
    eventually(&format!("{server} answers {} at {to}:{port}", place.name), || {
        let answer = place.output(&format!("{COMMON}{CLIENT}"), &[to, &port.to_string(), &own.to_string()]);
        let words: Vec<&str> = answer.split(' ').collect();
        match words[..] {
            [name, seen, from, at] if name == server && from == to && at == port.to_string() => Ok(seen.to_owned()),
            [name, from, at] if name == server && from == to && at == port.to_string() => Ok(String::new()),
            _ => Err(answer),
        }
    })
}

fn serve(place: &Place, family: &str) -> Stream {
    place.start(&format!("{COMMON}{SERVER}"), &[&place.name, family], &place.name)
}

fn service(vips: &[&str], balanced: &[&str]) -> Value {
    let ingress: Vec<Value> = balanced.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "metadata": { "namespace": "default", "name": "web" },
        "spec": {
            "type": "LoadBalancer", "clusterIP": vips[0], "clusterIPs": vips,
            "ports": [{ "name": "s", "protocol": "SCTP", "port": 80, "nodePort": 30_080 }],
        },
        "status": { "loadBalancer": { "ingress": ingress } },
    })
}

fn slice(family: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoint = |(ip, node): &(&str, &str)| json!({ "addresses": [ip], "nodeName": node });
    json!({
        "metadata": {
            "namespace": "default", "name": format!("web-{}", family.to_lowercase()),
            "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": family,
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<Value>>(),
        "ports": [{ "name": "s", "protocol": "SCTP", "port": 8_080 }],
    })
}

#[test]
fn services_lead_to_their_endpoints() {
    let mut cluster = Cluster::new();
    let pods = [("n1", "a1"), ("n2", "a2"), ("n3", "a3")].map(|(node, name)| (cluster.pod(node, name), node));
    let b1 = cluster.pod("n1", "b1");
    let client = cluster.client();
    let _servers: Vec<Stream> = pods.iter().map(|(pod, _)| serve(pod, "4")).collect();
    cluster.put("services", &service(&["10.96.0.20"], &["172.30.0.130"]));
    for (pod, node) in &pods {
        cluster.put("endpointslices", &slice("IPv4", &[(&pod.address, node)]));
        // A neighbour, pods elsewhere, the endpoint itself, a process of a node.
        for asker in [&b1, &pods[0].0, &pods[1].0, &pods[2].0] {
            let seen = ask_until(asker, "10.96.0.20", 80, 40_000, &pod.name);
            let expected =
                if asker.name == pod.name { cluster.host(node).address.clone() } else { asker.address.clone() };
            assert_eq!(seen, expected, "{} to {}", asker.name, pod.name);
        }
        let host = cluster.host("n1");
        assert_eq!(ask_until(&host, "10.96.0.20", 80, 40_000, &pod.name), host.address);
        // Node ports and load balancers, from outside and inside.
        let seen = ask_until(&client, "172.30.0.11", 30_080, 40_000, &pod.name);
        assert_eq!(seen, if *node == "n1" { client.address.as_str() } else { "172.30.0.11" });
        ask_until(&client, "172.30.0.130", 80, 40_001, &pod.name);
        ask_until(&b1, "172.30.0.12", 30_080, 40_002, &pod.name);
    }
    // Nobody is there, and that is said.
    cluster.put("endpointslices", &slice("IPv4", &[]));
    for (asker, to, port) in
        [(&b1, "10.96.0.20", 80), (&cluster.host("n1"), "10.96.0.20", 80), (&client, "172.30.0.11", 30_080)]
    {
        ask_until(asker, to, port, 40_003, "refused");
    }
    ask_until(&b1, "10.96.0.20", 81, 40_003, "refused");
}

#[test]
fn by_ipv6_too() {
    let mut cluster = Cluster::dual_stack();
    let a1 = cluster.pod("n1", "a1");
    let a3 = cluster.pod("n3", "a3");
    let client = cluster.client();
    let _servers = [serve(&a1, "6"), serve(&a3, "6")];
    cluster.put("services", &service(&["10.96.0.20", "fd00:10:96::20"], &["172.30.0.130", "fd00:172:30::130"]));
    for (pod, node) in [(&a1, "n1"), (&a3, "n3")] {
        cluster.put("endpointslices", &slice("IPv6", &[(&pod.address6, node)]));
        for asker in [&a1, &a3, &cluster.host("n1")] {
            ask_until(asker, "fd00:10:96::20", 80, 40_000, &pod.name);
        }
        ask_until(&client, "fd00:172:30::11", 30_080, 40_000, &pod.name);
        ask_until(&client, "fd00:172:30::130", 80, 40_000, &pod.name);
    }
}
