//! Autoscalers between `autoscaling/v1` and `autoscaling/v2` (upstream `pkg/apis/autoscaling/v1/conversion.go`).
//!
//! The older version has one metric, the processor time of the pods; every other, the conditions and the behaviour are
//! JSON in annotations, so that a client of that version can write back what it has read.

use serde_json::{Map, Value, json};

use crate::kinds::json::{at, list, set, text, unset};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Where a metric's value stands: the field of a target in `v2`, and what `v1`'s annotations call it.
type Values = [(&'static str, &'static str)];

/// A sort of metric: its field, and its values as a spec and as a status name them in `v1`.
const SORTS: [(&str, &Values, &Values); 5] = [
    (
        "object",
        &[("value", "targetValue"), ("averageValue", "averageValue")],
        &[("value", "currentValue"), ("averageValue", "averageValue")],
    ),
    ("pods", &[("averageValue", "targetAverageValue")], &[("averageValue", "currentAverageValue")]),
    (
        "resource",
        &[("averageUtilization", "targetAverageUtilization"), ("averageValue", "targetAverageValue")],
        &[("averageUtilization", "currentAverageUtilization"), ("averageValue", "currentAverageValue")],
    ),
    (
        "containerResource",
        &[("averageUtilization", "targetAverageUtilization"), ("averageValue", "targetAverageValue")],
        &[("averageUtilization", "currentAverageUtilization"), ("averageValue", "currentAverageValue")],
    ),
    (
        "external",
        &[("value", "targetValue"), ("averageValue", "targetAverageValue")],
        &[("value", "currentValue"), ("averageValue", "currentAverageValue")],
    ),
];

/// What `v1` calls a metric's selector.
fn selector_key(sort: &str) -> &'static str {
    if sort == "external" { "metricSelector" } else { "selector" }
}

/// To `autoscaling/v2`.
pub(super) fn to_v2(object: &mut Value) {
    rename_version(object, "autoscaling/v2");
    let mut metrics = Vec::new();
    if let Some(target) = at(object, "spec").get("targetCPUUtilizationPercentage").cloned().filter(|v| !v.is_null()) {
        metrics.push(json!({
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}},
        }));
    }
    let others = take_annotation(object, METRICS);
    metrics.extend(others.as_array().into_iter().flatten().map(|metric| from_old(metric, false)));
    if let Some(spec) = object.get_mut("spec") {
        unset(spec, "targetCPUUtilizationPercentage");
        if !metrics.is_empty() {
            set(spec, "metrics", metrics);
        }
    }
    let behavior = take_annotation(object, BEHAVIOR);
    if let (Some(spec), true) = (object.get_mut("spec"), behavior.is_object()) {
        set(spec, "behavior", behavior);
    }
    status_to_v2(object);
}

fn status_to_v2(object: &mut Value) {
    let mut current = Vec::new();
    let usage = at(object, "status").get("currentCPUUtilizationPercentage").cloned();
    if let Some(usage) = usage.filter(|v| !v.is_null()) {
        current.push(json!({
            "type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": usage}},
        }));
    }
    let others = take_annotation(object, CURRENT_METRICS);
    current.extend(others.as_array().into_iter().flatten().map(|metric| from_old(metric, true)));
    let conditions = take_annotation(object, CONDITIONS);
    if let Some(status) = object.get_mut("status") {
        unset(status, "currentCPUUtilizationPercentage");
        if !current.is_empty() {
            set(status, "currentMetrics", current);
        }
        if conditions.is_array() {
            set(status, "conditions", conditions);
        }
    }
}

/// To `autoscaling/v1`.
pub(super) fn to_v1(object: &mut Value) {
    rename_version(object, "autoscaling/v1");
    let is_cpu = |metric: &&Value| text(metric, "type") == "Resource" && text(metric, "resource.name") == "cpu";
    let metrics = list(object, "spec.metrics").to_vec();
    let of_cpu = metrics.iter().filter(is_cpu).find(|m| !at(m, "resource.target.averageUtilization").is_null());
    let target = of_cpu.map(|metric| at(metric, "resource.target.averageUtilization").clone());
    let others: Vec<Value> =
        metrics.iter().filter(|metric| Some(*metric) != of_cpu).map(|metric| to_old(metric, false)).collect();
    let current = list(object, "status.currentMetrics").to_vec();
    let usage = current.iter().find(is_cpu).map(|metric| at(metric, "resource.current.averageUtilization").clone());
    let others_now: Vec<Value> =
        current.iter().filter(|metric| !is_cpu(metric)).map(|metric| to_old(metric, true)).collect();
    let (behavior, conditions) = (at(object, "spec.behavior").clone(), at(object, "status.conditions").clone());
    if let Some(spec) = object.get_mut("spec") {
        unset(spec, "metrics");
        unset(spec, "behavior");
        if let Some(target) = target {
            set(spec, "targetCPUUtilizationPercentage", target);
        }
    }
    if let Some(status) = object.get_mut("status") {
        unset(status, "currentMetrics");
        unset(status, "conditions");
        if let Some(usage) = usage.filter(|v| !v.is_null()) {
            set(status, "currentCPUUtilizationPercentage", usage);
        }
    }
    annotate(object, METRICS, others.into());
    annotate(object, CURRENT_METRICS, others_now.into());
    annotate(object, CONDITIONS, conditions);
    annotate(object, BEHAVIOR, behavior);
}

fn rename_version(object: &mut Value, version: &str) {
    if object.get("apiVersion").is_some() {
        set(object, "apiVersion", version);
    }
}

/// Takes an annotation away, and reads it. What is not JSON is as if it were not there.
fn take_annotation(object: &mut Value, key: &str) -> Value {
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return Value::Null;
    };
    let taken = annotations.remove(key);
    if annotations.is_empty()
        && let Some(metadata) = object.get_mut("metadata")
    {
        unset(metadata, "annotations");
    }
    taken.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
}

/// Keeps what is not empty in an annotation.
fn annotate(object: &mut Value, key: &str, value: Value) {
    let empty = match &value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => true,
    };
    if empty || !object.is_object() {
        return;
    }
    if !at(object, "metadata").is_object() {
        set(object, "metadata", json!({}));
    }
    let Some(metadata) = object.get_mut("metadata") else { return };
    if !at(metadata, "annotations").is_object() {
        set(metadata, "annotations", json!({}));
    }
    if let Some(annotations) = metadata.get_mut("annotations") {
        set(annotations, key, value.to_string());
    }
}

/// A metric as the annotations have it.
fn to_old(metric: &Value, status: bool) -> Value {
    let mut out = json!({"type": text(metric, "type")});
    for (sort, spec_names, status_names) in SORTS {
        let Some(source) = metric.get(sort).filter(|s| s.is_object()) else { continue };
        let mut old = Map::new();
        let mut put = |key: &str, value: &Value| {
            if !value.is_null() {
                old.insert(key.to_owned(), value.clone());
            }
        };
        for key in ["name", "container"] {
            put(key, at(source, key));
        }
        put("target", at(source, "describedObject"));
        put("metricName", at(source, "metric.name"));
        put(selector_key(sort), at(source, "metric.selector"));
        let (values, names) = if status { ("current", status_names) } else { ("target", spec_names) };
        for (new_name, old_name) in names {
            put(old_name, at(at(source, values), new_name));
        }
        set(&mut out, sort, old);
    }
    out
}

/// A metric as `v2` has it.
fn from_old(metric: &Value, status: bool) -> Value {
    let mut out = json!({"type": text(metric, "type")});
    for (sort, spec_names, status_names) in SORTS {
        let Some(old) = metric.get(sort).filter(|s| s.is_object()) else { continue };
        let mut new = Map::new();
        for key in ["name", "container"] {
            if let Some(value) = old.get(key) {
                new.insert(key.to_owned(), value.clone());
            }
        }
        if let Some(target) = old.get("target") {
            new.insert("describedObject".to_owned(), target.clone());
        }
        if let Some(name) = old.get("metricName") {
            let mut identifier = json!({"name": name});
            if let Some(selector) = old.get(selector_key(sort)) {
                set(&mut identifier, "selector", selector.clone());
            }
            new.insert("metric".to_owned(), identifier);
        }
        let (values, names) = if status { ("current", status_names) } else { ("target", spec_names) };
        let mut amounts = json!({});
        for (new_name, old_name) in names {
            // Objects have a value that is always there and zero when the average counts.
            if let Some(value) = old.get(*old_name).filter(|v| !v.is_null()) {
                set(&mut amounts, new_name, value.clone());
            }
        }
        if !status {
            let kind = target_type(&amounts);
            set(&mut amounts, "type", kind);
        }
        new.insert(values.to_owned(), amounts);
        set(&mut out, sort, new);
    }
    out
}

fn target_type(amounts: &Value) -> &'static str {
    if amounts.get("averageUtilization").is_some() {
        "Utilization"
    } else if amounts.get("averageValue").is_some() {
        "AverageValue"
    } else {
        "Value"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Value {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 1, "maxReplicas": 5,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "rps", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "AverageValue", "averageValue": "10"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "q"}, "target": {"type": "Value", "value": "3"}}},
                    {"type": "External", "external": {"metric": {"name": "x", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "Value", "value": "3"}}},
                    {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": {"type": "Utilization", "averageUtilization": 5}}},
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}},
            "status": {"currentReplicas": 1, "desiredReplicas": 2,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7}}}]}})
    }

    #[test]
    fn what_the_older_version_cannot_say_is_kept() {
        let mut object = full();
        to_v1(&mut object);
        assert_eq!(object["apiVersion"], "autoscaling/v1");
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 60);
        assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 7);
        assert_eq!(object["spec"].get("metrics"), None);
        let annotations = object["metadata"]["annotations"].as_object().unwrap();
        assert!(annotations[METRICS].as_str().unwrap().contains("\"targetAverageValue\":\"1Gi\""));
        to_v2(&mut object);
        assert_eq!(object, full());
    }

    #[test]
    fn one_metric_needs_no_annotation() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 5, "targetCPUUtilizationPercentage": 80}, "status": {}});
        let mut object = v1.clone();
        to_v2(&mut object);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        to_v1(&mut object);
        assert_eq!(object, v1);
    }
}
