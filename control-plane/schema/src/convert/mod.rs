//! Kinds that are served in several forms and stored in one.
//!
//! - Events: `events.k8s.io/v1` names the fields of the core group's events differently (upstream
//!   `pkg/apis/events/v1/conversion.go`).
//! - Autoscalers: `autoscaling/v1` knows one metric; the others are annotations of its objects.

mod autoscaling;

use serde_json::Value;

use crate::resource::Resource;

/// `events.k8s.io/v1` name, core `v1` name.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

/// Whether objects of this kind are stored in another form than they are served.
pub fn is_converted(resource: &Resource) -> bool {
    resource.storage_group() != resource.group || resource.storage_version() != resource.version
}

/// From the served form to the stored one.
pub fn to_stored(resource: &Resource, object: &mut Value) {
    if is_converted(resource) {
        match resource.group.as_ref() {
            "autoscaling" => autoscaling::to_v2(object),
            _ => rename(object, "v1", EVENT_FIELDS.map(|(served, stored)| (served, stored))),
        }
    }
}

/// From the stored form to the served one.
pub fn from_stored(resource: &Resource, object: &mut Value) {
    if is_converted(resource) {
        match resource.group.as_ref() {
            "autoscaling" => autoscaling::to_v1(object),
            _ => rename(object, "events.k8s.io/v1", EVENT_FIELDS.map(|(served, stored)| (stored, served))),
        }
    }
}

fn rename(object: &mut Value, api_version: &str, names: [(&str, &str); 7]) {
    let Value::Object(entries) = object else { return };
    if entries.contains_key("apiVersion") {
        entries.insert("apiVersion".into(), api_version.into());
    }
    for (from, to) in names {
        if let Some(value) = entries.remove(from) {
            entries.insert(to.into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::Registry;

    #[test]
    fn events_go_there_and_back() {
        let registry = Registry::builtin();
        let row = registry.get("events.k8s.io", "v1", "events").unwrap();
        let served = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "reason": "r",
            "regarding": {"kind": "Pod"}, "deprecatedCount": 2, "reportingController": "c"});
        let mut event = served.clone();
        to_stored(row, &mut event);
        assert_eq!(
            event,
            json!({"apiVersion": "v1", "kind": "Event", "message": "n", "reason": "r",
            "involvedObject": {"kind": "Pod"}, "count": 2, "reportingComponent": "c"})
        );
        from_stored(row, &mut event);
        assert_eq!(event, served);
        let core = registry.get("", "v1", "events").unwrap();
        assert!(!is_converted(core) && is_converted(row));
    }
}
