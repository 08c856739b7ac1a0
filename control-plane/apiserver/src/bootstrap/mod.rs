//! What exists from the first start: namespaces, priority classes, the default policy, and the services `kubernetes`
//! and `kube-dns`.
//!
//! [`desired`] lists it and [`plan`] compares that with what is stored, both without I/O; [`reconcile`] carries the plan
//! out. A server that can write many objects in one transaction takes the plan and does that instead.

mod controllers;
mod definitions;
mod objects;
mod plan;
mod reconcile;
pub(crate) mod roles;
mod table;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::Value;
use xebec_clock::Clock;
use xebec_schema::registry::Registry;

use crate::fairness;
pub use objects::{FRONT_PROXY, Facts, address_in, endpoints};
pub use plan::{Change, plan};
pub use reconcile::{Error, reconcile};

/// Every object that should exist, in an order in which they can be created. The namespaces come first.
pub fn desired(facts: &Facts) -> Vec<Value> {
    let mut out = objects::namespaces();
    out.extend(objects::priority_classes());
    out.extend(flow_control());
    out.extend(roles::objects());
    out.push(objects::service_cidr(facts));
    out.extend(objects::services(facts));
    out.extend(objects::config_maps(facts));
    out.extend(definitions::objects());
    out
}

/// The priority levels and flow schemas among them, which are put right again and again; none where their kinds are
/// not served.
pub fn flow_control() -> Vec<Value> {
    match Registry::builtin().preferred(fairness::GROUP, "FlowSchema") {
        Some(_) => fairness::bootstrap::objects(),
        None => Vec::new(),
    }
}

/// How often that is done.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(60);

/// Puts the priority levels and flow schemas right, again and again, and says in the schemas' statuses whether their
/// levels exist.
pub async fn maintain(client: kube::Client, clock: Clock) {
    loop {
        let done = async {
            reconcile(&client, flow_control()).await?;
            reconcile::tell_dangling(&client, clock.now_seconds()).await
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "the flow control configuration cannot be put right; trying again later");
        }
        tokio::time::sleep(MAINTENANCE_PERIOD).await;
    }
}

/// The group and plural of a kind that [`desired`] has.
pub fn group_and_plural(kind: &str) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        "Namespace" => ("", "namespaces"),
        "Service" => ("", "services"),
        "Endpoints" => ("", "endpoints"),
        "ConfigMap" => ("", "configmaps"),
        "StorageClass" => ("storage.k8s.io", "storageclasses"),
        "ServiceCIDR" => ("networking.k8s.io", "servicecidrs"),
        "EndpointSlice" => ("discovery.k8s.io", "endpointslices"),
        "FlowSchema" => (fairness::GROUP, "flowschemas"),
        "PriorityLevelConfiguration" => (fairness::GROUP, "prioritylevelconfigurations"),
        "CustomResourceDefinition" => ("apiextensions.k8s.io", "customresourcedefinitions"),
        "PriorityClass" => ("scheduling.k8s.io", "priorityclasses"),
        "ClusterRole" => ("rbac.authorization.k8s.io", "clusterroles"),
        "ClusterRoleBinding" => ("rbac.authorization.k8s.io", "clusterrolebindings"),
        "Role" => ("rbac.authorization.k8s.io", "roles"),
        "RoleBinding" => ("rbac.authorization.k8s.io", "rolebindings"),
        _ => return None,
    })
}
