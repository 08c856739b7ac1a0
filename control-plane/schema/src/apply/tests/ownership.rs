//! Who owns what after appliers and updaters have taken turns.

use serde_json::{Value, json};

use super::*;

fn leaves() -> Value {
    json!({"numeric": "numeric", "string": "string", "bool": "boolean"})
}

fn lists() -> Value {
    json!({
        "set": ["set", "string"],
        "list": ["name", {"name": "string", "value": "numeric"}],
        "atomic": ["atomic", "string"],
        "labels": {"*": "string"},
        "selector": {"*!": "string"},
    })
}

#[test]
fn what_an_applier_leaves_out_goes() {
    let mut state = State::of(&leaves());
    state.apply("a", "v1", json!({"numeric": 1, "string": "x", "bool": false}));
    state.apply("a", "v1", json!({"string": "y"}));
    assert_eq!(state.live, json!({"string": "y"}));
    assert_eq!(state.owned("a"), [".string"]);
}

#[test]
fn what_nobody_applied_stays() {
    let mut state = State::of(&leaves());
    state.update("u", "v1", json!({"numeric": 1, "string": "x"}));
    state.apply("a", "v1", json!({"bool": true}));
    state.apply("a", "v1", json!({}));
    assert_eq!(state.live, json!({"numeric": 1, "string": "x"}));
    assert_eq!(state.owned("u"), [".numeric", ".string"]);
    assert!(state.managers.len() == 1, "who owns nothing is no manager");
}

#[test]
fn changing_what_another_owns_is_a_conflict() {
    let mut state = State::of(&leaves());
    state.apply("a", "v1", json!({"numeric": 1, "string": "x"}));
    state.update("u", "v1", json!({"numeric": 1, "string": "y", "bool": true}));
    assert_eq!(state.owned("a"), [".numeric"]);
    assert_eq!(state.owned("u"), [".bool", ".string"]);
    assert_eq!(state.conflicts("a", "v1", json!({"string": "x", "bool": false})), ["u: .bool", "u: .string"]);
    assert_eq!(state.live["string"], "y", "nothing is half applied");
    state.try_apply("a", "v1", &json!({"string": "x", "bool": false}), true).unwrap();
    assert_eq!(state.live, json!({"string": "x", "bool": false}));
    assert_eq!(state.owned("u"), Vec::<String>::new());
}

#[test]
fn saying_the_same_shares_ownership() {
    let mut state = State::of(&leaves());
    state.apply("a", "v1", json!({"string": "x"}));
    state.apply("b", "v2", json!({"string": "x", "numeric": 1}));
    state.apply("a", "v3", json!({}));
    assert_eq!(state.live, json!({"string": "x", "numeric": 1}), "b still wants it");
    state.apply("b", "v1", json!({"numeric": 1}));
    assert_eq!(state.live, json!({"numeric": 1}));
}

#[test]
fn an_update_takes_from_appliers_what_it_changes() {
    let mut state = State::of(&leaves());
    state.apply("a", "v1", json!({"string": "x", "numeric": 1}));
    state.update("u", "v1", json!({"string": "x"}));
    assert_eq!(state.owned("a"), [".string"], "what is gone is nobody's");
    assert_eq!(state.owned("u"), Vec::<String>::new());
}

#[test]
fn sets_merge_by_their_values() {
    let mut state = State::of(&lists());
    state.apply("a", "v1", json!({"set": ["a", "c"]}));
    state.apply("b", "v2", json!({"set": ["a", "b", "c", "d"]}));
    assert_eq!(state.live["set"], json!(["a", "b", "c", "d"]));
    state.apply("b", "v1", json!({"set": ["a", "aprime", "c", "cprime"]}));
    assert_eq!(state.live["set"], json!(["a", "aprime", "c", "cprime"]));
    state.apply("a", "v1", json!({"set": ["a"]}));
    assert_eq!(state.live["set"], json!(["a", "aprime", "c", "cprime"]));
    assert_eq!(state.owned("a"), [".set[=\"a\"]"]);
    state.apply("b", "v1", json!({"set": ["cprime"]}));
    assert_eq!(state.live["set"], json!(["a", "cprime"]));
}

#[test]
fn an_applier_orders_what_it_names() {
    let mut state = State::of(&lists());
    state.apply("a", "v1", json!({"set": ["a", "b", "c", "d"]}));
    state.update("u", "v1", json!({"set": ["a", "d", "c", "b"]}));
    assert_eq!(state.owned("u"), Vec::<String>::new(), "order is nobody's");
    state.apply("a", "v1", json!({"set": ["a", "b", "c", "d"]}));
    assert_eq!(state.live["set"], json!(["a", "b", "c", "d"]));
    state.update("u", "v1", json!({"set": ["x", "a", "y", "b", "z", "c", "d"]}));
    state.apply("a", "v1", json!({"set": ["d", "c", "b", "a"]}));
    assert_eq!(state.live["set"], json!(["x", "y", "z", "d", "c", "b", "a"]));
}

#[test]
fn keyed_lists_merge_item_by_item() {
    let mut state = State::of(&lists());
    state.apply("a", "v1", json!({"list": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}));
    state.apply("b", "v2", json!({"list": [{"name": "c", "value": 1}, {"name": "d"}]}));
    state.apply("a", "v3", json!({"list": [{"name": "a"}]}));
    assert_eq!(state.live["list"], json!([{"name": "a"}, {"name": "c", "value": 1}, {"name": "d"}]));
    assert_eq!(state.owned("a"), [".list[name=\"a\"]", ".list[name=\"a\"].name"]);
    assert_eq!(
        state.conflicts("a", "v1", json!({"list": [{"name": "c", "value": 2}]})),
        ["b: .list[name=\"c\"].value"]
    );
}

#[test]
fn an_item_goes_with_what_others_put_into_it() {
    let mut state = State::of(&lists());
    state.apply("a", "v1", json!({"list": [{"name": "a"}, {"name": "b"}]}));
    state.update("u", "v1", json!({"list": [{"name": "a", "value": 1}, {"name": "b"}]}));
    assert_eq!(state.owned("u"), [".list[name=\"a\"].value"]);
    state.apply("a", "v1", json!({"list": [{"name": "b"}]}));
    assert_eq!(state.live, json!({"list": [{"name": "b"}]}));
    assert_eq!(state.owned("u"), Vec::<String>::new());
}

#[test]
fn atomic_values_have_one_owner() {
    let mut state = State::of(&lists());
    state.apply("a", "v1", json!({"atomic": ["x"], "selector": {"a": "b"}}));
    assert_eq!(state.owned("a"), [".atomic", ".selector"]);
    assert_eq!(
        state.conflicts("b", "v1", json!({"atomic": ["x", "y"], "selector": {"c": "d"}})),
        ["a: .atomic", "a: .selector"]
    );
    state.try_apply("b", "v1", &json!({"selector": {"c": "d"}}), true).unwrap();
    assert_eq!(state.live["selector"], json!({"c": "d"}));
    assert_eq!(state.owned("a"), [".atomic"]);
}

#[test]
fn maps_merge_by_their_keys() {
    let mut state = State::of(&lists());
    state.apply("a", "v1", json!({"labels": {"a": "1", "b": "1"}}));
    state.apply("b", "v1", json!({"labels": {"b": "1", "c": "1"}}));
    assert_eq!(state.conflicts("b", "v1", json!({"labels": {"a": "2"}})), ["a: .labels.a"]);
    state.apply("a", "v1", json!({"labels": {"a": "1"}}));
    assert_eq!(state.live["labels"], json!({"a": "1", "b": "1", "c": "1"}));
}

#[test]
fn keys_with_defaults_may_be_left_out() {
    let ports = json!({"ports": ["port,protocol", {"port": "numeric", "protocol=TCP": "string", "name": "string"}]});
    let mut state = State::of(&ports);
    state.apply("a", "v1", json!({"ports": [{"port": 80, "name": "web"}, {"port": 80, "protocol": "UDP"}]}));
    assert_eq!(state.owned("a").iter().filter(|path| path.ends_with(']')).count(), 2);
    assert!(state.owned("a").contains(&".ports[port=80,protocol=\"TCP\"].name".to_owned()));
    // The same item, whether it says so or not.
    state.apply("b", "v1", json!({"ports": [{"port": 80, "protocol": "TCP"}]}));
    assert_eq!(state.live["ports"][0], json!({"port": 80, "name": "web", "protocol": "TCP"}));
    let twice = json!({"ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}]});
    let error = state.try_apply("a", "v1", &twice, true).unwrap_err();
    assert_eq!(error.to_string(), ".ports: duplicate entries for key [port=80,protocol=\"TCP\"]");
}

#[test]
fn items_that_cannot_be_told_apart_are_one_thing() {
    let mut state = State::of(&json!({"set": ["set", "numeric"], "other": "numeric"}));
    state.update("u", "v1", json!({"set": [1, 1, 3]}));
    assert_eq!(state.owned("u"), [".set", ".set[=1]", ".set[=3]"]);
    assert_eq!(state.conflicts("a", "v1", json!({"set": [1]})), ["u: .set[=1]"]);
    // Who does not touch them does not mind.
    state.apply("a", "v1", json!({"other": 1}));
    assert_eq!(state.live["set"], json!([1, 1, 3]));
    state.try_apply("a", "v1", &json!({"set": [1]}), true).unwrap();
    assert_eq!(state.live["set"], json!([1, 3]));
}

#[test]
fn ownership_follows_fields_through_versions() {
    let sketch = |version: &str| json!({"struct": {"name": "string", format!("scalar_{version}"): "string"}});
    let versions = ["v1", "v2", "v3"].map(|version| (version, sketch(version)));
    for [one, two, three] in [["v1", "v2", "v3"], ["v1", "v1", "v2"], ["v3", "v1", "v1"], ["v2", "v3", "v2"]] {
        let scalar = |version: &str| format!("scalar_{version}");
        let mut state = State::new(&versions);
        state.apply("a", one, json!({"struct": {"name": "a", scalar(one): "x"}}));
        state.apply("b", two, json!({"struct": {scalar(two): "x"}}));
        state.apply("a", three, json!({"struct": {"name": "a"}}));
        assert_eq!(state.object(one), json!({"struct": {"name": "a", scalar(one): "x"}}), "{one} {two} {three}");
        assert_eq!(state.owned("b"), [format!(".struct.scalar_{two}")]);
        state.apply("b", three, json!({"struct": {}}));
        assert_eq!(state.object(one), json!({"struct": {"name": "a"}}), "{one} {two} {three}");
    }
}

#[test]
fn managers_of_versions_that_are_gone_are_forgotten() {
    let mut state = State::of(&leaves());
    state.apply("a", "v1", json!({"string": "x"}));
    state.apply("b", "v2", json!({"numeric": 1}));
    state.versions.0.remove("v1");
    state.apply("b", "v2", json!({"numeric": 2, "string": "y"}));
    assert_eq!(state.managers.len(), 1);
    assert_eq!(state.live, json!({"numeric": 2, "string": "y"}));
}

#[test]
fn what_becomes_atomic_is_owned_as_a_whole() {
    let granular = json!({"struct": {"numeric": "numeric", "string": "string"}, "list": ["set", "string"]});
    let atomic = json!({"struct": {"numeric": "numeric", "string": "string", "!": true}, "list": ["atomic", "string"]});
    let mut state = State::of(&granular);
    state.apply("a", "v1", json!({"struct": {"numeric": 1}, "list": ["x"]}));
    state.apply("b", "v1", json!({"struct": {"string": "s"}}));
    state.versions = State::of(&atomic).versions;
    assert_eq!(state.conflicts("c", "v1", json!({"struct": {"string": "t"}})), ["a: .struct", "b: .struct"]);
    state.apply("a", "v1", json!({"struct": {"numeric": 1, "string": "s"}, "list": ["x"]}));
    assert_eq!(state.owned("a"), [".list", ".struct"]);
    assert_eq!(state.owned("b"), [".struct"]);
}

#[test]
fn fields_of_which_nothing_is_known_merge_as_maps() {
    let mut state = State::of(&json!({"...": true}));
    state.apply("a", "v1", json!({"spec": {"a": 1, "list": [1, 2]}}));
    state.apply("b", "v1", json!({"spec": {"b": {"c": "x"}}}));
    assert_eq!(state.live, json!({"spec": {"a": 1, "list": [1, 2], "b": {"c": "x"}}}));
    assert_eq!(state.conflicts("b", "v1", json!({"spec": {"list": [1]}})), ["a: .spec.list"]);
    state.update("u", "v1", json!({"spec": {"a": {"now": "a map"}, "b": ["now a list"]}}));
    assert_eq!(state.owned("u"), [".spec.a", ".spec.a.now", ".spec.b"]);
    assert!(state.owned("a").contains(&".spec".to_owned()));
}

#[test]
fn null_takes_a_field_away_and_owns_that() {
    let mut state = State::of(&leaves());
    state.update("u", "v1", json!({"string": "x"}));
    assert_eq!(state.conflicts("a", "v1", json!({"string": null})), ["u: .string"]);
    state.try_apply("a", "v1", &json!({"string": null}), true).unwrap();
    assert_eq!(state.live, json!({"string": null}));
    assert_eq!(state.owned("a"), [".string"]);
}

#[test]
fn what_is_not_of_the_type_is_refused() {
    let mut state = State::of(&json!({
        "a": "numeric", "s": "string", "b": "boolean", "set": ["set", "string"],
        "list": ["name", {"name": "string"}], "map": {"*": "numeric"},
    }));
    for (object, message) in [
        (json!({"foo": 1}), ".foo: field not declared in schema"),
        (json!({"a": "x"}), ".a: expected numeric (int or float), got string"),
        (json!({"s": 1}), ".s: expected string, got &value.valueUnstructured{Value:1}"),
        (json!({"b": "x"}), ".b: expected boolean, got &{x}"),
        (json!({"set": {"a": 1}}), ".set: expected list, got &{map[a:1]}"),
        (json!({"map": [1, "x"]}), ".map: expected map, got &{[1 x]}"),
        (json!({"set": ["x", "x"]}), ".set: duplicate entries for key [=\"x\"]"),
        (
            json!({"list": [{}]}),
            ".list: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and \
             doesn't have default values for any key fields)",
        ),
        (json!({"list": [null]}), ".list: element 0: associative list with keys may not have a null element"),
        (
            json!({"a": "x", "b": 1}),
            "errors:\n  .a: expected numeric (int or float), got string\n  .b: expected boolean, got &{1}",
        ),
    ] {
        assert_eq!(state.try_apply("m", "v1", &object, false).unwrap_err().to_string(), message);
    }
}
