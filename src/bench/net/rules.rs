//! The other ways, as kube-proxy has them: rules of iptables, and of nftables with verdict maps. Both for a given number
//! of services of one backend each; the last is the one that is measured.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// The port of every service.
pub const PORT: u16 = 80;

/// The address of service `number`, in a network that nothing else uses.
pub fn address(base: Ipv4Addr, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base) + u32::try_from(number).unwrap_or(u32::MAX))
}

/// What leads to the services.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    /// The first service's address; the others' follow.
    pub base: Ipv4Addr,
    /// The node port of the first service.
    pub node_port: u16,
    /// The load balancer's address of the last.
    pub load_balancer: Ipv4Addr,
}

/// Those services that are measured have a port for datagrams, too.
fn protocols(number: usize, services: usize) -> &'static [&'static str] {
    if number == 0 || number + 1 == services { &["tcp", "udp"] } else { &["tcp"] }
}

/// What `iptables-restore` takes: the chains of kube-proxy's iptables mode (`pkg/proxy/iptables`), in its table `nat`.
pub fn iptables(services: usize, entries: Entries, backend: (Ipv4Addr, u16)) -> String {
    let mut chains = String::from(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n",
    );
    let mut rules = String::from(
        "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n",
    );
    let (ip, port) = backend;
    // Formatting into a string has no way to fail.
    for number in 0..services {
        let service = address(entries.base, number);
        for protocol in protocols(number, services) {
            let name = format!("{number}-{protocol}");
            let matching = format!("-p {protocol} -m {protocol} --dport");
            let _ = write!(chains, ":KUBE-SVC-{name} - [0:0]\n:KUBE-SEP-{name} - [0:0]\n");
            let _ = write!(
                rules,
                "-A KUBE-SERVICES -d {service}/32 {matching} {PORT} -j KUBE-SVC-{name}\n\
                 -A KUBE-SVC-{name} -j KUBE-SEP-{name}\n\
                 -A KUBE-SEP-{name} -s {ip}/32 -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{name} -p {protocol} -m {protocol} -j DNAT --to-destination {ip}:{port}\n"
            );
            let outside = [
                (number + 1 == services, format!("-A KUBE-SERVICES -d {}/32 {matching} {PORT}", entries.load_balancer)),
                (number == 0, format!("-A KUBE-NODEPORTS {matching} {}", entries.node_port)),
            ];
            if outside.iter().any(|(is_there, _)| *is_there) {
                let _ = writeln!(chains, ":KUBE-EXT-{name} - [0:0]");
                let _ = write!(rules, "-A KUBE-EXT-{name} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{name} -j KUBE-SVC-{name}\n");
            }
            for (_, rule) in outside.iter().filter(|(is_there, _)| *is_there) {
                let _ = writeln!(rules, "{rule} -j KUBE-EXT-{name}");
            }
        }
    }
    rules += "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
    format!("{chains}{rules}COMMIT\n")
}

/// What takes them away.
pub const NO_IPTABLES: &str =
    "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n";

/// What `nft -f` takes: the tables of kube-proxy's nftables mode (`pkg/proxy/nftables`), a map from address, protocol and
/// port to the service's chain.
pub fn nftables(services: usize, entries: Entries, backend: (Ipv4Addr, u16)) -> String {
    let (ip, port) = backend;
    let mut text = String::from("table ip kube-proxy {\n");
    let mut elements = Vec::with_capacity(services);
    let mut node_ports = Vec::new();
    text += "  chain mark-for-masquerade {\n    meta mark set meta mark or 0x4000\n  }\n";
    for number in 0..services {
        for protocol in protocols(number, services) {
            let name = format!("{number}-{protocol}");
            let _ = write!(
                text,
                "  chain endpoint-{name} {{\n    ip saddr {ip} jump mark-for-masquerade\n    meta l4proto {protocol} dnat to {ip}:{port}\n  }}\n\
                 \x20 chain service-{name} {{\n    numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}\n  }}\n"
            );
            elements.push(format!("{} . {protocol} . {PORT} : goto service-{name}", address(entries.base, number)));
            if number == 0 {
                node_ports.push(format!("{protocol} . {} : goto external-{name}", entries.node_port));
            }
            if number + 1 == services {
                elements.push(format!("{} . {protocol} . {PORT} : goto external-{name}", entries.load_balancer));
            }
            if number == 0 || number + 1 == services {
                let _ = write!(
                    text,
                    "  chain external-{name} {{\n    jump mark-for-masquerade\n    goto service-{name}\n  }}\n"
                );
            }
        }
    }
    let _ = write!(
        text,
        "  map service-ips {{\n    type ipv4_addr . inet_proto . inet_service : verdict\n    elements = {{ {} }}\n  }}\n\
         \x20 map service-nodeports {{\n    type inet_proto . inet_service : verdict\n    elements = {{ {} }}\n  }}\n\
         \x20 chain services {{\n    ip daddr . meta l4proto . th dport vmap @service-ips\n\
         \x20   fib daddr type local meta l4proto . th dport vmap @service-nodeports\n  }}\n\
         \x20 chain nat-prerouting {{\n    type nat hook prerouting priority dstnat; policy accept;\n    jump services\n  }}\n\
         \x20 chain nat-output {{\n    type nat hook output priority -100; policy accept;\n    jump services\n  }}\n\
         \x20 chain nat-postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n\
         \x20   meta mark and 0x4000 == 0 return\n    meta mark set meta mark xor 0x4000\n    masquerade fully-random\n  }}\n}}\n",
        elements.join(", "),
        node_ports.join(", ")
    );
    text
}

/// What takes them away.
pub const NO_NFTABLES: &str = "delete table ip kube-proxy\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_its_rules() {
        let load_balancer = Ipv4Addr::new(10, 203, 0, 1);
        let entries = Entries { base: Ipv4Addr::new(10, 200, 0, 1), node_port: 31_999, load_balancer };
        let backend = (Ipv4Addr::new(172, 30, 0, 12), 7000);
        let rules = iptables(300, entries, backend);
        assert!(rules.contains("-A KUBE-SERVICES -d 10.200.1.44/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-299-tcp\n"));
        assert!(rules.contains("-A KUBE-SERVICES -d 10.203.0.1/32 -p udp -m udp --dport 80 -j KUBE-EXT-299-udp\n"));
        assert!(rules.contains("-A KUBE-NODEPORTS -p tcp -m tcp --dport 31999 -j KUBE-EXT-0-tcp\n"));
        assert_eq!(rules.matches("-j DNAT --to-destination 172.30.0.12:7000").count(), 302);
        let table = nftables(300, entries, backend);
        assert!(table.contains("10.200.1.44 . tcp . 80 : goto service-299-tcp"));
        assert!(table.contains("10.203.0.1 . udp . 80 : goto external-299-udp"));
        assert_eq!(table.matches("dnat to 172.30.0.12:7000").count(), 302);
    }
}
