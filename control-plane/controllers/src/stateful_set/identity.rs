//! Who a pod of a StatefulSet is: its name, its labels, its claims.

use serde_json::{Value, json};

use super::{REVISION_LABEL, claims};
use crate::claim::pod_from_template;
use crate::history::Revision;
use crate::runtime::kind;
use crate::runtime::plan::{Action, Write};
use crate::views::{Pod, StatefulSet};

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// `web-0`.
pub(super) fn pod_name(set: &str, number: i32) -> String {
    format!("{set}-{number}")
}

/// The number of a pod of the set, by its name.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let number: i32 = digits.parse().ok()?;
    // `web-01` is nobody's.
    (number.to_string() == digits).then_some(number)
}

/// The revision that a pod is of.
pub(super) fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.get(REVISION_LABEL).map_or("", String::as_str)
}

/// The pod of a number.
pub(super) fn pod(set: &StatefulSet, number: i32, revision: &Revision) -> Value {
    let name = pod_name(&set.metadata.name, number);
    let mut pod = pod_from_template(&revision.template(), &set.metadata, &kind::STATEFUL_SET);
    let metadata = &mut pod["metadata"];
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("generateName");
    }
    metadata["name"] = name.as_str().into();
    metadata["namespace"] = set.metadata.namespace.as_str().into();
    metadata["labels"][NAME_LABEL] = name.as_str().into();
    metadata["labels"][INDEX_LABEL] = number.to_string().into();
    metadata["labels"][REVISION_LABEL] = revision.name.as_str().into();
    pod["spec"]["hostname"] = name.as_str().into();
    if !set.spec.service_name.is_empty() {
        pod["spec"]["subdomain"] = set.spec.service_name.as_str().into();
    }
    claims::mount(set, number, &mut pod["spec"]);
    pod
}

/// Puts back the labels that tell who a pod is.
pub(super) fn repair(set: &StatefulSet, pod: &Pod, number: i32) -> Option<Action> {
    let name = pod_name(&set.metadata.name, number);
    if pod.metadata.labels.get(NAME_LABEL) == Some(&name) {
        return None;
    }
    let labels = json!({NAME_LABEL: name, INDEX_LABEL: number.to_string()});
    Some(Write::merge(&kind::POD, &pod.metadata, "", json!({"metadata": {"labels": labels}})).into())
}
