//! The files that every container gets: pure.

use std::net::IpAddr;

use crate::api::Pod;
use crate::pods::spec::hostname;

/// The cluster's DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its address.
    pub address: IpAddr,
    /// `cluster.local`.
    pub domain: String,
}

/// At most so many name servers are used (libc's limit).
const NAME_SERVERS_MAX: usize = 3;

/// `/etc/hosts` of a pod with its own network.
pub fn hosts(pod: &Pod, addresses: &[IpAddr], domain: &str) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n\
                    127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\n\
                    fe00::0\tip6-mcastprefix\n\
                    fe00::1\tip6-allnodes\n\
                    fe00::2\tip6-allrouters\n"
        .to_owned();
    let name = hostname(pod);
    for address in addresses {
        if pod.spec.subdomain.is_empty() {
            text.push_str(&format!("{address}\t{name}\n"));
        } else {
            let (subdomain, namespace) = (&pod.spec.subdomain, &pod.metadata.namespace);
            text.push_str(&format!("{address}\t{name}.{subdomain}.{namespace}.svc.{domain}\t{name}\n"));
        }
    }
    text + &aliases(pod)
}

/// `/etc/hosts` of a pod on the node's network: the node's own.
pub fn host_network_hosts(pod: &Pod, node: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", aliases(pod))
}

fn aliases(pod: &Pod) -> String {
    if pod.spec.host_aliases.is_empty() {
        return String::new();
    }
    let mut text = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in &pod.spec.host_aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
    text
}

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let kind = words.next();
            let rest = words.map(str::to_owned);
            match kind {
                Some("nameserver") => resolver.servers.extend(rest.take(1)),
                // The last one counts.
                Some("search" | "domain") => resolver.searches = rest.filter(|s| s != ".").collect(),
                Some("options") => resolver.options.extend(rest),
                _ => {}
            }
        }
        resolver
    }
}

/// `/etc/resolv.conf`, made of the pod's policy and the node's own file (dns.go upstream).
pub fn resolv_conf(pod: &Pod, node: &str, cluster: Option<&ClusterDns>) -> String {
    let node = Resolver::parse(node);
    let policy = match pod.spec.dns_policy.as_str() {
        "" | "ClusterFirst" if pod.spec.host_network => "Default",
        "" => "ClusterFirst",
        policy => policy,
    };
    let mut resolver = match (policy, cluster) {
        ("None", _) => Resolver::default(),
        ("ClusterFirst" | "ClusterFirstWithHostNet", Some(cluster)) => {
            let domain = &cluster.domain;
            let mut searches =
                vec![format!("{}.svc.{domain}", pod.metadata.namespace), format!("svc.{domain}"), domain.clone()];
            searches.extend(node.searches);
            Resolver { servers: vec![cluster.address.to_string()], searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => node,
    };
    if let Some(own) = &pod.spec.dns_config {
        resolver.servers.extend(own.nameservers.iter().cloned());
        resolver.searches.extend(own.searches.iter().cloned());
        for option in &own.options {
            // An option of the pod's own replaces the same one.
            let name = |o: &String| o.split(':').next() == Some(option.name.as_str());
            resolver.options.retain(|o| !name(o));
            resolver.options.push(match &option.value {
                Some(value) => format!("{}:{value}", option.name),
                None => option.name.clone(),
            });
        }
    }
    dedup(&mut resolver.servers);
    dedup(&mut resolver.searches);
    resolver.servers.truncate(NAME_SERVERS_MAX);
    let mut text = String::new();
    if !resolver.searches.is_empty() {
        text.push_str(&format!("search {}\n", resolver.searches.join(" ")));
    }
    for server in &resolver.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !resolver.options.is_empty() {
        text.push_str(&format!("options {}\n", resolver.options.join(" ")));
    }
    text
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "web-0", "namespace": "shop" }, "spec": spec })).unwrap()
    }

    fn cluster() -> ClusterDns {
        ClusterDns { address: "10.96.0.10".parse().unwrap(), domain: "cluster.local".to_owned() }
    }

    #[test]
    fn pods_ask_the_cluster_first() {
        let text = resolv_conf(&pod(json!({})), "nameserver 1.1.1.1\nsearch lan\n", Some(&cluster()));
        let expected = "search shop.svc.cluster.local svc.cluster.local cluster.local lan\n\
                        nameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_pods_own_settings_are_added_or_stand_alone() {
        let own =
            json!({ "nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{ "name": "ndots", "value": "2" }] });
        let none = resolv_conf(
            &pod(json!({ "dnsPolicy": "None", "dnsConfig": own })),
            "nameserver 1.1.1.1\n",
            Some(&cluster()),
        );
        assert_eq!(none, "search x\nnameserver 9.9.9.9\noptions ndots:2\n");
        let added = resolv_conf(&pod(json!({ "dnsConfig": own })), "", Some(&cluster()));
        assert!(added.ends_with("nameserver 10.96.0.10\nnameserver 9.9.9.9\noptions ndots:2\n"), "{added}");
        let host = resolv_conf(&pod(json!({ "hostNetwork": true })), "nameserver 1.1.1.1\n", Some(&cluster()));
        assert_eq!(host, "nameserver 1.1.1.1\n");
    }

    #[test]
    fn a_pod_finds_itself_and_its_aliases() {
        let spec = json!({ "subdomain": "web", "hostAliases": [{ "ip": "1.2.3.4", "hostnames": ["a", "b"] }] });
        let text = hosts(&pod(spec), &["10.244.0.9".parse().unwrap()], "cluster.local");
        assert!(text.contains("10.244.0.9\tweb-0.web.shop.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }
}
