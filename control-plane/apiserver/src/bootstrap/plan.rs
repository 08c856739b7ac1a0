//! What to create and what to change.

use serde_json::Value;

use super::definitions::EDITION;
use crate::authz::rbac::Rule;
use crate::fairness::bootstrap::is_maintained;
use crate::json::{entry, list};

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is missing.
    Create(Value),
    /// The object is there and lacks something; this is all of it, its resource version included.
    Update(Value),
}

/// Compares `desired` with what `stored` finds for each of it. As upstream's reconciliation, roles and bindings only gain
/// what they lack, and keep what was added to them; those whose autoupdate annotation is false are left alone. The
/// endpoints of the service `kubernetes` and the cluster's ConfigMaps are replaced if they differ.
pub fn plan(desired: Vec<Value>, stored: impl Fn(&Value) -> Option<Value>) -> Vec<Change> {
    let mut out = Vec::new();
    for object in desired {
        match stored(&object) {
            None => out.push(Change::Create(object)),
            Some(current) => out.extend(change(&object, current).map(Change::Update)),
        }
    }
    out
}

/// `current` with what it lacks of `desired`, if it lacks anything.
fn change(desired: &Value, current: Value) -> Option<Value> {
    let before = current.clone();
    let mut after = current;
    match desired["kind"].as_str().unwrap_or_default() {
        "ClusterRole" | "Role" if auto_update(&after) => {
            add_metadata(desired, &mut after);
            // The rules of an aggregating role are the aggregation controller's to write.
            if desired.get("aggregationRule").is_some() {
                after["aggregationRule"] = desired["aggregationRule"].clone();
            } else {
                add_rules(desired, &mut after);
            }
        }
        // A binding to another role is somebody's decision; a role reference cannot be changed anyway.
        "ClusterRoleBinding" | "RoleBinding"
            if auto_update(&after) && after.get("roleRef") == desired.get("roleRef") =>
        {
            add_metadata(desired, &mut after);
            add_subjects(desired, &mut after);
        }
        "FlowSchema" | "PriorityLevelConfiguration" if is_maintained(&after) => after["spec"] = desired["spec"].clone(),
        // A second family may come to the first.
        "ServiceCIDR" if Some(list(&after, "/spec/cidrs")) == list(desired, "/spec/cidrs").get(..1) => {
            after["spec"] = desired["spec"].clone();
        }
        "Endpoints" => after["subsets"] = desired["subsets"].clone(),
        "EndpointSlice" if after["addressType"] == desired["addressType"] => {
            after["endpoints"] = desired["endpoints"].clone();
            after["ports"] = desired["ports"].clone();
        }
        "CustomResourceDefinition" if is_older(&after, desired) => {
            after["spec"] = desired["spec"].clone();
            after["metadata"]["annotations"][EDITION] = desired["metadata"]["annotations"][EDITION].clone();
        }
        "ConfigMap" => {
            for (key, value) in desired["data"].as_object().into_iter().flatten() {
                after["data"][key] = value.clone();
            }
        }
        _ => {}
    }
    (after != before).then_some(after)
}

/// Whether a definition is ours, and of another edition.
fn is_older(current: &Value, desired: &Value) -> bool {
    let edition = |object| entry(object, "/metadata/annotations", EDITION);
    edition(current).is_some() && edition(current) != edition(desired)
}

fn auto_update(current: &Value) -> bool {
    entry(current, "/metadata/annotations", "rbac.authorization.kubernetes.io/autoupdate") != Some("false")
}

fn add_metadata(desired: &Value, current: &mut Value) {
    for map in ["labels", "annotations"] {
        for (key, value) in desired["metadata"][map].as_object().into_iter().flatten() {
            if current["metadata"][map].get(key).is_none() {
                current["metadata"][map][key] = value.clone();
            }
        }
    }
}

fn rules(object: &Value) -> Vec<Rule> {
    list(object, "/rules").iter().filter_map(|r| serde_json::from_value(r.clone()).ok()).collect()
}

fn add_rules(desired: &Value, current: &mut Value) {
    let present = rules(current);
    let covered = |rule: &Rule| rule.split().iter().all(|part| present.iter().any(|p| p.covers(part)));
    let missing: Vec<Value> = rules(desired).iter().filter(|r| !covered(r)).map(Rule::to_value).collect();
    if !missing.is_empty() {
        let mut all = list(current, "/rules").to_vec();
        all.extend(missing);
        current["rules"] = all.into();
    }
}

fn add_subjects(desired: &Value, current: &mut Value) {
    let mut all = list(current, "/subjects").to_vec();
    let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|key| a.get(key) == b.get(key));
    let missing: Vec<Value> =
        list(desired, "/subjects").iter().filter(|s| !all.iter().any(|x| same(x, s))).cloned().collect();
    if !missing.is_empty() {
        all.extend(missing);
        current["subjects"] = all.into();
    }
}
