//! What the API says of a connection, read plainly: a verdict worked out from the objects one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Value, json};
use xebec_ebpf_loader::layout::proto;

use super::Tier;

/// The API's objects by kind and name.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub policies: BTreeMap<String, Value>,
    pub namespaces: BTreeMap<String, Value>,
    pub pods: BTreeMap<String, Value>,
    /// By tier and name.
    pub admins: BTreeMap<(Tier, String), Value>,
    pub nodes: BTreeMap<String, Value>,
    /// Names that were looked up on the node, with what they led to.
    pub names: BTreeMap<String, BTreeSet<String>>,
}

impl Objects {
    fn pod_at(&self, ip: &str) -> Option<&Value> {
        let has = |pod: &&Value| pod["status"]["podIPs"][0]["ip"] == ip && pod["spec"]["hostNetwork"] != true;
        // The later of two.
        self.pods
            .values()
            .filter(has)
            .max_by_key(|pod| pod["metadata"]["creationTimestamp"].as_str().map(str::to_owned))
    }

    /// Whether a connection in this direction, seen from `pod`, is allowed. Read from the API's documentation.
    pub fn allows(&self, pod: &Value, direction: &str, peer: &str, proto: u8, port: u16) -> bool {
        match self.first(Tier::Admin, pod, direction, peer, proto, port).as_deref() {
            Some("Allow") => return true,
            Some("Deny") => return false,
            _ => {}
        }
        let policies = self.policies_allow(pod, direction, peer, proto, port);
        policies
            .unwrap_or_else(|| self.first(Tier::Baseline, pod, direction, peer, proto, port).as_deref() != Some("Deny"))
    }

    /// The action of the first rule of the administrators' that matches.
    fn first(&self, tier: Tier, pod: &Value, direction: &str, peer: &str, proto: u8, port: u16) -> Option<String> {
        let (rules, from) = if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        let mut all: Vec<_> = self.admins.iter().filter(|((of, _), _)| *of == tier).collect();
        all.sort_by_key(|((_, name), policy)| (policy["spec"]["priority"].as_i64().unwrap_or(0), name.clone()));
        let destination = if direction == "Ingress" { Some(pod) } else { self.pod_at(peer) };
        for (_, policy) in all.into_iter().filter(|(_, policy)| self.is_among(&policy["spec"]["subject"], pod)) {
            for rule in policy["spec"][rules].as_array().into_iter().flatten() {
                let peers = rule[from].as_array().unwrap();
                if peers.iter().any(|p| self.is_admin_peer(p, peer)) && is_admin_port(rule, destination, proto, port) {
                    return Some(text(&rule["action"]).to_owned());
                }
            }
        }
        None
    }

    fn is_among(&self, subject: &Value, pod: &Value) -> bool {
        let namespace = self.namespaces.get(text(&pod["metadata"]["namespace"]));
        let in_namespace = |selector| namespace.is_some_and(|ns| matches(selector, &ns["metadata"]["labels"]));
        match subject.get("namespaces") {
            Some(selector) => in_namespace(selector),
            None => {
                in_namespace(&subject["pods"]["namespaceSelector"])
                    && matches(&subject["pods"]["podSelector"], &pod["metadata"]["labels"])
            }
        }
    }

    fn is_admin_peer(&self, peer: &Value, ip: &str) -> bool {
        if let Some(networks) = peer.get("networks") {
            let ip: Ipv4Addr = ip.parse().unwrap();
            let holds = |cidr: &Value| text(cidr).parse::<Ipv4Net>().unwrap().contains(&ip);
            return networks.as_array().unwrap().iter().any(holds);
        }
        if let Some(patterns) = peer.get("domainNames") {
            let is_meant = |name: &String| {
                patterns.as_array().unwrap().iter().map(text).any(|pattern| match pattern.strip_prefix('*') {
                    Some(end) => name.len() > end.len() && name.ends_with(end),
                    None => name == pattern,
                })
            };
            return self.names.iter().any(|(name, ips)| ips.contains(ip) && is_meant(name));
        }
        if let Some(selector) = peer.get("nodes") {
            let is_it = |node: &&Value| node["status"]["addresses"][0]["address"] == ip;
            // A pod may have taken the address: then it is the pod's.
            return self.pod_at(ip).is_none()
                && self.nodes.values().filter(is_it).any(|node| matches(selector, &node["metadata"]["labels"]));
        }
        self.pod_at(ip).is_some_and(|pod| self.is_among(peer, pod))
    }

    /// What network policies say; none if none selects the pod.
    fn policies_allow(&self, pod: &Value, direction: &str, peer: &str, proto: u8, port: u16) -> Option<bool> {
        let (rules, from) = if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        let mut isolated = false;
        for policy in self.policies.values() {
            let spec = &policy["spec"];
            let types = spec["policyTypes"].as_array().unwrap();
            if policy["metadata"]["namespace"] != pod["metadata"]["namespace"]
                || !matches(&spec["podSelector"], &pod["metadata"]["labels"])
                || !types.contains(&json!(direction))
            {
                continue;
            }
            isolated = true;
            for rule in spec[rules].as_array().into_iter().flatten() {
                let destination = if direction == "Ingress" { Some(pod) } else { self.pod_at(peer) };
                let peers = rule[from].as_array().cloned().unwrap_or_default();
                if (peers.is_empty() || peers.iter().any(|p| self.is_peer(policy, p, peer)))
                    && is_port(&rule["ports"], destination, proto, port)
                {
                    return Some(true);
                }
            }
        }
        isolated.then_some(false)
    }

    fn is_peer(&self, policy: &Value, peer: &Value, ip: &str) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            let ip: Ipv4Addr = ip.parse().unwrap();
            let holds = |cidr: &Value| cidr.as_str().unwrap().parse::<Ipv4Net>().unwrap().contains(&ip);
            return holds(&block["cidr"]) && !block["except"].as_array().into_iter().flatten().any(holds);
        }
        let Some(pod) = self.pod_at(ip) else { return false };
        let namespace = pod["metadata"]["namespace"].as_str().unwrap();
        let in_namespace = match peer.get("namespaceSelector") {
            Some(selector) => {
                self.namespaces.get(namespace).is_some_and(|ns| matches(selector, &ns["metadata"]["labels"]))
            }
            None => policy["metadata"]["namespace"] == namespace,
        };
        in_namespace && peer.get("podSelector").is_none_or(|selector| matches(selector, &pod["metadata"]["labels"]))
    }
}

fn matches(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    wanted.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().all(|expression| {
            let value = labels.get(expression["key"].as_str().unwrap());
            let among = expression["values"].as_array().is_some_and(|values| value.is_some_and(|v| values.contains(v)));
            match expression["operator"].as_str().unwrap() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

fn is_port(ports: &Value, destination: Option<&Value>, proto: u8, port: u16) -> bool {
    let ports = ports.as_array().cloned().unwrap_or_default();
    let number = |name: &Value| match text(name) {
        "TCP" => proto::TCP,
        "UDP" => proto::UDP,
        _ => proto::SCTP,
    };
    let named = |rule: &Value| {
        let all = destination.and_then(|pod| pod["spec"]["containers"][0]["ports"].as_array());
        all.into_iter().flatten().any(|own| {
            own["name"] == rule["port"] && own["protocol"] == rule["protocol"] && own["containerPort"] == port
        })
    };
    ports.is_empty()
        || ports.iter().filter(|rule| number(&rule["protocol"]) == proto).any(|rule| match &rule["port"] {
            Value::Null => true,
            Value::String(_) => named(rule),
            first => {
                let first = first.as_u64().unwrap();
                (first..=rule["endPort"].as_u64().unwrap_or(first)).contains(&u64::from(port))
            }
        })
}

fn is_admin_port(rule: &Value, destination: Option<&Value>, proto: u8, port: u16) -> bool {
    let Some(ports) = rule.get("ports") else { return true };
    ports.as_array().unwrap().iter().any(|rule| {
        if let Some(number) = rule.get("portNumber") {
            let one = json!([{ "protocol": number["protocol"], "port": number["port"] }]);
            return is_port(&one, destination, proto, port);
        }
        if let Some(range) = rule.get("portRange") {
            let one = json!([{ "protocol": range["protocol"], "port": range["start"], "endPort": range["end"] }]);
            return is_port(&one, destination, proto, port);
        }
        ["TCP", "UDP", "SCTP"].iter().any(|protocol| {
            let one = json!([{ "protocol": protocol, "port": rule["namedPort"] }]);
            is_port(&one, destination, proto, port)
        })
    })
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
