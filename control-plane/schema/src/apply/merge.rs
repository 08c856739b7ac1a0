//! Puts an applied configuration into an object.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::element::Element;
use super::typed::{Atom, ListType, MapType, Type};

/// The object with what the configuration says. Nothing goes away; lists are in the order of the configuration where
/// it changes them, and what it does not name stays where it was.
///
/// # Errors
/// The configuration names an item of a list twice, or not at all.
pub fn merge(ty: Type<'_>, object: &Value, configuration: &Value) -> Result<Value, String> {
    either(ty, Some(object), Some(configuration)).map(Option::unwrap_or_default)
}

fn either(ty: Type<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<Option<Value>, String> {
    let atom = match (old, new) {
        (old, None) => ty.atom(old),
        (_, new) => ty.atom(new),
    };
    match atom {
        Atom::Scalar(_) => Ok(later(old, new)),
        Atom::List(list) => {
            let (old_items, new_items) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            if list.is_atomic() || (old_items.is_none_or(Vec::is_empty) && new_items.is_none_or(Vec::is_empty)) {
                return Ok(later(old, new));
            }
            items(&list, old_items.map_or(&[], Vec::as_slice), new_items.map_or(&[], Vec::as_slice))
        }
        Atom::Map(map) => {
            let (old_entries, new_entries) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            if map.atomic || (old_entries.is_none_or(Map::is_empty) && new_entries.is_none_or(Map::is_empty)) {
                return Ok(later(old, new));
            }
            entries(&map, old_entries, new_entries)
        }
    }
}

/// A leaf: what the configuration says, else what there is.
fn later(old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
    new.or(old).cloned()
}

fn entries(
    map: &MapType<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
) -> Result<Option<Value>, String> {
    let mut out = Map::new();
    for (name, before) in old.into_iter().flatten() {
        let after = new.and_then(|new| new.get(name));
        let value = match after {
            None => Some(before.clone()),
            after => {
                let ty = map.value_type(name).unwrap_or(Type::Deduced);
                either(ty, Some(before), after).map_err(|why| format!(".{name}{why}"))?
            }
        };
        out.extend(value.map(|value| (name.clone(), value)));
    }
    let is_new = |name: &str| old.is_none_or(|old| !old.contains_key(name));
    for (name, after) in new.into_iter().flatten().filter(|(name, _)| is_new(name)) {
        let ty = map.value_type(name).unwrap_or(Type::Deduced);
        let value = either(ty, None, Some(after)).map_err(|why| format!(".{name}{why}"))?;
        out.extend(value.map(|value| (name.clone(), value)));
    }
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

/// A list with its items told apart.
struct Indexed<'a> {
    elements: Vec<Element>,
    /// The item of each element; null where several cannot be told apart.
    items: BTreeMap<Element, &'a Value>,
}

const NULL: &Value = &Value::Null;

fn index<'a>(list: &ListType<'_>, items: &'a [Value], duplicates: bool) -> Result<Indexed<'a>, String> {
    let mut out = Indexed { elements: Vec::with_capacity(items.len()), items: BTreeMap::new() };
    for (at, item) in items.iter().enumerate() {
        let element = list.element(item).map_err(|why| format!(": element {at}: {why}"))?;
        if out.items.contains_key(&element) {
            if !duplicates {
                return Err(format!(": duplicate entries for key {element}"));
            }
            out.items.insert(element.clone(), NULL);
        } else {
            out.items.insert(element.clone(), item);
        }
        out.elements.push(element);
    }
    Ok(out)
}

fn items(list: &ListType<'_>, old: &[Value], new: &[Value]) -> Result<Option<Value>, String> {
    let right = index(list, new, false)?;
    let left = index(list, old, true)?;
    // The items of both, in the order of the configuration: old items wait until it is their turn.
    let mut shared = right.elements.iter().filter(|element| left.items.contains_key(*element)).peekable();
    let mut merged: BTreeSet<&Element> = BTreeSet::new();
    let mut out = Vec::with_capacity(old.len().max(new.len()));
    let mut put = |element: &Element, old: Option<&Value>, new: Option<&Value>| -> Result<(), String> {
        out.extend(either(list.item, old, new).map_err(|why| format!("{element}{why}"))?);
        Ok(())
    };
    let (mut l, mut r) = (0, 0);
    while l < old.len() || r < new.len() {
        if let (Some(element), Some(theirs)) = (left.elements.get(l), right.elements.get(r)) {
            if element == theirs {
                merged.insert(element);
                put(element, left.items.get(element).copied(), right.items.get(element).copied())?;
                l += 1;
                r += 1;
                shared.next();
                continue;
            }
            if right.items.contains_key(element) && shared.peek().is_some_and(|next| *next != element) {
                l += 1;
                continue;
            }
        }
        if let Some(element) = left.elements.get(l) {
            if !right.items.contains_key(element) {
                put(element, Some(&old[l]), None)?;
                l += 1;
                continue;
            }
            if merged.contains(element) {
                l += 1;
            }
        }
        if let Some(element) = right.elements.get(r) {
            merged.insert(element);
            put(element, left.items.get(element).copied(), right.items.get(element).copied())?;
            r += 1;
            shared.next_if(|next| *next == element);
        }
    }
    Ok((!out.is_empty()).then_some(Value::Array(out)))
}
