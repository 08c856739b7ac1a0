//! Laws of applying, on objects made up at random.

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::apply::compare::compare;
use crate::apply::element::equal;
use crate::apply::field_set::field_set;
use crate::apply::merge::merge;
use crate::apply::remove::extract;

fn sketch() -> Value {
    json!({
        "a": "numeric",
        "s": "string",
        "set": ["set", "numeric"],
        "list": ["name", {"name": "string", "x": "numeric", "tags": {"*": "string"}}],
        "atomic": ["atomic", "numeric"],
        "map": {"*": "string"},
        "struct": {"p": "string", "q": {"r": "numeric", "t": "numeric"}},
    })
}

fn some<T>(strategy: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>>
where
    T: std::fmt::Debug,
{
    prop::option::of(strategy)
}

fn item() -> impl Strategy<Value = Value> {
    (some(0..2i64), some(prop::collection::btree_map("[ab]", "[xy]", 1..3))).prop_map(|(x, tags)| {
        let mut item = json!({});
        x.into_iter().for_each(|x| item["x"] = x.into());
        tags.into_iter().for_each(|tags| item["tags"] = json!(tags));
        item
    })
}

/// A configuration. Empty lists and maps are left out: they say nothing.
fn configuration() -> impl Strategy<Value = Value> {
    let list = prop::collection::btree_map("[a-d]", item(), 1..4);
    (
        some(0..3i64),
        some("[xyz]"),
        some(prop::collection::btree_set(0..5i64, 1..4)),
        some(list),
        some(prop::collection::vec(0..3i64, 1..3)),
        some(prop::collection::btree_map("[a-c]", "[xy]", 1..3)),
        some((some("[xy]"), some((0..2i64, some(0..2i64))))),
    )
        .prop_map(|(a, s, set, list, atomic, map, structure)| {
            let mut out = Map::new();
            out.extend(a.map(|a| ("a".into(), json!(a))));
            out.extend(s.map(|s| ("s".into(), json!(s))));
            out.extend(set.map(|set| ("set".into(), json!(set))));
            out.extend(atomic.map(|list| ("atomic".into(), json!(list))));
            out.extend(map.map(|map| ("map".into(), json!(map))));
            out.extend(list.map(|list| {
                let named = list.into_iter().map(|(name, mut item)| {
                    item["name"] = name.into();
                    item
                });
                ("list".into(), named.collect())
            }));
            if let Some((p, q)) = structure.filter(|(p, q)| p.is_some() || q.is_some()) {
                let mut inner = json!({});
                p.into_iter().for_each(|p| inner["p"] = p.into());
                if let Some((r, t)) = q {
                    inner["q"] = json!({"r": r});
                    t.into_iter().for_each(|t| inner["q"]["t"] = t.into());
                }
                out.insert("struct".into(), inner);
            }
            Value::Object(out)
        })
}

/// Lists whose order means nothing in order, and nothing empty: removing leaves nulls, which decoding drops.
fn settled(value: &Value) -> Value {
    match value {
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| (key, settled(value)));
            entries.filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value)).collect()
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(settled).collect();
            items.sort_by_key(ToString::to_string);
            Value::Array(items)
        }
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn applied_twice_is_applied_once(before in configuration(), other in configuration(), applied in configuration()) {
        let mut state = State::of(&sketch());
        state.update("u", "v1", before);
        let _ = state.try_apply("b", "v1", &other, true);
        state.try_apply("a", "v1", &applied, true).unwrap();
        let (live, managers) = (state.live.clone(), state.managers.clone());
        state.apply("a", "v1", applied);
        prop_assert_eq!(state.live, live);
        prop_assert_eq!(state.managers, managers);
    }

    #[test]
    fn what_is_merged_can_be_extracted(before in configuration(), applied in configuration()) {
        let definition = definition(&sketch());
        let ty = Type::Struct(&definition);
        let merged = merge(ty, &before, &applied).unwrap();
        let set = field_set(ty, &applied);
        let extracted = extract(ty, &merged, &set);
        let extracted = if extracted.is_null() { json!({}) } else { extracted };
        prop_assert!(equal(&settled(&extracted), &settled(&applied)), "{} is not {}", extracted, applied);
        // And everything that was there is there.
        prop_assert!(compare(ty, &before, &merged).removed.is_empty());
    }

    #[test]
    fn the_order_of_appliers_who_share_nothing_is_irrelevant(
        before in configuration(), one in configuration(), other in configuration()
    ) {
        let (mut left, mut right) = (State::of(&sketch()), State::of(&sketch()));
        for state in [&mut left, &mut right] {
            state.update("u", "v1", before.clone());
        }
        let definition = definition(&sketch());
        let ty = Type::Struct(&definition);
        let leaves = |value: &Value| field_set(ty, value);
        prop_assume!(!leaves(&one).is_empty() && leaves(&one).intersection(&leaves(&other)).is_empty());
        let both = |state: &mut State, order: [(&str, &Value); 2]| {
            for (manager, value) in order {
                state.try_apply(manager, "v1", value, true).unwrap();
            }
        };
        both(&mut left, [("a", &one), ("b", &other)]);
        both(&mut right, [("b", &other), ("a", &one)]);
        prop_assert_eq!(settled(&left.live), settled(&right.live));
        prop_assert_eq!(left.managers, right.managers);
    }

    #[test]
    fn giving_everything_up_leaves_what_others_own(before in configuration(), applied in configuration()) {
        let mut state = State::of(&sketch());
        state.update("u", "v1", before.clone());
        if state.try_apply("a", "v1", &applied, false).is_ok() {
            state.apply("a", "v1", json!({}));
            let live = if state.live.is_null() { json!({}) } else { state.live };
            prop_assert_eq!(settled(&live), settled(&before));
        }
    }

    #[test]
    fn differences_are_what_they_say(old in configuration(), new in configuration()) {
        let definition = definition(&sketch());
        let ty = Type::Struct(&definition);
        let found = compare(ty, &old, &new);
        prop_assert_eq!(found.is_same(), compare(ty, &new, &old).is_same());
        prop_assert_eq!(&found.added, &compare(ty, &new, &old).removed);
        prop_assert!(found.added.intersection(&found.removed).is_empty());
        prop_assert!(found.added.intersection(&found.modified).is_empty());
        if found.is_same() {
            prop_assert_eq!(settled(&old), settled(&new));
        }
    }
}
