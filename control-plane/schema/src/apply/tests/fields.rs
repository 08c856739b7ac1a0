//! `FieldsV1` and the algebra of sets.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::apply::element::Element;

#[test]
fn fields_are_read_and_written_as_upstream_does() {
    let fields = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}},
            "f:finalizers": {"v:\"a\"": {}, "v:1": {}},
            "f:list": {"i:0": {}},
        },
    });
    let set = set(fields.clone());
    assert_eq!(set.len(), 8);
    assert_eq!(set.to_fields(), fields);
    assert!(set.has(&[Element::field("metadata"), Element::field("labels")]));
    assert!(!set.has(&[Element::field("metadata")]));
    assert_eq!(set.len(), Set::from_fields(&set.to_fields()).unwrap().len());
}

#[test]
fn what_a_later_version_wrote_is_left_out() {
    let read = set(json!({"f:a": {}, "z:new": {"f:b": {}}}));
    assert_eq!(read, set(json!({"f:a": {}})));
    for bad in [json!([]), json!({"a": {}}), json!({"f:a": 1}), json!({"k:{": {}})] {
        assert!(Set::from_fields(&bad).is_err(), "{bad}");
    }
}

#[test]
fn deep_fields_are_refused() {
    let mut fields = json!({});
    for _ in 0..1000 {
        fields = json!({"f:a": fields});
    }
    assert!(Set::from_fields(&fields).is_err());
}

fn element() -> impl Strategy<Value = Element> {
    prop_oneof![
        "[a-c]".prop_map(|name| Element::field(&name)),
        (0..3i64).prop_map(|n| Element::Value(n.into())),
        "[ab]".prop_map(|name| Element::keys(vec![("name".into(), name.into())])),
        (0..2i64).prop_map(Element::Index),
    ]
}

fn paths() -> impl Strategy<Value = Vec<Vec<Element>>> {
    prop::collection::vec(prop::collection::vec(element(), 1..4), 0..8)
}

fn of(paths: &[Vec<Element>]) -> Set {
    let mut set = Set::default();
    paths.iter().for_each(|path| set.insert(path));
    set
}

proptest! {
    #[test]
    fn sets_are_sets(a in paths(), b in paths()) {
        let (left, right) = (of(&a), of(&b));
        let (union, both) = (left.union(&right), left.intersection(&right));
        let (rest, deep) = (left.difference(&right), left.recursive_difference(&right));
        for path in a.iter().chain(&b) {
            let (l, r) = (left.has(path), right.has(path));
            prop_assert_eq!(union.has(path), l || r);
            prop_assert_eq!(both.has(path), l && r);
            prop_assert_eq!(rest.has(path), l && !r);
            let below = (1..=path.len()).any(|end| right.has(&path[..end]));
            prop_assert_eq!(deep.has(path), l && !below);
            prop_assert_eq!(left.below(&right).has(path), l && below);
        }
        prop_assert_eq!(union.len() + both.len(), left.len() + right.len());
        prop_assert_eq!(rest.union(&both), left.clone());
        prop_assert_eq!(Set::from_fields(&left.to_fields()).unwrap(), left);
    }

    #[test]
    fn no_fields_make_a_panic(text in "\\PC{0,40}") {
        let _ = Element::parse(&text);
        if let Ok(value) = serde_json::from_str(&text) {
            let _ = Set::from_fields(&value);
        }
    }
}
