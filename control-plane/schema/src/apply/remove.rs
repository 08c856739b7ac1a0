//! Takes fields and items out of an object, or everything but those.

use serde_json::{Map, Value};

use super::element::Element;
use super::set::Set;
use super::typed::{Atom, ListType, MapType, Type};

/// The object without the items of the set.
pub fn remove(ty: Type<'_>, value: &Value, items: &Set) -> Value {
    walk(ty, value, items, false)
}

/// Of the object, the items of the set alone.
pub fn extract(ty: Type<'_>, value: &Value, items: &Set) -> Value {
    walk(ty, value, items, true)
}

fn walk(ty: Type<'_>, value: &Value, set: &Set, keep: bool) -> Value {
    let whole = || if keep { value.clone() } else { Value::Null };
    match (ty.atom(Some(value)), value) {
        (Atom::Scalar(_), value) => value.clone(),
        (Atom::List(list), Value::Array(items)) if !items.is_empty() && !list.is_atomic() => {
            of_items(&list, items, set, keep)
        }
        (Atom::Map(map), Value::Object(entries)) if !entries.is_empty() && !map.atomic => {
            of_entries(&map, entries, set, keep)
        }
        (Atom::List(_), Value::Array(_)) | (Atom::Map(_), Value::Object(_)) => whole(),
        _ => Value::Null,
    }
}

fn of_items(list: &ListType<'_>, items: &[Value], set: &Set, keep: bool) -> Value {
    let mut out = Vec::new();
    for item in items {
        let node = list.element(item).ok().and_then(|element| set.get(&element));
        let member = node.is_some_and(|node| node.member);
        let below = node.map(|node| &node.children).filter(|children| !children.is_empty());
        if keep {
            match below {
                Some(below) => out.push(walk(list.item, item, below, keep)),
                None if member => out.push(item.clone()),
                None => {}
            }
        } else if !member {
            out.push(below.map_or_else(|| item.clone(), |below| walk(list.item, item, below, keep)));
        }
    }
    if out.is_empty() { Value::Null } else { Value::Array(out) }
}

fn of_entries(map: &MapType<'_>, entries: &Map<String, Value>, set: &Set, keep: bool) -> Value {
    let mut out = Map::new();
    for (name, value) in entries {
        let ty = map.value_type(name).unwrap_or(Type::Deduced);
        let node = set.get(&Element::field(name));
        let member = node.is_some_and(|node| node.member);
        let below = node.map(|node| &node.children).filter(|children| !children.is_empty());
        let kept = match (keep, member, below) {
            (false, true, _) | (true, false, None) => continue,
            (true, true, None) => kept_whole(ty, value),
            (_, _, Some(below)) => walk(ty, value, below, keep),
            (false, false, None) => value.clone(),
        };
        out.insert(name.clone(), kept);
    }
    if out.is_empty() { Value::Null } else { Value::Object(out) }
}

/// A struct that is named without anything below it: what is granular in it belongs to nobody who is asked for.
fn kept_whole(ty: Type<'_>, value: &Value) -> Value {
    walk(ty, value, &Set::default(), true)
}
