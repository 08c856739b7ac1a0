//! What plugins share.

use serde_json::Value;
use xebec_schema::status::Status;

use super::{Operation, Review};
use crate::json::text;

/// 403 for the object under review, in upstream's words (apiserver `admission/errors.go`).
pub(super) fn forbidden(review: &Review<'_>, why: &str) -> Status {
    let unnamed = |object: &Value| match (text(object, "/metadata/name"), text(object, "/metadata/generateName")) {
        ("", "") => "Unknown".to_owned(),
        ("", prefix) => prefix.to_owned(),
        (name, _) => name.to_owned(),
    };
    let name = match (review.name, &review.object) {
        ("", Some(object)) => unnamed(object),
        ("", None) => "Unknown".to_owned(),
        (name, _) => name.to_owned(),
    };
    Status::forbidden(&review.resource.group, &review.resource.plural, &name, why)
}

/// Whether the object itself, not a part of it, of that kind is reviewed.
pub(super) fn is(review: &Review<'_>, group: &str, plural: &str) -> bool {
    is_part(review, group, plural, "")
}

/// Whether that subresource of that kind is reviewed.
pub(super) fn is_part(review: &Review<'_>, group: &str, plural: &str, subresource: &str) -> bool {
    review.resource.group == group && review.resource.plural == plural && review.subresource == subresource
}

/// Whether a new pod is reviewed.
pub(super) fn is_new_pod(review: &Review<'_>) -> bool {
    review.operation == Operation::Create && is(review, "", "pods")
}

/// Whether the pod was made by a node for a static pod, to show it in the API.
pub(super) fn is_mirror_pod(pod: &Value) -> bool {
    crate::json::entry(pod, "/metadata/annotations", "kubernetes.io/config.mirror").is_some()
}

/// The pod's containers of all sorts, to be changed.
pub(super) fn containers_mut(pod: &mut Value) -> impl Iterator<Item = (&'static str, &mut Value)> {
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut);
    spec.into_iter().flat_map(|spec| {
        let kinds = spec.iter_mut().filter_map(|(key, list)| {
            let words = match key.as_str() {
                "containers" => "container",
                "initContainers" => "init container",
                _ => return None,
            };
            Some((words, list.as_array_mut()?))
        });
        kinds.flat_map(|(words, list)| list.iter_mut().map(move |container| (words, container)))
    })
}

/// The newest of several objects; of those made in the same second, the first by name.
pub(super) fn newest(objects: impl Iterator<Item = Value>) -> Option<Value> {
    objects.min_by(|a, b| {
        let (made, name) = ("/metadata/creationTimestamp", "/metadata/name");
        text(b, made).cmp(text(a, made)).then_with(|| text(a, name).cmp(text(b, name)))
    })
}
