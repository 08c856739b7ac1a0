//! Which policies have a say in a connection, and what each says: for people. The verdict is the kernel's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use xebec_ebpf_loader::layout::Direction;

use super::admin::{Admin, AdminPolicy, NodeView, Tier};
use super::parse;
use super::rules::{Action, Identity, Rule, Term};
use super::views::{Labels, Namespace, NetworkPolicy, Pod};
use super::world::{named_ports, pods_match, with_numbers};
use crate::api::status::is_final;

/// What there is.
#[derive(Debug, Default)]
pub struct Objects {
    /// All policies.
    pub policies: Vec<NetworkPolicy>,
    /// All namespaces.
    pub namespaces: Vec<Namespace>,
    /// All pods.
    pub pods: Vec<Pod>,
    /// All policies of the administrators.
    pub admins: Vec<(Tier, AdminPolicy)>,
    /// All nodes.
    pub nodes: Vec<NodeView>,
}

/// A connection, seen from a pod.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Which way.
    pub direction: Direction,
    /// The other side.
    pub peer: IpAddr,
    /// The IP protocol.
    pub protocol: u8,
    /// The destination port.
    pub port: u16,
    /// The names that led pods of the pod's node to the other side.
    pub names: &'a [String],
}

/// What a policy says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The policy: `NetworkPolicy NAMESPACE/NAME`, `AdminNetworkPolicy NAME (priority N)`, ...
    pub policy: String,
    /// What its first rule that matches does; none: no rule matches.
    pub action: Option<Action>,
    /// If the rule means the other side by its name: `NAME as PATTERN`.
    pub by_name: Option<String>,
}

impl Objects {
    /// The policies that select the pod in this direction, in the order in which they count; network policies, which
    /// count all together, by name.
    pub fn explain(&self, question: Question<'_>) -> Vec<Said> {
        let mut out = self.explain_tier(Tier::Admin, question);
        out.extend(self.explain_policies(question));
        out.extend(self.explain_tier(Tier::Baseline, question));
        out
    }

    fn explain_tier(&self, tier: Tier, question: Question<'_>) -> Vec<Said> {
        let subject = &question.pod.metadata;
        let namespace = self.namespaces.iter().find(|ns| ns.metadata.name == subject.namespace);
        let labels = namespace.map(|ns| &ns.metadata.labels);
        let mut selecting: Vec<(Admin, &str)> = self
            .admins
            .iter()
            .filter(|(of, _)| *of == tier)
            .filter_map(|(_, policy)| Some((Admin::read(policy).ok()?, policy.metadata.name.as_str())))
            .filter(|(admin, _)| admin.selects(&subject.namespace, labels, &subject.labels))
            .filter(|(admin, _)| !admin.rules(question.direction).is_empty())
            .collect();
        selecting.sort_by_key(|(admin, name)| (admin.priority, *name));
        let said = |(admin, name): (Admin, &str)| {
            let policy = match tier {
                Tier::Admin => format!("{} {name} (priority {})", tier.kind(), admin.priority),
                Tier::Baseline => format!("{} {name}", tier.kind()),
            };
            self.say(policy, admin.rules(question.direction), question)
        };
        selecting.into_iter().map(said).collect()
    }

    fn explain_policies(&self, question: Question<'_>) -> Vec<Said> {
        let subject = &question.pod.metadata;
        let mut out = Vec::new();
        for policy in &self.policies {
            let Ok(read) = parse::read(policy) else { continue };
            if policy.metadata.namespace != subject.namespace || !read.selects(&subject.labels) {
                continue;
            }
            if let Some(rules) = read.rules(question.direction) {
                let policy = format!("NetworkPolicy {}/{}", policy.metadata.namespace, policy.metadata.name);
                out.push(self.say(policy, rules, question));
            }
        }
        out.sort_by(|a, b| a.policy.cmp(&b.policy));
        out
    }

    fn say(&self, policy: String, rules: &[Rule], question: Question<'_>) -> Said {
        let rule = self.first(rules, question);
        let by_name = rule.iter().flat_map(|rule| rule.peers.iter().flatten()).find_map(|(_, term)| {
            let Term::Domain(pattern) = term else { return None };
            let name = question.names.iter().find(|name| pattern.matches(name))?;
            Some(format!("{name} as {pattern}"))
        });
        Said { policy, action: rule.map(|rule| rule.action), by_name }
    }

    /// The first of the rules that is about the connection.
    fn first<'r>(&self, rules: &'r [Rule], question: Question<'_>) -> Option<&'r Rule> {
        let labels: BTreeMap<&str, &Labels> =
            self.namespaces.iter().map(|ns| (ns.metadata.name.as_str(), &ns.metadata.labels)).collect();
        let peer = self.pod_at(question.peer);
        let matches = |term: &Term| match term {
            Term::Block(cidr, except) => {
                let ip = IpNet::from(question.peer);
                cidr.contains(&ip) && !except.iter().any(|net| net.contains(&ip))
            }
            Term::Domain(pattern) => question.names.iter().any(|name| pattern.matches(name)),
            Term::Nodes(nodes) => self
                .nodes
                .iter()
                .any(|node| nodes.matches(&node.metadata.labels) && node.ips().any(|ip| ip == question.peer)),
            Term::Pods(..) => peer.is_some_and(|pod| {
                let namespace = pod.metadata.namespace.as_str();
                pods_match(term, namespace, labels.get(namespace).copied(), &pod.metadata.labels)
            }),
        };
        let named = match question.direction {
            Direction::Ingress => named_ports(question.pod),
            Direction::Egress => peer.map(named_ports).unwrap_or_default(),
        };
        rules.iter().find(|rule| {
            let rule = with_numbers((*rule).clone(), &named);
            let terms = rule.peers.iter().flatten().filter(|(_, term)| matches(term)).map(|(id, _)| *id).collect();
            let identity = Identity { terms, ports: named.clone() };
            rule.matches(&identity, question.protocol, question.port)
        })
    }

    /// The pod that has an address; the later of two.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        let has = |pod: &&Pod| {
            !is_final(&pod.status.phase)
                && !pod.spec.host_network
                && pod.status.pod_ips.iter().any(|own| own.ip == address)
        };
        self.pods.iter().filter(has).max_by_key(|pod| pod.metadata.creation_timestamp)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};
    use xebec_ebpf_loader::layout::proto;

    use super::*;

    fn pod(name: &str, namespace: &str, ip: &str) -> Pod {
        let metadata = json!({"name": name, "namespace": namespace, "labels": {"app": name}});
        let ports = json!([{"name": "http", "containerPort": 8_080}]);
        let spec = json!({"containers": [{"ports": ports}]});
        from_value(json!({"metadata": metadata, "spec": spec, "status": {"podIPs": [{"ip": ip}]}})).unwrap()
    }

    fn policy(name: &str, ingress: Value) -> NetworkPolicy {
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress});
        from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})).unwrap()
    }

    #[test]
    fn each_policy_that_selects_a_pod_is_told_with_what_it_says() {
        let client = json!({"podSelector": {"matchLabels": {"app": "client"}}});
        let objects = Objects {
            policies: vec![
                policy("deny-all", json!([])),
                policy("allow-client", json!([{"from": [client], "ports": [{"port": "http"}]}])),
                policy("allow-office", json!([{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}])),
            ],
            namespaces: Vec::new(),
            pods: vec![pod("web", "shop", "10.0.0.1"), pod("client", "shop", "10.0.0.2")],
            ..Objects::default()
        };
        let ask = |peer: &str, port| {
            let question = Question {
                pod: &objects.pods[0],
                direction: Direction::Ingress,
                peer: peer.parse().unwrap(),
                protocol: proto::TCP,
                port,
                names: &[],
            };
            let said = objects.explain(question);
            said.into_iter().map(|said| (said.policy, said.action)).collect::<Vec<_>>()
        };
        let all = |client, office| {
            let named = |name: &str, action| (format!("NetworkPolicy shop/{name}"), action);
            vec![named("allow-client", client), named("allow-office", office), named("deny-all", None)]
        };
        assert_eq!(ask("10.0.0.2", 8_080), all(Some(Action::Allow), None));
        assert_eq!(ask("10.0.0.2", 80), all(None, None));
        assert_eq!(ask("192.0.2.9", 80), all(None, Some(Action::Allow)));
        let egress = Question {
            pod: &objects.pods[0],
            direction: Direction::Egress,
            peer: "10.0.0.2".parse().unwrap(),
            protocol: proto::TCP,
            port: 80,
            names: &[],
        };
        assert_eq!(objects.explain(egress), []);
    }

    #[test]
    fn a_rule_of_names_is_told_with_the_name() {
        let all = json!({"namespaces": {}});
        let rules = json!([
            {"action": "Allow", "to": [{"domainNames": ["db.example", "*.example.test"]}]},
            {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]},
        ]);
        let spec = json!({"priority": 7, "subject": all, "egress": rules});
        let admin = from_value(json!({"metadata": {"name": "out"}, "spec": spec})).unwrap();
        let namespace = from_value(json!({"metadata": {"name": "shop"}})).unwrap();
        let objects = Objects {
            namespaces: vec![namespace],
            pods: vec![pod("web", "shop", "10.0.0.1")],
            admins: vec![(Tier::Admin, admin)],
            ..Objects::default()
        };
        let ask = |names: &[String]| {
            let peer = "192.0.2.7".parse().unwrap();
            let (pod, direction) = (&objects.pods[0], Direction::Egress);
            let said = objects.explain(Question { pod, direction, peer, protocol: proto::TCP, port: 80, names });
            (said[0].action, said[0].by_name.clone())
        };
        assert_eq!(ask(&[]), (Some(Action::Deny), None));
        let by_name = Some("www.example.test as *.example.test".to_owned());
        assert_eq!(ask(&["other.test".into(), "www.example.test".into()]), (Some(Action::Allow), by_name));
    }
}
