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

/// What `iptables-restore` takes: the chains of kube-proxy's iptables mode (`pkg/proxy/iptables`), and those packets that
/// come through the node port.
pub fn iptables(services: usize, base: Ipv4Addr, backend: (Ipv4Addr, u16), node_port: u16) -> String {
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
        let _ = write!(chains, ":KUBE-SVC-{number} - [0:0]\n:KUBE-SEP-{number} - [0:0]\n");
        let service = address(base, number);
        let _ = write!(
            rules,
            "-A KUBE-SERVICES -d {service}/32 -p tcp -m tcp --dport {PORT} -j KUBE-SVC-{number}\n\
             -A KUBE-SVC-{number} -j KUBE-SEP-{number}\n\
             -A KUBE-SEP-{number} -s {ip}/32 -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-{number} -p tcp -m tcp -j DNAT --to-destination {ip}:{port}\n"
        );
    }
    let _ = writeln!(chains, ":KUBE-EXT-0 - [0:0]");
    let _ = write!(
        rules,
        "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         -A KUBE-NODEPORTS -p tcp -m tcp --dport {node_port} -j KUBE-EXT-0\n\
         -A KUBE-EXT-0 -j KUBE-MARK-MASQ\n-A KUBE-EXT-0 -j KUBE-SVC-0\n"
    );
    format!("{chains}{rules}COMMIT\n")
}

/// What takes them away.
pub const NO_IPTABLES: &str =
    "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n";

/// What `nft -f` takes: the tables of kube-proxy's nftables mode (`pkg/proxy/nftables`), a map from address, protocol and
/// port to the service's chain.
pub fn nftables(services: usize, base: Ipv4Addr, backend: (Ipv4Addr, u16), node_port: u16) -> String {
    let (ip, port) = backend;
    let mut text = String::from("table ip kube-proxy {\n");
    let mut elements = Vec::with_capacity(services);
    for number in 0..services {
        let _ = write!(
            text,
            "  chain endpoint-{number} {{\n    ip saddr {ip} jump mark-for-masquerade\n    meta l4proto tcp dnat to {ip}:{port}\n  }}\n\
             \x20 chain service-{number} {{\n    numgen random mod 1 vmap {{ 0 : goto endpoint-{number} }}\n  }}\n"
        );
        elements.push(format!("{} . tcp . {PORT} : goto service-{number}", address(base, number)));
    }
    let _ = write!(
        text,
        "  chain external-0 {{\n    jump mark-for-masquerade\n    goto service-0\n  }}\n\
         \x20 chain mark-for-masquerade {{\n    meta mark set meta mark or 0x4000\n  }}\n\
         \x20 map service-ips {{\n    type ipv4_addr . inet_proto . inet_service : verdict\n    elements = {{ {} }}\n  }}\n\
         \x20 map service-nodeports {{\n    type inet_proto . inet_service : verdict\n    elements = {{ tcp . {node_port} : goto external-0 }}\n  }}\n\
         \x20 chain services {{\n    ip daddr . meta l4proto . th dport vmap @service-ips\n\
         \x20   fib daddr type local meta l4proto . th dport vmap @service-nodeports\n  }}\n\
         \x20 chain nat-prerouting {{\n    type nat hook prerouting priority dstnat; policy accept;\n    jump services\n  }}\n\
         \x20 chain nat-output {{\n    type nat hook output priority -100; policy accept;\n    jump services\n  }}\n\
         \x20 chain nat-postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n\
         \x20   meta mark and 0x4000 == 0 return\n    meta mark set meta mark xor 0x4000\n    masquerade fully-random\n  }}\n}}\n",
        elements.join(", ")
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
        let base = Ipv4Addr::new(10, 200, 0, 1);
        let backend = (Ipv4Addr::new(172, 30, 0, 12), 7000);
        let rules = iptables(300, base, backend, 31_999);
        assert!(rules.contains("-A KUBE-SERVICES -d 10.200.1.44/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-299\n"));
        assert_eq!(rules.matches("-j DNAT --to-destination 172.30.0.12:7000").count(), 300);
        let table = nftables(300, base, backend, 31_999);
        assert!(table.contains("10.200.1.44 . tcp . 80 : goto service-299"));
        assert_eq!(table.matches("dnat to 172.30.0.12:7000").count(), 300);
    }
}
