//! The fields and items that an object says something about.

use std::collections::BTreeMap;

use serde_json::Value;

use super::element::Element;
use super::set::Set;
use super::typed::{Atom, ListType, MapType, Type};

/// Every leaf field and list item of an object.
pub fn field_set(ty: Type<'_>, value: &Value) -> Set {
    below(ty, value).1
}

/// Whether the value itself is a leaf, and the paths below it.
fn below(ty: Type<'_>, value: &Value) -> (bool, Set) {
    match (ty.atom(Some(value)), value) {
        (Atom::Scalar(_), _) => (true, Set::default()),
        (Atom::List(list), _) if list.is_atomic() => (true, Set::default()),
        (Atom::Map(map), _) if map.atomic => (true, Set::default()),
        (Atom::List(list), Value::Array(items)) => (false, of_items(&list, items)),
        (Atom::Map(map), Value::Object(entries)) => (false, of_entries(&map, entries)),
        _ => (false, Set::default()),
    }
}

fn of_items(list: &ListType<'_>, items: &[Value]) -> Set {
    let mut counted: BTreeMap<Element, Vec<&Value>> = BTreeMap::new();
    for item in items {
        if let Ok(element) = list.element(item) {
            counted.entry(element).or_default().push(item);
        }
    }
    let mut set = Set::default();
    for (element, items) in counted {
        // Of items that cannot be told apart, one owns all or none.
        let children = if let [item] = items.as_slice() { below(list.item, item).1 } else { Set::default() };
        set.push(element, true, children);
    }
    set
}

fn of_entries(map: &MapType<'_>, entries: &serde_json::Map<String, Value>) -> Set {
    let mut set = Set::default();
    for (name, value) in entries {
        let ty = map.value_type(name).unwrap_or(Type::Deduced);
        let (leaf, children) = below(ty, value);
        let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        set.push(Element::field(name), leaf || empty || !map.declares(name), children);
    }
    set.sort();
    set
}
