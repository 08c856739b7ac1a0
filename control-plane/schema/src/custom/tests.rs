use proptest::prelude::*;
use serde_json::{Value, json};

use super::schema::Schema;
use super::*;
use crate::kinds::custom_resource_definition::structural;
use crate::types::{List, Shape};

/// A row of a kind whose schema this is.
fn custom(schema: &Value) -> Arc<Resource> {
    let definition = json!({
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": [
            {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema}}]},
        "status": {"acceptedNames": {"plural": "widgets", "kind": "Widget", "listKind": "WidgetList"}},
    });
    rows(&definition).unwrap().stored
}

fn spec(schema: Value) -> Arc<Resource> {
    custom(&json!({"type": "object", "properties": {"spec": schema}}))
}

fn widget(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": spec})
}

#[track_caller]
fn says(schema: Value, value: Value, expected: &[&str]) {
    let row = spec(schema);
    let errors = row.custom.as_ref().unwrap().validate(&widget(value));
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected);
}

#[test]
fn values_are_checked_in_upstreams_words() {
    let string = |more: Value| {
        let mut schema = json!({"type": "string"});
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    says(json!({"type": "string"}), json!("x"), &[]);
    says(string(json!({"maxLength": 2})), json!("äöü"), &["spec: Too long: may not be more than 2 bytes"]);
    says(
        string(json!({"minLength": 2})),
        json!("x"),
        &["spec: Invalid value: \"x\": spec in body should be at least 2 chars long"],
    );
    says(
        string(json!({"pattern": "^a+$"})),
        json!("b"),
        &["spec: Invalid value: \"b\": spec in body should match '^a+$'"],
    );
    says(
        json!({"type": "number", "exclusiveMinimum": true, "minimum": 0.5}),
        json!(0.5),
        &["spec: Invalid value: 0.5: spec in body should be greater than 0.5"],
    );
    says(
        json!({"type": "integer", "multipleOf": 3}),
        json!(4),
        &["spec: Invalid value: 4: spec in body should be a multiple of 3"],
    );
    says(json!({"type": "integer"}), json!(3.0), &[]);
    says(
        json!({"type": "integer"}),
        json!(3.5),
        &["spec: Invalid value: \"number\": spec in body must be of type integer: \"number\""],
    );
    says(
        json!({"type": "integer", "format": "int32"}),
        json!(3_000_000_000_i64),
        &["<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec"],
    );
    says(
        json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
        json!(["a", 1]),
        &[
            "spec[1]: Invalid value: \"integer\": spec[1] in body must be of type string: \"integer\"",
            "spec: Too many: 2: must have at most 1 item",
        ],
    );
    says(
        json!({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 1}),
        json!({"a": 1, "b": "x"}),
        &[
            "spec: Too many: 2: must have at most 1 item",
            "spec.b: Invalid value: \"string\": spec.b in body must be of type integer: \"string\"",
        ],
    );
    says(
        json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}),
        json!({"a": "1", "b": "2"}),
        &[
            "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ],
    );
    says(
        json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}),
        json!({}),
        &[
            "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid",
            "spec.a: Required value",
        ],
    );
    says(
        json!({"type": "string", "not": {"enum": ["x"]}}),
        json!("x"),
        &["<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)"],
    );
}

#[test]
fn embedded_objects_are_objects() {
    let schema = json!({"type": "object", "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true});
    says(
        schema.clone(),
        json!({"kind": "Pod", "metadata": {"name": "a/b"}}),
        &["spec.apiVersion: Required value", "spec.metadata.name: Invalid value: \"a/b\": may not contain '/'"],
    );
    let row = spec(schema);
    let mut object = widget(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "nope": 1}, "x": 1}));
    let unknown = row.custom.as_ref().unwrap().coerce(&mut object).unwrap();
    assert_eq!(unknown, ["spec.metadata.nope"]);
    assert_eq!(object["spec"], json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "x": 1}));
    let mut bad = widget(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": 1}}));
    let why = row.custom.as_ref().unwrap().coerce(&mut bad).unwrap_err();
    let words = "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type map[string]string";
    assert_eq!(why, format!("spec.metadata: Invalid value: {{\"labels\":1}}: {words}"));
}

fn ruled(rules: Value) -> Arc<Resource> {
    spec(json!({"type": "object", "x-kubernetes-validations": rules, "properties": {
        "min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string",
            "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "it stays"}]},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer",
                "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}}}}))
}

fn update(row: &Resource, new: Value, old: Value) -> Vec<String> {
    let errors = row.custom.as_ref().unwrap().validate_update(&widget(new), &widget(old));
    errors.iter().map(ToString::to_string).collect()
}

fn create(row: &Resource, new: Value) -> Vec<String> {
    row.custom.as_ref().unwrap().validate(&widget(new)).iter().map(ToString::to_string).collect()
}

#[test]
fn rules_hold() {
    let row = ruled(json!([{"rule": "self.min <= self.max",
        "messageExpression": "'min ' + string(self.min) + ' is more than max'"}]));
    assert_eq!(create(&row, json!({"min": 1, "max": 2})), [""; 0]);
    assert_eq!(create(&row, json!({"min": 3, "max": 2})), ["spec: Invalid value: min 3 is more than max"]);
    assert_eq!(
        create(&row, json!({"min": "x", "max": 2})),
        [
            "spec.min: Invalid value: \"string\": spec.min in body must be of type integer: \"string\"",
            "<nil>: Invalid value: \"null\": some validation rules were not checked because the object was invalid; \
             correct the existing errors to complete validation",
        ]
    );
    let absent = create(&row, json!({"min": 3}));
    assert_eq!(absent, ["spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max"]);
}

#[test]
fn transition_rules_compare() {
    let row = ruled(json!([]));
    assert_eq!(create(&row, json!({"name": "a"})), [""; 0]);
    let old = json!({"name": "a", "list": [{"k": "x", "v": 1}, {"k": "y", "v": 5}]});
    let new = json!({"name": "b", "list": [{"k": "y", "v": 4}, {"k": "z", "v": 0}]});
    assert_eq!(
        update(&row, new, old),
        ["spec.list[0].v: Invalid value: 4: failed rule: self >= oldSelf", "spec.name: Invalid value: \"b\": it stays",]
    );
    let optional = ruled(json!([{"rule": "!oldSelf.hasValue() || oldSelf.value().min <= self.min",
        "optionalOldSelf": true, "reason": "FieldValueForbidden", "fieldPath": ".min"}]));
    assert_eq!(create(&optional, json!({"min": 1})), [""; 0]);
    let words = "spec.min: Forbidden: failed rule: !oldSelf.hasValue() || oldSelf.value().min <= self.min";
    assert_eq!(update(&optional, json!({"min": 1}), json!({"min": 2})), [words]);
}

#[test]
fn what_has_not_changed_is_let_be() {
    let row = ruled(json!([{"rule": "self.min <= self.max"}]));
    let bad = json!({"min": 3, "max": 2});
    let object = |label: &str| {
        let mut object = widget(bad.clone());
        object["metadata"]["labels"] = json!({"a": label});
        object
    };
    let custom = row.custom.as_ref().unwrap();
    assert_eq!(custom.validate_update(&object("new"), &object("old")), []);
    assert_eq!(
        update(&row, json!({"min": 4, "max": 2}), bad),
        ["spec: Invalid value: failed rule: self.min <= self.max"]
    );
}

#[test]
fn a_schema_says_how_values_merge() {
    let row = spec(json!({"type": "object", "properties": {
        "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-map-type": "atomic"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}));
    let definition = row.definition().unwrap();
    assert_eq!(definition.name, "com.example.v1.Widget");
    assert!(definition.field("metadata").unwrap().node.definition().unwrap().name.ends_with("ObjectMeta"));
    let spec = definition.field("spec").unwrap().node.definition().unwrap();
    let node = |name: &str| &spec.field(name).unwrap().node;
    assert_eq!(node("set").list, List::Set);
    assert_eq!(node("map").list, List::Map(Box::new(["k".into()])));
    assert!(matches!(node("labels").shape, Shape::Map(_)) && node("labels").atomic_map);
    assert!(node("free").definition().unwrap().preserve_unknown && !spec.preserve_unknown);
}

#[test]
fn schemas_have_to_be_structural() {
    let problems = |schema: Value| -> Vec<String> {
        structural::validate(&schema, &Path::new("s")).iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        problems(json!({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}]}}})),
        [""; 0]
    );
    assert_eq!(
        problems(json!({"type": "object", "properties": {"a": {"type": "array"}},
            "anyOf": [{"properties": {"b": {"type": "string"}}}], "additionalProperties": true})),
        [
            "s.additionalProperties: Forbidden: must not be used at the root",
            "s.anyOf[0].properties[b].type: Forbidden: must be empty to be structural",
            "s.properties[a].items: Required value: must be specified",
            "s.properties[b]: Required value: because it is defined in s.anyOf[0].properties[b]",
        ]
    );
    assert_eq!(
        problems(json!({"type": "object", "properties": {"metadata": {"type": "object", "description": "x"}}})),
        [
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is \
          implicitly specified"
        ]
    );
}

fn any_value(depth: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-5i64..5).prop_map(Value::from),
        "[a-d]".prop_map(Value::from),
    ];
    leaf.prop_recursive(depth, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|entries| entries.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
    .boxed()
}

fn any_schema(depth: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "string", "default": "d"})),
        Just(json!({"type": "integer", "nullable": true})),
        Just(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})),
        Just(json!({"type": "boolean", "nullable": true, "default": true})),
    ];
    leaf.prop_recursive(depth, 24, 4, |inner| {
        prop_oneof![
            prop::collection::btree_map("[a-d]", inner.clone(), 0..4).prop_map(|properties| {
                json!({"type": "object", "properties": properties.into_iter().collect::<serde_json::Map<_, _>>()})
            }),
            inner.clone().prop_map(|items| json!({"type": "array", "items": items})),
            inner.prop_map(|values| json!({"type": "object", "additionalProperties": values})),
        ]
    })
    .boxed()
}

#[test]
fn rules_that_may_cost_too_much_are_refused() {
    let check = |schema: Value| -> Vec<String> {
        super::rules::check(&schema, &crate::field::Path::new("schema")).iter().map(ToString::to_string).collect()
    };
    let nested = |more: Value| {
        let mut inner = json!({"type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "self.all(s, s == 'string constant')"}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            inner[key] = value.clone();
        }
        json!({"type": "object", "properties": {"x": {"type": "array", "items": inner}}})
    };
    let hint = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and \
                strings are declared)";
    assert_eq!(
        check(nested(json!({}))),
        [
            format!(
                "schema.properties[x].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds \
                 budget by factor of more than 100x {hint}"
            ),
            "schema.properties[x].items.x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule & \
             messageExpression cost total exceeding cost limit for entire OpenAPIv3 schema"
                .to_owned(),
            format!(
                "schema: Forbidden: x-kubernetes-validations estimated rule & messageExpression cost total for entire \
                 OpenAPIv3 schema exceeds budget by factor of more than 100x {hint}"
            ),
        ]
    );
    // A million lists fit into a request.
    assert_eq!(check(nested(json!({"maxItems": 1}))), Vec::<String>::new());
    let bounded = json!({"type": "array", "maxItems": 1000, "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(x, self.exists(y, x == y))"}]});
    assert_eq!(check(bounded), Vec::<String>::new());
}

proptest! {
    /// Whatever the schema and the value: pruned once is pruned, filled in once is filled in, and what is filled in
    /// needs no pruning.
    #[test]
    fn pruning_and_defaults_are_done_once(schema in any_schema(3), value in any_value(4)) {
        let schema = Schema::read(&schema);
        let mut object = value;
        prune::prune(&schema, false, &mut object, true);
        prune::prune_nulls(Some(&schema), &mut object);
        let pruned = object.clone();
        prop_assert!(prune::prune(&schema, false, &mut object, true).is_empty());
        prune::prune_nulls(Some(&schema), &mut object);
        prop_assert_eq!(&object, &pruned);
        prune::default(&schema, &mut object);
        let filled = object.clone();
        prune::default(&schema, &mut object);
        prop_assert_eq!(&object, &filled);
        prop_assert!(prune::prune(&schema, false, &mut object, true).is_empty());
        prop_assert_eq!(&object, &filled);
    }

    /// Any value can be checked against any schema, and an update that changes nothing is never refused.
    #[test]
    fn nothing_panics_and_no_change_is_fine(schema in any_schema(3), value in any_value(4)) {
        let row = spec(schema);
        let custom = row.custom.as_ref().unwrap();
        let mut object = widget(value);
        if custom.coerce(&mut object).is_ok() {
            custom.default(&mut object);
            custom.validate(&object);
            prop_assert_eq!(custom.validate_update(&object, &object), vec![]);
        }
    }
}
