//! A cluster of IPv4 and IPv6, by kubectl.

use std::sync::Arc;

use crate::families::{NOBODY, ask, node_addresses, server_addresses, set_up, texts};
use crate::harness::{Cluster, Namespace, Result, SOON, contains, same, wait_until};
use crate::workloads::http_get;

const SERVICES: &str = "apiVersion: v1
kind: Service
metadata: {name: both}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilies: [IPv6]
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

/// Beside the others, in a cluster with IPv6 first.
const PREFERRING: &str = "apiVersion: v1
kind: Service
metadata: {name: wide}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: four}
spec:
  ipFamilies: [IPv4]
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
";

fn answers(ns: &Namespace, address: &str, port: u16) -> Result<bool> {
    Ok(ask(ns, address, port)?.starts_with("web-"))
}

pub fn pods_and_services_have_both_families(_: &Arc<Cluster>) -> Result {
    let ns = set_up("dual", SERVICES)?;
    nodes_and_pods_have_two_of_everything(&ns)?;
    let addresses = families_are_by_policy(&ns)?;
    names_are_of_both(&ns, &addresses)?;

    // From outside: the NodePort and the load balancer's address of IPv6, from this machine.
    let port = ns.field("service/both", "{.spec.ports[0].nodePort}")?;
    let node = &node_addresses(&ns, 1)?[1];
    let balanced = ns.field("service/both", "{.status.loadBalancer.ingress[1].ip}")?;
    for address in [format!("[{node}]:{port}"), format!("[{balanced}]:80")] {
        wait_until(&format!("{address} answers"), SOON, || Ok(http_get(&address)?.contains("web-")))?;
    }

    // A policy bars the one family as the other.
    ns.apply(NOBODY)?;
    for address in &addresses {
        wait_until(&format!("{address} is barred"), SOON, || Ok(!answers(&ns, address, 80)?))?;
    }
    // A second family is given up, and its address with it.
    ns.kubectl(&["delete", "networkpolicy", "nobody"])?;
    ns.kubectl(&["patch", "service", "both", "-p", r#"{"spec":{"ipFamilyPolicy":"SingleStack"}}"#])?;
    same(texts(&ns, "service/both", "{.spec.clusterIPs[*]}")?, addresses[..1].to_vec(), "what is left")?;
    wait_until("the one that stays answers", SOON, || answers(&ns, &addresses[0], 80))?;
    wait_until("the other's address is nobody's", SOON, || Ok(!answers(&ns, &addresses[1], 80)?))
}

/// The other way round: what does not say otherwise is of IPv6, and lists begin with it.
pub fn ipv6_comes_first(_: &Arc<Cluster>) -> Result {
    let ns = set_up("dual-ipv6", &format!("{PREFERRING}{SERVICES}"))?;
    let is_v6_first = |addresses: &[String], what: &str| {
        let families: Vec<bool> = addresses.iter().map(|address| address.contains(':')).collect();
        same(families, vec![true, false], what)
    };
    for number in 1..=2 {
        let node = format!("node/{}", ns.cluster.node(number));
        is_v6_first(&texts(&ns, &node, "{.spec.podCIDRs[*]}")?, "podCIDRs")?;
        is_v6_first(&node_addresses(&ns, number)?, "node addresses")?;
    }
    let pods = server_addresses(&ns)?;
    for addresses in &pods {
        is_v6_first(addresses, "podIPs")?;
    }
    let asker = texts(&ns, "pod/asker", "{.status.podIPs[*].ip}")?;
    for ip in pods.concat() {
        let own = if ip.contains(':') { &asker[0] } else { &asker[1] };
        wait_until(&format!("the pod at {ip} answers, and sees the asker's own address"), SOON, || {
            Ok(ask(&ns, &ip, 8080)?.ends_with(own.as_str()))
        })?;
    }
    for (service, families) in [("plain", "IPv6"), ("wide", "IPv6 IPv4"), ("both", "IPv6 IPv4"), ("four", "IPv4")] {
        same(ns.field(&format!("service/{service}"), "{.spec.ipFamilies[*]}")?.as_str(), families, service)?;
        for ip in texts(&ns, &format!("service/{service}"), "{.spec.clusterIPs[*]}")? {
            wait_until(&format!("{service} answers at {ip}"), SOON, || answers(&ns, &ip, 80))?;
        }
    }
    is_v6_first(&texts(&ns, "service/wide", "{.spec.clusterIPs[*]}")?, "clusterIPs")?;
    let api = ns.cluster.get(&["service", "kubernetes"])?;
    same(api["spec"]["clusterIP"].as_str(), Some("fd00:10:96::1"), "the API's service")?;
    let dns = ns.cluster.get(&["service", "kube-dns", "-n", "kube-system"])?;
    same(dns["spec"]["clusterIPs"].to_string(), r#"["fd00:10:96::a","10.96.0.10"]"#.to_owned(), "the DNS service")?;
    contains(&ns.shell("asker", "cat /etc/resolv.conf")?, "nameserver fd00:10:96::a")?;
    wait_until("a service answers by its name", SOON, || answers(&ns, "wide", 80))?;
    contains(&ns.kubectl(&["logs", "deployment/web"])?, "GET / HTTP")?;

    // From outside, by both.
    let port = ns.field("service/wide", "{.spec.ports[0].nodePort}")?;
    for address in node_addresses(&ns, 1)? {
        let at = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
        wait_until(&format!("{at} answers"), SOON, || Ok(http_get(&at)?.contains("web-")))?;
    }
    is_v6_first(&texts(&ns, "service/both", "{.status.loadBalancer.ingress[*].ip}")?, "the balancer's addresses")
}

/// The IPv4 one first.
fn nodes_and_pods_have_two_of_everything(ns: &Namespace) -> Result {
    for number in 1..=2 {
        let ranges = texts(ns, &format!("node/{}", ns.cluster.node(number)), "{.spec.podCIDRs[*]}")?;
        same(ranges.len(), 2, "podCIDRs")?;
        contains(&ranges[1], "fd00:10:244:")?;
        let addresses = node_addresses(ns, number)?;
        same((addresses.len(), addresses[1].contains(':')), (2, true), "node addresses")?;
    }
    for addresses in server_addresses(ns)? {
        same((addresses.len(), addresses[0].contains('.')), (2, true), "podIPs")?;
        for ip in addresses {
            wait_until(&format!("the pod at {ip} answers"), SOON, || answers(ns, &ip, 8080))?;
        }
    }
    Ok(())
}

/// The addresses of the service `both`.
fn families_are_by_policy(ns: &Namespace) -> Result<Vec<String>> {
    same(ns.field("service/both", "{.spec.ipFamilies[*]}")?.as_str(), "IPv4 IPv6", "families")?;
    let addresses = texts(ns, "service/both", "{.spec.clusterIPs[*]}")?;
    contains(&addresses[1], "fd00:10:96::")?;
    for address in &addresses {
        wait_until(&format!("{address} answers"), SOON, || answers(ns, address, 80))?;
    }
    let path = "jsonpath={.items[*].addressType}";
    let slices = ns.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=both", "-o", path])?;
    let mut types: Vec<&str> = slices.split_whitespace().collect();
    types.sort_unstable();
    same(types, vec!["IPv4", "IPv6"], "slices")?;
    contains(&ns.field("service/six", "{.spec.clusterIP}")?, "fd00:10:96::")?;
    same(ns.field("service/plain", "{.spec.ipFamilies[*]}")?.as_str(), "IPv4", "the preferred family")?;
    Ok(addresses)
}

/// Both records, and back from the address.
fn names_are_of_both(ns: &Namespace, addresses: &[String]) -> Result {
    let resolve = "import socket
print(sorted({a[4][0] for a in socket.getaddrinfo('both', 80, proto=socket.IPPROTO_TCP)}))";
    let found = ns.python("asker", resolve)?;
    for address in addresses {
        contains(&found, address)?;
    }
    let back = format!("import socket; print(socket.gethostbyaddr('{}')[0])", addresses[1]);
    contains(&ns.python("asker", &back)?, "both.")
}
