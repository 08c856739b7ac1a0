//! What exists from the first start: namespaces, priority classes, the default policy, and the services `kubernetes`
//! and `kube-dns`.
//!
//! [`desired`] lists it and [`plan`] compares that with what is stored, both without I/O; [`reconcile`] carries the plan
//! out. A server that can write many objects in one transaction takes the plan and does that instead.

mod controllers;
mod objects;
mod plan;
mod reconcile;
pub(crate) mod roles;
mod table;

#[cfg(test)]
mod tests;

use serde_json::Value;

pub use objects::{FRONT_PROXY, Facts, api_service_address};
pub use plan::{Change, plan};
pub use reconcile::{Error, reconcile};

/// Every object that should exist, in an order in which they can be created. The namespaces come first.
pub fn desired(facts: &Facts) -> Vec<Value> {
    let mut out = objects::namespaces();
    out.extend(objects::priority_classes());
    out.extend(roles::objects());
    out.extend(objects::services(facts));
    out.extend(objects::endpoints(facts));
    out.extend(objects::config_maps(facts));
    out
}

/// The group and plural of a kind that [`desired`] has.
pub fn group_and_plural(kind: &str) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        "Namespace" => ("", "namespaces"),
        "Service" => ("", "services"),
        "Endpoints" => ("", "endpoints"),
        "ConfigMap" => ("", "configmaps"),
        "EndpointSlice" => ("discovery.k8s.io", "endpointslices"),
        "PriorityClass" => ("scheduling.k8s.io", "priorityclasses"),
        "ClusterRole" => ("rbac.authorization.k8s.io", "clusterroles"),
        "ClusterRoleBinding" => ("rbac.authorization.k8s.io", "clusterrolebindings"),
        "Role" => ("rbac.authorization.k8s.io", "roles"),
        "RoleBinding" => ("rbac.authorization.k8s.io", "rolebindings"),
        _ => return None,
    })
}
