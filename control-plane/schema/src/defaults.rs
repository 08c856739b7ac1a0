//! Defaults: those that are facts of a field (`data/defaults.txt`), then those that the kind's strategy works out.

use serde_json::{Map, Value};

use crate::resource::Resource;
use crate::types::{Default, Definition, Node, Shape};

/// Fills in what a client left out.
pub fn apply(resource: &Resource, object: &mut Value) {
    if let Some(custom) = &resource.custom {
        custom.default(object);
        return;
    }
    if let Some(definition) = resource.definition() {
        apply_as(definition, object);
    }
    (resource.strategy.default)(object);
}

/// The defaults that are facts of fields, for a kind that is not in the table.
pub fn apply_as(definition: &Definition, object: &mut Value) {
    let Value::Object(entries) = object else { return };
    for field in &definition.fields {
        if let Some(default) = &field.default {
            fill(default, &field.name, entries);
        }
        if let Some(value) = entries.get_mut(field.name.as_ref()) {
            in_node(&field.node, value);
        }
    }
}

fn fill(default: &Default, name: &str, entries: &mut Map<String, Value>) {
    let absent = match entries.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => default.zero_is_absent && text.is_empty(),
        Some(Value::Number(number)) => default.zero_is_absent && number.as_i64() == Some(0),
        Some(_) => false,
    };
    if absent {
        entries.insert(name.to_owned(), default.value.clone());
    }
}

fn in_node(node: &Node, value: &mut Value) {
    match (&node.shape, value) {
        (Shape::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| in_node(item, value)),
        (Shape::Map(item), Value::Object(entries)) => entries.values_mut().for_each(|value| in_node(item, value)),
        (_, value) => {
            if let Some(definition) = node.definition() {
                apply_as(definition, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::types::definition;

    #[test]
    fn the_facts_fill_in_what_is_absent_and_no_more() {
        let definition = definition("io.k8s.api.apps.v1.Deployment").unwrap();
        let container = json!({"name": "a", "terminationMessagePath": "", "livenessProbe": {"periodSeconds": 0, "timeoutSeconds": 7}});
        let mut object = json!({"spec": {"replicas": 0, "template": {"spec": {"containers": [container]}}}});
        apply_as(definition, &mut object);
        assert_eq!(object["spec"]["replicas"], 0);
        assert_eq!(object["spec"]["revisionHistoryLimit"], 10);
        let spec = &object["spec"]["template"]["spec"];
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["containers"][0]["terminationMessagePath"], "/dev/termination-log");
        let probe = json!({"periodSeconds": 10, "timeoutSeconds": 7, "successThreshold": 1, "failureThreshold": 3});
        assert_eq!(spec["containers"][0]["livenessProbe"], probe);
        let once = object.clone();
        apply_as(definition, &mut object);
        assert_eq!(object, once);
        assert!(object.get("status").is_none());
    }
}
