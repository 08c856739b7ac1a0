use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::types::definition;

fn strategic(kind: &str, current: Value, patch: Value) -> Result<Value, PatchError> {
    strategic_merge_as(definition(kind).unwrap(), &current, &patch)
}

const POD: &str = "io.k8s.api.core.v1.Pod";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";

#[test]
fn json_patches_of_the_rfc() {
    let told = |current: Value, operations: Value| json_patch(&current, &operations);
    let add = json!([{"op": "add", "path": "/a/1", "value": "x"}, {"op": "add", "path": "/a/-", "value": "z"}]);
    assert_eq!(told(json!({"a": ["a", "b"]}), add).unwrap(), json!({"a": ["a", "x", "b", "z"]}));
    let escaped = json!([{"op": "replace", "path": "/m~1n/o~0p", "value": 2}]);
    assert_eq!(told(json!({"m/n": {"o~p": 1}}), escaped).unwrap(), json!({"m/n": {"o~p": 2}}));
    let moved = json!([{"op": "move", "from": "/a/b", "path": "/c"}, {"op": "copy", "from": "/c", "path": "/a/d"}]);
    assert_eq!(told(json!({"a": {"b": 1}}), moved).unwrap(), json!({"a": {"d": 1}, "c": 1}));
    let test = json!([{"op": "test", "path": "/a", "value": 1.0}, {"op": "test", "path": "/b", "value": null},
        {"op": "remove", "path": "/a"}]);
    assert_eq!(told(json!({"a": 1}), test).unwrap(), json!({}));
    let negative = json!([{"op": "remove", "path": "/-1"}]);
    assert_eq!(told(json!([1, 2]), negative).unwrap(), json!([1]));
    let whole = json!([{"op": "add", "path": "", "value": 7}]);
    assert_eq!(told(json!({}), whole).unwrap(), json!(7));
}

#[test]
fn json_patches_that_do_not_apply() {
    for operation in [
        json!({"op": "remove", "path": "/x"}),
        json!({"op": "replace", "path": "/x", "value": 1}),
        json!({"op": "add", "path": "/x/y", "value": 1}),
        json!({"op": "add", "path": "/list/7", "value": 1}),
        json!({"op": "remove", "path": "/list/-9"}),
        json!({"op": "test", "path": "/a", "value": 2}),
        json!({"op": "copy", "from": "/x", "path": "/y"}),
        json!({"op": "jump", "path": "/a"}),
        json!({"op": "add"}),
        json!({"op": "remove", "path": "a"}),
        json!({"op": "remove", "path": ""}),
    ] {
        let error = json_patch(&json!({"a": 1, "list": []}), &json!([operation])).unwrap_err();
        assert!(matches!(error, PatchError::Inapplicable(_)), "{operation}");
        assert_eq!(error.status().code, 422);
        assert_eq!(error.status().message, "the server rejected our request due to an error in our request");
    }
    assert_eq!(json_patch(&json!({}), &json!({})).unwrap_err().status().code, 400);
    let many = Value::Array(vec![json!({"op": "test", "path": "/b", "value": null}); 10_001]);
    assert_eq!(json_patch(&json!({}), &many).unwrap_err().status().code, 413);
    let bomb = Value::Array(vec![json!({"op": "copy", "from": "/x", "path": "/list/-"}); 4]);
    let current = json!({"x": "y".repeat(1 << 20), "list": []});
    assert!(json_patch(&current, &bomb).unwrap_err().to_string().starts_with("Unable to complete the copy"));
    let deep = Value::Array(vec![json!({"op": "copy", "from": "", "path": "/a"}); 200]);
    assert_eq!(json_patch(&json!({}), &deep).unwrap_err().to_string(), "exceeded max depth");
}

#[test]
fn merge_patches_of_the_rfc() {
    for (current, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        (json!({"a": "foo"}), json!({"a": {"b": 1, "c": null}}), json!({"a": {"b": 1}})),
    ] {
        assert_eq!(merge_patch(&current, &patch).unwrap(), expected);
    }
    assert_eq!(merge_patch(&json!({}), &json!([])).unwrap_err().to_string(), "Invalid JSON Patch");
}

#[test]
fn lists_of_structs_merge_by_key() {
    let current = json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}});
    let patch = json!({"spec": {"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}]}});
    assert_eq!(
        strategic(POD, current.clone(), patch).unwrap(),
        json!({"spec": {"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}, {"name": "b"}]}})
    );
    let delete = json!({"spec": {"containers": [{"name": "b", "$patch": "delete"}, {"name": "c"}]}});
    let merged = strategic(POD, current.clone(), delete).unwrap();
    assert_eq!(
        merged["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect::<Vec<_>>(),
        ["c", "a"]
    );
    let replace = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}});
    assert_eq!(strategic(POD, current.clone(), replace).unwrap(), json!({"spec": {"containers": [{"name": "z"}]}}));
    let no_key = json!({"spec": {"containers": [{"image": "2"}]}});
    assert_eq!(
        strategic(POD, current, no_key).unwrap_err().to_string(),
        "map: {\"image\":\"2\"} does not contain declared merge key: name"
    );
}

#[test]
fn other_lists_are_replaced_and_sets_are_joined() {
    let current =
        json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"containers": [{"name": "a", "args": ["x", "y"]}]}});
    let patch = json!({"metadata": {"finalizers": ["c", "a"]}, "spec": {"containers": [{"name": "a", "args": ["z"]}]}});
    let merged = strategic(POD, current.clone(), patch).unwrap();
    assert_eq!(merged["spec"]["containers"][0]["args"], json!(["z"]));
    assert_eq!(merged["metadata"]["finalizers"], json!(["c", "a", "b"]));
    let delete = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "q"]}});
    assert_eq!(strategic(POD, current.clone(), delete).unwrap()["metadata"]["finalizers"], json!(["b"]));
    let order = json!({"metadata": {"$setElementOrder/finalizers": ["b", "a"]}});
    assert_eq!(strategic(POD, current, order).unwrap()["metadata"]["finalizers"], json!(["b", "a"]));
}

#[test]
fn maps_replace_delete_and_retain() {
    let current = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}, "metadata": {"labels": {"a": "1", "b": "2"}}});
    let retain = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(
        strategic(DEPLOYMENT, current.clone(), retain).unwrap()["spec"],
        json!({"strategy": {"type": "Recreate"}})
    );
    let wrong = json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}});
    assert_eq!(
        strategic(DEPLOYMENT, current.clone(), wrong).unwrap_err().to_string(),
        "invalid patch format of retainKeys"
    );
    let replace = json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}});
    assert_eq!(strategic(DEPLOYMENT, current.clone(), replace).unwrap()["metadata"]["labels"], json!({"c": "3"}));
    let delete = json!({"spec": {"strategy": {"$patch": "delete"}}, "metadata": {"labels": {"a": null, "z": null}}});
    let merged = strategic(DEPLOYMENT, current.clone(), delete).unwrap();
    assert_eq!(merged, json!({"spec": {"strategy": {}}, "metadata": {"labels": {"b": "2"}}}));
    let unknown = json!({"spec": {"$patch": "explode"}});
    assert!(
        strategic(DEPLOYMENT, current, unknown)
            .unwrap_err()
            .to_string()
            .starts_with("unknown patch type: explode in map")
    );
}

#[test]
fn kubectls_order_directive_is_followed() {
    let current = json!({"spec": {"containers": [{"name": "a"}, {"name": "sidecar"}, {"name": "b"}]}});
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
        "containers": [{"name": "new", "image": "x"}]}});
    let merged = strategic(POD, current.clone(), patch).unwrap();
    let names: Vec<_> = merged["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["sidecar", "b", "new", "a"]);
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "x"}]}});
    assert!(strategic(POD, current, patch).unwrap_err().to_string().starts_with("The order in patch list:"));
    let patch =
        json!({"spec": {"$setElementOrder/volumes": [{"name": "v"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
    let merged = strategic(POD, json!({"spec": {}}), patch).unwrap();
    assert_eq!(merged, json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}));
}

/// As upstream's own suite has it: the new item takes the place of the deleted one, and the server's stays before it.
#[test]
fn new_items_take_the_place_of_deleted_ones() {
    let current = json!({"spec": {"containers": [{"name": "1"}, {"name": "2"}, {"name": "4"}]}});
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "2"}, {"name": "3"}],
        "containers": [{"name": "3"}, {"$patch": "delete", "name": "1"}]}});
    let merged = strategic(POD, current, patch).unwrap();
    assert_eq!(merged, json!({"spec": {"containers": [{"name": "2"}, {"name": "4"}, {"name": "3"}]}}));
}

#[test]
fn long_lists_merge_quickly() {
    let containers = |from: usize| (from..from + 5_000).map(|i| json!({"name": format!("c{i}")})).collect::<Vec<_>>();
    let current = json!({"spec": {"containers": containers(0)}});
    let patch = json!({"spec": {"$setElementOrder/containers": containers(2_500), "containers": containers(2_500)}});
    let merged = strategic(POD, current, patch).unwrap();
    assert_eq!(merged["spec"]["containers"].as_array().unwrap().len(), 7_500);
}

#[test]
fn directives_do_not_reach_new_values() {
    let patch = json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "a"}],
        "containers": [{"name": "a", "x": null}], "strategy": {"$retainKeys": ["a"]}}}}});
    let merged = strategic(DEPLOYMENT, json!({}), patch).unwrap();
    assert_eq!(merged, json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}], "strategy": {}}}}}));
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4).prop_map(Value::from),
        "[a-c]".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn json_object() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-d]", json_value(), 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
}

/// A pod's spec with named containers that have environment variables, and patches of the same form.
fn pod() -> impl Strategy<Value = Value> {
    let env = proptest::collection::btree_map("[X-Z]", "[0-3]", 0..3)
        .prop_map(|m| m.into_iter().map(|(k, v)| json!({"name": k, "value": v})).collect::<Vec<_>>());
    proptest::collection::btree_map("[a-d]", ("[0-3]", env), 0..4).prop_map(|m| {
        let containers: Vec<_> =
            m.into_iter().map(|(name, (image, env))| json!({"name": name, "image": image, "env": env})).collect();
        json!({"spec": {"containers": containers}})
    })
}

proptest! {
    #[test]
    fn a_merge_patch_twice_is_a_merge_patch_once(current in json_object(), patch in json_object()) {
        let once = merge_patch(&current, &patch).unwrap();
        prop_assert_eq!(merge_patch(&once, &patch).unwrap(), once);
    }

    #[test]
    fn an_empty_patch_changes_nothing(current in json_object()) {
        prop_assert_eq!(&merge_patch(&current, &json!({})).unwrap(), &current);
        prop_assert_eq!(&json_patch(&current, &json!([])).unwrap(), &current);
        prop_assert_eq!(&strategic(POD, current.clone(), json!({})).unwrap(), &current);
    }

    #[test]
    fn a_strategic_merge_twice_is_one(current in pod(), patch in pod()) {
        let once = strategic(POD, current, patch.clone()).unwrap();
        prop_assert_eq!(strategic(POD, once.clone(), patch).unwrap(), once);
    }

    #[test]
    fn what_a_strategic_merge_sets_is_set_and_nothing_is_lost(current in pod(), patch in pod()) {
        let merged = strategic(POD, current.clone(), patch.clone()).unwrap();
        let containers = |v: &Value| v["spec"]["containers"].as_array().unwrap().clone();
        for container in containers(&patch) {
            let found = containers(&merged).into_iter().find(|c| c["name"] == container["name"]).unwrap();
            prop_assert_eq!(&found["image"], &container["image"]);
        }
        for container in containers(&current) {
            prop_assert!(containers(&merged).iter().any(|c| c["name"] == container["name"]));
        }
        let names: std::collections::BTreeSet<_> = containers(&merged).iter().map(|c| c["name"].to_string()).collect();
        prop_assert_eq!(names.len(), containers(&merged).len());
    }

    #[test]
    fn no_strategic_patch_panics(current in json_object(), patch in json_value()) {
        let _ = strategic(POD, json!({"spec": current, "metadata": {"labels": {"a": "b"}}}), json!({"spec": patch.clone(), "metadata": patch}));
    }

    #[test]
    fn json_patch_adds_what_remove_takes(current in json_object(), value in json_value()) {
        let patch = json!([{"op": "add", "path": "/new", "value": value}, {"op": "remove", "path": "/new"}]);
        prop_assert_eq!(json_patch(&current, &patch).unwrap(), current);
    }
}
