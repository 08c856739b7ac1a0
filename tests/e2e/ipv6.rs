//! A cluster of IPv6 alone, by kubectl.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::families::{NOBODY, ask, node_addresses, server_addresses, set_up, texts};
use crate::harness::{Cluster, Namespace, Result, SOON, contains, same, wait_until};
use crate::workloads::http_get;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web, annotations: {xebec.io/load-balancer-mode: dsr}}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

pub fn a_cluster_without_ipv4(_: &Arc<Cluster>) -> Result {
    let ns = set_up("ipv6", SERVICE)?;
    nothing_has_an_ipv4_address(&ns)?;
    inside(&ns)?;
    outside(&ns)?;
    traces(&ns)?;
    ns.apply(NOBODY)?;
    wait_until("the service is barred", SOON, || Ok(ask(&ns, "web", 80)?.is_empty()))
}

fn nothing_has_an_ipv4_address(ns: &Namespace) -> Result {
    for number in 1..=2 {
        let node = ns.cluster.node(number);
        let addresses = node_addresses(ns, number)?;
        same((addresses.len(), addresses[0].starts_with("fd00:172:30:")), (1, true), "node addresses")?;
        same(texts(ns, &format!("node/{node}"), "{.spec.podCIDRs[*]}")?.len(), 1, "podCIDRs")?;
        let own = ns.cluster.on_node(&node, &["ip", "-4", "-o", "address", "show", "dev", "eth0"])?;
        same(own.ok("addresses of the node")?.trim(), "", "IPv4 addresses of a node")?;
    }
    for addresses in server_addresses(ns)? {
        same((addresses.len(), addresses[0].starts_with("fd00:10:244:")), (1, true), "podIPs")?;
    }
    // Of the table only the heading.
    same(ns.shell("asker", "cat /proc/net/route")?.lines().count(), 1, "IPv4 routes of a pod")
}

/// Pods by address; services by name and address; the API server.
fn inside(ns: &Namespace) -> Result {
    let own = ns.field("pod/asker", "{.status.podIP}")?;
    for ip in server_addresses(ns)?.concat() {
        wait_until(&format!("the pod at {ip} answers, and sees the asker's own address"), SOON, || {
            Ok(ask(ns, &ip, 8080)?.ends_with(&own))
        })?;
    }
    same(ns.field("service/web", "{.spec.ipFamilies[*]}")?.as_str(), "IPv6", "families")?;
    let cluster_ip = ns.field("service/web", "{.spec.clusterIP}")?;
    contains(&cluster_ip, "fd00:10:96::")?;
    for host in [cluster_ip.as_str(), "web"] {
        wait_until(&format!("{host} answers"), SOON, || Ok(ask(ns, host, 80)?.starts_with("web-")))?;
    }
    let api = "import os, ssl, urllib.request as u
root = '/var/run/secrets/kubernetes.io/serviceaccount/'
request = u.Request('https://[%s]/version' % os.environ['KUBERNETES_SERVICE_HOST'])
request.add_header('Authorization', 'Bearer ' + open(root + 'token').read())
print(u.urlopen(request, context=ssl.create_default_context(cafile=root + 'ca.crt')).read().decode())";
    contains(&ns.python("asker", api)?, "gitVersion")?;
    contains(&ns.kubectl(&["logs", "deployment/web"])?, "GET / HTTP")
}

/// From this machine: NodePorts, and the balancer's address, whose backends answer it directly.
fn outside(ns: &Namespace) -> Result {
    let said = |address: &str| http_get(address).map(|answer| answer.lines().last().unwrap_or_default().to_owned());
    let port = ns.field("service/web", "{.spec.ports[0].nodePort}")?;
    for address in [node_addresses(ns, 1)?, node_addresses(ns, 2)?].concat() {
        let at = format!("[{address}]:{port}");
        wait_until(&format!("{at} answers"), SOON, || Ok(said(&at)?.starts_with("web-")))?;
    }
    let balanced = format!("[{}]:80", ns.field("service/web", "{.status.loadBalancer.ingress[0].ip}")?);
    let mut seen = BTreeSet::new();
    wait_until("both endpoints answer through the balancer's address, and see this machine's", SOON, || {
        let said = said(&balanced)?;
        let (name, client) = said.split_once(' ').ok_or_else(|| format!("no answer: {said}"))?;
        same((client.starts_with("fd00:172:30:"), client.ends_with("::1")), (true, true), client)?;
        seen.insert(name.to_owned());
        Ok(seen.len() == 2)
    })
}

/// `xebec trace` knows the way that packets have taken, with a client of the family.
fn traces(ns: &Namespace) -> Result {
    let (asker, web) = (format!("{}/asker", ns.name), format!("{}/web:80", ns.name));
    for (from, program) in [(asker.as_str(), "connect"), ("outside", "uplink_ingress")] {
        let traced = ns.cluster.xebec_named(&["trace", "--from", from, "--to", &web])?.ok("trace")?;
        contains(&traced, program)?;
        contains(&traced, &format!("the destination is service {}/web", ns.name))?;
    }
    contains(&ns.cluster.xebec_named(&["status"])?.ok("status")?, "fd00:172:30:")
}
