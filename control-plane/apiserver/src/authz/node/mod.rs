//! What nodes may do (upstream `plugin/pkg/auth/authorizer/node`): a node reads only what the pods bound to it use.

mod graph;
mod rules;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use self::graph::names_other_objects;
use self::graph::{Graph, What};
use super::rbac::Rule;
use super::{Attributes, Authorizer, Decision, Verdict};
use crate::authn::UserInfo;
use crate::reader::Reader;

/// Decides for users `system:node:<name>` in group `system:nodes`; abstains for all others. It never denies: what it
/// does not permit, RBAC still may.
pub struct NodeAuthorizer {
    graph: Graph,
    rules: Vec<Rule>,
}

/// The node that `user` is; an empty name for a member of `system:nodes` that is none in particular.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:");
    if !user.in_group("system:nodes") { None } else { Some(name.unwrap_or_default()) }
}

fn abstain(why: impl Into<String>) -> Decision {
    Decision::NoOpinion(why.into())
}

fn allow() -> Decision {
    Decision::Allow(String::new())
}

impl NodeAuthorizer {
    /// Reads pods and volumes from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { graph: Graph::new(reader), rules: rules::node_rules() }
    }

    /// By what the node's pods use.
    fn related(&self, node: &str, what: What, a: &Attributes) -> Decision {
        if a.name.is_empty() {
            return abstain("No Object name found");
        }
        if self.graph.is_related(node, what, &a.namespace, &a.name) {
            return allow();
        }
        abstain(format!("no relationship found between node '{node}' and this object"))
    }

    fn read(&self, node: &str, what: What, a: &Attributes) -> Decision {
        if !matches!(a.verb.as_str(), "get" | "list" | "watch") {
            return abstain("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return abstain("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return abstain("can only read namespaced object of this type");
        }
        self.related(node, what, a)
    }

    fn get(&self, node: &str, what: What, a: &Attributes) -> Decision {
        if a.verb != "get" {
            return abstain("can only get individual resources of this type");
        }
        if !a.subresource.is_empty() {
            return abstain("cannot get subresource");
        }
        self.related(node, what, a)
    }

    fn claim(&self, node: &str, a: &Attributes) -> Decision {
        if a.subresource != "status" {
            return self.get(node, What::Claim, a);
        }
        if !matches!(a.verb.as_str(), "update" | "patch") {
            return abstain("can only get/update/patch this type");
        }
        self.related(node, What::Claim, a)
    }

    /// The devices of a node. NodeRestriction looks at what new ones say of themselves.
    fn slice(&self, node: &str, a: &Attributes) -> Decision {
        if !a.subresource.is_empty() {
            return abstain("cannot authorize ResourceSlice subresources");
        }
        match a.verb.as_str() {
            "create" => allow(),
            "get" | "update" | "patch" | "delete" => self.related(node, What::ResourceSlice, a),
            "list" | "watch" | "deletecollection" if selects_node(&a.field_selector, node) => allow(),
            "list" | "watch" | "deletecollection" => {
                abstain("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => abstain(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    fn account(&self, node: &str, a: &Attributes) -> Decision {
        if a.verb == "get" && a.subresource.is_empty() {
            return self.get(node, What::ServiceAccount, a);
        }
        if a.verb != "create" || a.name.is_empty() {
            return abstain("can only create tokens for individual service accounts");
        }
        if a.subresource != "token" {
            return abstain("can only create token subresource of serviceaccount");
        }
        self.related(node, What::ServiceAccount, a)
    }

    fn certificate_request(&self, node: &str, a: &Attributes) -> Decision {
        match (a.subresource.as_str(), a.verb.as_str()) {
            // NodeRestriction keeps a node to its own pods.
            ("", "create") => allow(),
            ("", "get") => self.get(node, What::CertificateRequest, a),
            ("", "list" | "watch") if selects_node(&a.field_selector, node) => allow(),
            ("", "list" | "watch") => {
                abstain("can only list/watch podcertificaterequests with spec.nodeName field selector")
            }
            _ => abstain("can only create, get, list, and watch podcertificaterequests"),
        }
    }

    fn pod(&self, node: &str, a: &Attributes) -> Decision {
        match (a.subresource.as_str(), a.verb.as_str()) {
            ("", "get") => self.get(node, What::Pod, a),
            ("", "list" | "watch") => {
                if selects_node(&a.field_selector, node) {
                    return allow();
                }
                if !a.name.is_empty() {
                    return self.related(node, What::Pod, a);
                }
                abstain("can only list/watch pods with spec.nodeName field selector")
            }
            // NodeRestriction keeps a node to its own pods.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => allow(),
            _ => abstain(""),
        }
    }
}

/// Whether the field selector holds pods to those of `node`.
fn selects_node(selector: &str, node: &str) -> bool {
    selector.split(',').any(|term| {
        let value = term.trim().strip_prefix("spec.nodeName").and_then(|rest| rest.strip_prefix('='));
        value.map(|v| v.strip_prefix('=').unwrap_or(v)) == Some(node)
    })
}

fn own_node(node: &str, a: &Attributes) -> Decision {
    match (a.subresource.as_str(), a.verb.as_str()) {
        // NodeRestriction keeps a node to its own object.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
        ("", "get" | "list" | "watch") if a.name == node => allow(),
        ("", "get" | "list" | "watch") if a.name.is_empty() => {
            abstain(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            abstain(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
        }
        _ => abstain(""),
    }
}

fn lease(node: &str, a: &Attributes) -> Decision {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return abstain("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != "kube-node-lease" {
        return abstain("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // The name of a new lease is in its body: NodeRestriction looks at it.
    if a.verb != "create" && a.name != node {
        return abstain("can only access node lease with the same name as the requesting node");
    }
    allow()
}

fn csi_node(node: &str, a: &Attributes) -> Decision {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return abstain("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return abstain("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return abstain("can only access CSINode with the same name as the requesting node");
    }
    allow()
}

impl NodeAuthorizer {
    /// Decides.
    pub fn authorize(&self, a: &Attributes) -> Decision {
        let Some(node) = node_name(&a.user) else { return abstain("") };
        if node.is_empty() {
            return abstain(format!("unknown node for user {:?}", a.user.name));
        }
        if a.is_resource {
            match (a.group.as_str(), a.resource.as_str()) {
                ("", "secrets") => return self.read(node, What::Secret, a),
                ("", "configmaps") => return self.read(node, What::ConfigMap, a),
                ("", "persistentvolumeclaims") => return self.claim(node, a),
                ("", "persistentvolumes") => return self.get(node, What::Volume, a),
                ("resource.k8s.io", "resourceslices") => return self.slice(node, a),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, What::ResourceClaim, a),
                ("storage.k8s.io", "volumeattachments") => return self.get(node, What::Attachment, a),
                ("", "serviceaccounts") => return self.account(node, a),
                ("certificates.k8s.io", "podcertificaterequests") => return self.certificate_request(node, a),
                ("coordination.k8s.io", "leases") => return lease(node, a),
                ("storage.k8s.io", "csinodes") => return csi_node(node, a),
                ("", "nodes") => return own_node(node, a),
                ("", "pods") => return self.pod(node, a),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(a)) { allow() } else { abstain("") }
    }
}

impl Authorizer for NodeAuthorizer {
    fn decide<'a>(&'a self, attributes: &Attributes) -> Verdict<'a> {
        Verdict::Now(self.authorize(attributes))
    }
}
