use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::registry::Registry;

fn row(group: &str, plural: &str) -> Arc<Resource> {
    Registry::builtin().get(group, "v1", plural).unwrap().clone()
}

fn type_error(group: &str, plural: &str, object: Value) -> String {
    check_types(&row(group, plural), &object).unwrap_err()
}

#[test]
fn wrong_types_are_told_in_gos_words() {
    let told = |object, expected: &str| assert_eq!(type_error("apps", "deployments", object), expected);
    told(
        json!({"spec": {"replicas": "3"}}),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    told(
        json!({"spec": {"replicas": 1.5}}),
        "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    told(
        json!({"spec": {"replicas": 5_000_000_000_i64}}),
        "json: cannot unmarshal number 5000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    told(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"env": [{"value": true}]}]}}}}),
        "json: cannot unmarshal bool into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
    );
    told(
        json!({"spec": {"template": {"spec": {"containers": {}}}}}),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
    );
    told(
        json!({"metadata": {"labels": {"a": 1}}}),
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
    );
    told(
        json!({"spec": []}),
        "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
    );
    told(json!([]), "json: cannot unmarshal array into Go value of type v1.Deployment");
    told(
        json!({"metadata": {"creationTimestamp": 1}}),
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
    );
    told(
        json!({"metadata": {"creationTimestamp": "now"}}),
        r#"parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006""#,
    );
    let container = json!({"name": "a", "imagePullPolicy": 1});
    assert_eq!(
        type_error("", "pods", json!({"spec": {"containers": [container]}})),
        "json: cannot unmarshal number into Go struct field Container.spec.containers.imagePullPolicy of type v1.PullPolicy"
    );
    let container = json!({"name": "a", "resources": {"limits": {"cpu": "x"}}});
    assert_eq!(
        type_error("", "pods", json!({"spec": {"containers": [container]}})),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    );
    assert_eq!(type_error("", "secrets", json!({"data": {"a": "!!!"}})), "illegal base64 data at input byte 0");
    assert_eq!(
        type_error("", "services", json!({"spec": {"ports": [{"targetPort": true}]}})),
        "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32"
    );
}

#[test]
fn what_is_not_restored_is_told_in_other_words() {
    let told = |object: serde_json::Value, expected: &str| {
        let row = row("apps", "deployments");
        assert_eq!(check_restored(row.definition().unwrap(), &object).unwrap_err(), expected);
    };
    told(json!({"spec": {"replicas": "3"}}), "unrecognized type: int32");
    told(json!({"spec": {"replicas": 1.5}}), "cannot convert float64 to int32");
    told(json!({"spec": {"paused": 1}}), "unrecognized type: bool");
    told(json!({"metadata": {"labels": {"a": 1}}}), "cannot convert int64 to string");
    told(json!({"metadata": {"labels": "a"}}), "cannot restore map from string");
    told(json!({"spec": []}), "cannot restore struct from: slice");
    told(json!({"spec": {"template": {"spec": {"containers": {}}}}}), "cannot restore slice from map");
}

#[test]
fn what_decodes_passes() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "status": null,
        "metadata": {"name": "a", "creationTimestamp": null, "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
        "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": 0.5, "memory": "1Gi"}},
            "livenessProbe": {"httpGet": {"port": "http"}}}]},
    });
    assert_eq!(check_types(&row("", "pods"), &pod), Ok(()));
    assert!(unknown_fields(&row("", "pods"), &pod).is_empty());
}

#[test]
fn unknown_fields_are_named_by_path() {
    let pod = json!({"spec": {"foo": 1, "containers": [{"name": "a"}, {"bar": 1, "resources": {"limits": {"x": 1}}}],
        "nodeSelector": {"any": "thing"}}, "Spec": {}});
    let mut found = unknown_fields(&row("", "pods"), &pod);
    found.sort();
    assert_eq!(
        found,
        [r#"unknown field "Spec""#, r#"unknown field "spec.containers[1].bar""#, r#"unknown field "spec.foo""#]
    );
}

#[test]
fn pruning_drops_what_is_unknown_and_null_and_makes_values_canonical() {
    let mut pod = json!({
        "metadata": {"creationTimestamp": null, "labels": {"a": null}, "deletionTimestamp": "2024-01-01T02:00:00+02:00"},
        "spec": {"foo": 1, "containers": [{"name": "a", "command": ["x", null],
            "resources": {"limits": {"cpu": "1000m", "memory": 1024}}, "bar": {}}]},
    });
    let row = row("", "pods");
    prune(&row, &mut pod);
    let expected = json!({
        "metadata": {"labels": {"a": ""}, "deletionTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "a", "command": ["x", ""],
            "resources": {"limits": {"cpu": "1", "memory": "1024"}}}]},
    });
    assert_eq!(pod, expected);
    prune(&row, &mut pod);
    assert_eq!(pod, expected);
}

#[test]
fn bytes_are_read_as_go_reads_them() {
    let secret = json!({"data": {"bits": "ZZ==", "lines": "YWJj\nZGVm\r\n", "plain": "YQ==", "none": ""}});
    let row = row("", "secrets");
    assert!(check_types(&row, &secret).is_ok(), "what is left over of the last symbol is not looked at");
    let mut kept = secret;
    prune(&row, &mut kept);
    assert_eq!(kept["data"], json!({"bits": "ZQ==", "lines": "YWJjZGVm", "plain": "YQ==", "none": ""}));
}

#[test]
fn raw_fields_keep_what_they_hold() {
    let revision = json!({"revision": 1, "data": {"spec": {"a": null, "b": [1]}}});
    let row = row("apps", "controllerrevisions");
    let mut kept = revision.clone();
    prune(&row, &mut kept);
    assert_eq!(kept, revision);
    assert!(unknown_fields(&row, &revision).is_empty());
}

/// Objects of a kind, made from its schema: each field is there by chance.
struct Maker(u64);

impl Maker {
    fn chance(&mut self, of: u64) -> bool {
        // Knuth's linear congruential generator.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33).is_multiple_of(of)
    }

    fn object(&mut self, definition: &Definition, depth: usize) -> Value {
        let mut entries = Map::new();
        for field in &definition.fields {
            if depth > 0 && self.chance(3) {
                entries.insert(field.name.to_string(), self.node(&field.node, depth - 1));
            }
        }
        Value::Object(entries)
    }

    fn node(&mut self, node: &Node, depth: usize) -> Value {
        match &node.shape {
            Shape::Scalar(scalar) => self.scalar(*scalar),
            Shape::List(item) => {
                let length = usize::from(self.chance(2)) + usize::from(self.chance(2));
                (0..length).map(|_| self.node(item, depth)).collect()
            }
            Shape::Map(value) => json!({ "a": self.node(value, depth), "b": self.node(value, depth) }),
            Shape::Reference(_) | Shape::Object(_) => {
                node.definition().map_or(Value::Null, |definition| self.object(definition, depth))
            }
        }
    }

    fn scalar(&mut self, scalar: crate::types::Scalar) -> Value {
        use crate::types::Scalar;
        let first = self.chance(2);
        match scalar {
            Scalar::String => if first { "x" } else { "" }.into(),
            Scalar::Int32 | Scalar::Int64 => i32::from(first).into(),
            Scalar::Double => 0.5.into(),
            Scalar::Bool => first.into(),
            Scalar::Bytes => "aGk=".into(),
            Scalar::Time => "2024-01-01T00:00:00Z".into(),
            Scalar::MicroTime => "2024-01-01T00:00:00.000000Z".into(),
            Scalar::Quantity => {
                if first {
                    json!("1000m")
                } else {
                    json!(2)
                }
            }
            Scalar::IntOrString => {
                if first {
                    json!("25%")
                } else {
                    json!(1)
                }
            }
            Scalar::Raw | Scalar::Any => json!({ "any": ["thing"] }),
        }
    }
}

proptest::proptest! {
    #[test]
    fn what_the_schema_describes_decodes(seed: u64) {
        let registry = Registry::builtin();
        for row in registry.iter() {
            let definition = row.definition().unwrap();
            let mut object = Maker(seed).object(definition, 6);
            proptest::prop_assert_eq!(check_types(row, &object), Ok(()));
            proptest::prop_assert!(unknown_fields(row, &object).is_empty());
            prune(row, &mut object);
            let once = object.clone();
            prune(row, &mut object);
            proptest::prop_assert_eq!(&object, &once);
            proptest::prop_assert_eq!(check_types(row, &object), Ok(()));
            crate::defaults::apply_as(definition, &mut object);
            let once = object.clone();
            crate::defaults::apply_as(definition, &mut object);
            proptest::prop_assert_eq!(&object, &once);
            proptest::prop_assert_eq!(check_types(row, &object), Ok(()));
            proptest::prop_assert!(unknown_fields(row, &object).is_empty());
            proptest::prop_assert_eq!(crate::patch::strategic_merge(row, &object, &json!({})), Ok(object));
        }
    }

    /// Nothing of one kind makes the visitors of another panic; what is left after pruning is known.
    #[test]
    fn what_another_schema_describes_harms_nobody(seed: u64) {
        let registry = Registry::builtin();
        let pods = row("", "pods");
        for other in registry.iter() {
            let mut object = Maker(seed).object(other.definition().unwrap(), 5);
            let _ = check_types(&pods, &object);
            prune(&pods, &mut object);
            proptest::prop_assert!(unknown_fields(&pods, &object).is_empty());
            crate::defaults::apply_as(pods.definition().unwrap(), &mut object);
        }
    }
}
