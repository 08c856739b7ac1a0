//! CustomResourceDefinitions that every cluster has: the administrators' network policies, and the pools of load balancer
//! addresses.
//!
//! They are custom resources and not rows of the table because upstream's network policy API is one that people install
//! by its own manifest: that then finds the definitions, and may replace them.

use serde_json::{Value, json};

/// Of definitions that this server brings up to date: which edition of ours is stored. Whoever replaces one by another
/// leaves it out.
pub(super) const EDITION: &str = "xebec.io/edition";

/// All of them.
pub(super) fn objects() -> Vec<Value> {
    vec![
        network_policy("AdminNetworkPolicy", "adminnetworkpolicies", "anp", admin()),
        network_policy("BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies", "banp", baseline()),
        pools(),
    ]
}

/// A cluster-scoped kind of one version.
fn definition(group: &str, kind: &str, plural: &str, short: &str, version: Value) -> Value {
    let singular = kind.to_lowercase();
    let mut annotations = json!({EDITION: "2"});
    if group.ends_with(".k8s.io") {
        // Where upstream's reviewers have approved of it.
        annotations["api-approved.kubernetes.io"] =
            "https://github.com/kubernetes-sigs/network-policy-api/pull/30".into();
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "annotations": annotations},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {
                "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": singular,
                "shortNames": [short],
            },
            "versions": [version],
        },
    })
}

fn version(name: &str, spec: Value, status: Value, columns: Value, rules: Value) -> Value {
    let mut schema = json!({
        "type": "object",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
            "spec": spec, "status": status,
        },
    });
    if rules != Value::Null {
        schema["x-kubernetes-validations"] = rules;
    }
    json!({
        "name": name, "served": true, "storage": true,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    })
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}

fn age() -> Value {
    column("Age", "date", ".metadata.creationTimestamp")
}

fn network_policy(kind: &str, plural: &str, short: &str, version: Value) -> Value {
    definition("policy.networking.k8s.io", kind, plural, short, version)
}

fn admin() -> Value {
    let mut beyond = nodes_and_networks();
    beyond["domainNames"] = json!({
        "type": "array", "minItems": 1, "maxItems": 25, "x-kubernetes-list-type": "set",
        "description": "Hosts by their names, NAME or *.NAME, for rules that allow: the addresses that the cluster's DNS \
                        has given to the node's pods for them. *.NAME is all names below NAME, and not NAME itself.",
        // Upstream's own, down to its slip (A-z).
        "items": {
            "type": "string",
            "pattern": "^(\\*\\.)?([a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\\.)+[a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\\.?$",
        },
    });
    let mut spec = policy_spec(&["Allow", "Deny", "Pass"], beyond);
    spec["properties"]["egress"]["items"]["x-kubernetes-validations"] = json!([
        no_named_ports(&["networks", "nodes", "domainNames"], "networks/nodes/domainNames"),
        {
            "rule": "self.action == 'Allow' || !self.to.exists(peer, has(peer.domainNames))",
            "message": "domainNames may only be used with Allow action",
        },
    ]);
    spec["required"] = json!(["priority", "subject"]);
    spec["properties"]["priority"] = json!({
        "type": "integer", "format": "int32", "minimum": 0, "maximum": 1000,
        "description": "The lower, the earlier it is heard.",
    });
    let columns = json!([column("Priority", "string", ".spec.priority"), age()]);
    version("v1alpha1", spec, conditions(), columns, Value::Null)
}

fn baseline() -> Value {
    let mut spec = policy_spec(&["Allow", "Deny"], nodes_and_networks());
    spec["properties"]["egress"]["items"]["x-kubernetes-validations"] =
        json!([no_named_ports(&["networks", "nodes"], "networks/nodes")]);
    spec["required"] = json!(["subject"]);
    let rules = json!([{
        "rule": "self.metadata.name == 'default'",
        "message": "Only one baseline admin network policy with metadata.name=\"default\" can be created in the cluster",
    }]);
    version("v1alpha1", spec, conditions(), json!([age()]), rules)
}

fn conditions() -> Value {
    let text = json!({"type": "string"});
    json!({"type": "object", "properties": {"conditions": {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "message": text, "reason": text, "type": text,
                "observedGeneration": {"type": "integer", "format": "int64"},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            },
        },
    }}})
}

fn label_selector() -> Value {
    let texts = json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic"});
    json!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
            "matchExpressions": {
                "type": "array", "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object", "required": ["key", "operator"],
                    "properties": {"key": {"type": "string"}, "operator": {"type": "string"}, "values": texts},
                },
            },
        },
    })
}

/// A label selector whose mistakes are refused: nobody would see that it matches nothing.
fn checked_selector(description: &str) -> Value {
    let key = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
    let value = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";
    let value = json!({"type": "string", "maxLength": 63, "pattern": value});
    let mut selector = label_selector();
    selector["description"] = description.into();
    selector["properties"]["matchLabels"] = json!({
        "type": "object", "maxProperties": 64, "additionalProperties": value,
        "x-kubernetes-validations": [{
            "rule": format!("self.all(key, key.size() <= 317 && key.matches('{key}'))"),
            "message": "each key must be the name of a label",
        }],
    });
    let expressions = &mut selector["properties"]["matchExpressions"];
    expressions["maxItems"] = 64.into();
    let item = &mut expressions["items"];
    item["properties"]["key"] = json!({"type": "string", "maxLength": 317, "pattern": key});
    item["properties"]["operator"]["enum"] = json!(["In", "NotIn", "Exists", "DoesNotExist"]);
    item["properties"]["values"]["maxItems"] = 64.into();
    item["properties"]["values"]["items"] = value;
    item["x-kubernetes-validations"] = json!([{
        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
        "message": "values must be given for the operators In and NotIn, and for no others",
    }]);
    selector
}

/// Exactly one of these.
fn one_of(properties: Value) -> Value {
    json!({"type": "object", "minProperties": 1, "maxProperties": 1, "properties": properties})
}

fn namespaces_or_pods() -> Value {
    json!({
        "namespaces": label_selector(),
        "pods": {
            "type": "object", "required": ["namespaceSelector", "podSelector"],
            "properties": {"namespaceSelector": label_selector(), "podSelector": label_selector()},
        },
    })
}

/// These peers have no ports by name.
fn no_named_ports(peers: &[&str], named: &str) -> Value {
    let any: Vec<String> = peers.iter().map(|peer| format!("has(peer.{peer})")).collect();
    json!({
        "rule": format!(
            "!(self.to.exists(peer, {}) && has(self.ports) && self.ports.exists(port, has(port.namedPort)))",
            any.join(" || ")
        ),
        "message": format!(
            "{named} peer cannot be set with namedPorts since there are no namedPorts for {named}"
        ),
    })
}

/// What traffic goes to, besides pods.
fn nodes_and_networks() -> Value {
    let mut beyond = namespaces_or_pods();
    beyond["nodes"] = label_selector();
    beyond["networks"] = json!({
        "type": "array", "minItems": 1, "maxItems": 25, "x-kubernetes-list-type": "set",
        "items": {
            "type": "string", "maxLength": 43,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self)",
                "message": "Invalid CIDR format provided",
            }],
        },
    });
    beyond
}

fn policy_spec(actions: &[&str], beyond: Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "subject": one_of(namespaces_or_pods()),
            "ingress": rules(actions, "from", &one_of(namespaces_or_pods())),
            "egress": rules(actions, "to", &one_of(beyond)),
        },
    })
}

fn rules(actions: &[&str], peers: &str, peer: &Value) -> Value {
    let number = json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535});
    let protocol = json!({"type": "string", "default": "TCP", "enum": ["TCP", "UDP", "SCTP"]});
    let port = one_of(json!({
        "portNumber": {
            "type": "object", "required": ["port", "protocol"], "properties": {"port": number, "protocol": protocol},
        },
        "portRange": {
            "type": "object", "required": ["end", "start"],
            "properties": {"start": number, "end": number, "protocol": protocol},
            "x-kubernetes-validations": [{
                "rule": "self.start < self.end", "message": "Start port must be less than End port",
            }],
        },
        "namedPort": {"type": "string", "maxLength": 63},
    }));
    json!({
        "type": "array", "maxItems": 100,
        "items": {
            "type": "object",
            "required": ["action", peers],
            "properties": {
                "name": {"type": "string", "maxLength": 100},
                "action": {"type": "string", "enum": actions},
                peers: {"type": "array", "minItems": 1, "maxItems": 100, "items": peer},
                "ports": {"type": "array", "minItems": 1, "maxItems": 100, "items": port},
            },
        },
    })
}

fn pools() -> Value {
    let address = json!({
        "type": "string", "minLength": 1, "maxLength": 90,
        "x-kubernetes-validations": [{
            "rule": "isCIDR(self) || (self.split('-').size() == 2 && self.split('-').all(ip, isIP(ip)))",
            "message": "must be a network, 172.30.0.128/25, or a range, FIRST-LAST",
        }],
    });
    let spec = json!({
        "type": "object",
        "required": ["addresses"],
        "properties": {
            "addresses": {
                "type": "array", "minItems": 1, "maxItems": 64, "items": address, "x-kubernetes-list-type": "set",
                "description": "Networks, or ranges FIRST-LAST.",
            },
            "autoAssign": {
                "type": "boolean", "default": true,
                "description": "Whether services get addresses of the pool that do not ask for them.",
            },
            "serviceSelector": label_selector(),
            "namespaceSelector": label_selector(),
            "nodeSelector": checked_selector(
                "Only the nodes that match answer for the addresses on their link; without it, any node.",
            ),
            "loadBalancerClass": {
                "type": "string", "maxLength": 253,
                "description": "Only services of this class are served, instead of those of none.",
            },
        },
    });
    let count = json!({"type": "integer", "format": "int64"});
    let mut status = conditions();
    status["properties"]["total"] = count.clone();
    status["properties"]["assigned"] = count;
    let ready = ".status.conditions[?(@.type==\"Ready\")].status";
    let answered = ".status.conditions[?(@.type==\"Answered\")].status";
    let columns = json!([
        column("Addresses", "string", ".spec.addresses"),
        column("Auto", "boolean", ".spec.autoAssign"),
        column("Total", "integer", ".status.total"),
        column("Assigned", "integer", ".status.assigned"),
        column("Ready", "string", ready),
        json!({"name": "Nodes", "type": "string", "jsonPath": ".spec.nodeSelector", "priority": 1}),
        json!({"name": "Answered", "type": "string", "jsonPath": answered, "priority": 1}),
        age(),
    ]);
    let version = version("v1alpha1", spec, status, columns, Value::Null);
    definition("net.xebec.io", "LoadBalancerPool", "loadbalancerpools", "lbpool", version)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The API refuses none of them.
    #[test]
    fn they_are_served_as_they_are() {
        let registry = xebec_schema::registry::Registry::builtin();
        let resource = registry.preferred("apiextensions.k8s.io", "CustomResourceDefinition").unwrap();
        for definition in objects() {
            let mut object = definition.clone();
            xebec_schema::defaults::apply(resource, &mut object);
            let errors = (resource.strategy.validate)(&object);
            assert!(errors.is_empty(), "{}: {errors:?}", definition["metadata"]["name"]);
        }
    }
}
