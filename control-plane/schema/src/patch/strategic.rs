//! Strategic merge (apimachinery `util/strategicpatch`), to the letter where the letter can be seen from outside: the
//! order of merged lists, and which malformed directives are refused.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::PatchError;
use crate::types::{Definition, Node, Shape};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Entries = Map<String, Value>;

/// What is known of a map's values.
#[derive(Clone, Copy)]
enum Schema<'a> {
    Struct(&'a Definition),
    Map(&'a Node),
    Unknown,
}

impl<'a> Schema<'a> {
    fn of(node: Option<&'a Node>) -> Self {
        let Some(node) = node else { return Self::Unknown };
        match (&node.shape, node.definition()) {
            (Shape::Map(value), _) => Self::Map(value),
            (_, Some(definition)) => Self::Struct(definition),
            _ => Self::Unknown,
        }
    }

    fn node(self, key: &str) -> Option<&'a Node> {
        match self {
            Self::Struct(definition) => definition.field(key).map(|f| &f.node),
            Self::Map(value) => Some(value),
            Self::Unknown => None,
        }
    }
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

pub(super) fn apply(definition: &Definition, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(original), Value::Object(patch)) = (current, patch) else {
        return Err(malformed("invalid JSON document"));
    };
    merge_map(original.clone(), patch.clone(), Schema::Struct(definition)).map(Value::Object)
}

fn merge_map(mut original: Entries, mut patch: Entries, schema: Schema<'_>) -> Result<Entries, PatchError> {
    match patch.remove(DIRECTIVE).as_ref().map(|d| d.as_str().unwrap_or_default()) {
        None => {}
        Some("replace") => return Ok(patch),
        Some("delete") => return Ok(Entries::new()),
        Some(other) => return Err(malformed(format!("unknown patch type: {other} in map: {}", Value::Object(patch)))),
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, schema)?;
    for (key, value) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE_FROM) {
            Some(list) => (list.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let node = schema.node(&key);
        match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let replaces = node.is_some_and(|n| n.patch.replace);
                let merged = if replaces { new } else { merge_map(old, new, Schema::of(node))? };
                original.insert(key, Value::Object(merged));
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let merged = if deletes { delete_from(old, &new) } else { merge_list(old, new, node)? };
                original.insert(key, Value::Array(merged));
            }
            (old, new) => {
                let kept = if deletes { old } else { without_directives(new) };
                if let Some(kept) = kept {
                    original.insert(key, kept);
                }
            }
        }
    }
    Ok(original)
}

/// A value that is new to the object: its nulls and directives have nothing to act on, and what a directive is about
/// is not added.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(entries) if entries.contains_key(DIRECTIVE) => None,
        Value::Object(entries) => {
            let directive =
                |key: &str| key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
            let kept = entries.into_iter().filter(|(key, value)| !directive(key) && !value.is_null());
            Some(Value::Object(kept.filter_map(|(key, value)| Some((key, without_directives(value)?))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

/// `$retainKeys`: what it does not list goes. What the patch sets has to be listed.
fn retain_keys(original: &mut Entries, patch: &mut Entries) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let wrong = || malformed("invalid patch format of retainKeys");
    let Value::Array(keys) = keys else { return Err(wrong()) };
    let keys: BTreeSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let listed = |key: &str| keys.contains(key);
    let unlisted = |(key, value): (&String, &Value)| {
        !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(SET_ORDER) && !listed(key)
    };
    if patch.iter().any(unlisted) {
        return Err(wrong());
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// `$setElementOrder/LIST`: merges the list, and then puts it in that order. What only the server has is placed among
/// the others by where it was.
fn merge_ordered_lists(original: &mut Entries, patch: &mut Entries, schema: Schema<'_>) -> Result<(), PatchError> {
    let orders: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in orders {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(malformed("invalid patch format of setElementOrder list"));
        };
        let key = &directive[SET_ORDER.len()..];
        let list = |entries: &mut Entries| match entries.remove(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            // Null deletes the list, which the merge sees to.
            Some(other) => Err(other),
        };
        let wrong = || malformed("invalid patch format of setElementOrder list");
        let new = match list(patch) {
            Err(Value::Null) => {
                patch.insert(key.to_owned(), Value::Null);
                continue;
            }
            other => other.map_err(|_| wrong())?,
        };
        let old = list(original).map_err(|_| wrong())?;
        let node = schema.node(key);
        let merge_key = node.and_then(|n| n.patch.merge_key.as_deref());
        check_order(new.as_deref().unwrap_or_default(), &order, merge_key)?;
        let was = match (&old, &new) {
            (Some(old), Some(new)) if merge_key.is_some() => seen_order(old, new, merge_key),
            _ => old.clone().unwrap_or_default(),
        };
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            },
            (Some(old), Some(new)) => merge_list(old, new, node)?,
        };
        original.insert(key.to_owned(), Value::Array(in_order(merged, &order, &was, merge_key)));
    }
    Ok(())
}

/// The order that upstream sees the server's list in after the merge: in Go the merge works in place, so that new items
/// stand where deleted ones left room. It decides where the server's own items go.
fn seen_order(old: &[Value], new: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let is_deleted = |item: &&Value| item.get(DIRECTIVE).is_some_and(|d| d == "delete");
    let deleted = Index::new(new.iter().filter(is_deleted), merge_key);
    let known = Index::new(old, merge_key);
    let remaining = old.iter().filter(|item| deleted.find(item).is_none());
    let added = new.iter().filter(|item| item.get(DIRECTIVE).is_none() && known.find(item).is_none());
    remaining.chain(added).take(old.len()).cloned().collect()
}

/// The items that a patch sets must stand in the order that it asks for.
fn check_order(patch: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), PatchError> {
    let set = patch.iter().filter(|item| item.get(DIRECTIVE).is_none());
    let mut ordered = order.iter();
    for item in set {
        if !ordered.any(|o| identity(o, merge_key) == identity(item, merge_key)) {
            return Err(malformed(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                Value::from(patch),
                Value::from(order)
            )));
        }
    }
    Ok(())
}

/// What tells an item from another: the value of its merge key, or itself.
fn identity<'a>(item: &'a Value, merge_key: Option<&str>) -> &'a Value {
    match (merge_key, item) {
        (Some(key), Value::Object(_)) => &item[key],
        _ => item,
    }
}

/// Where in a list an item is. Lists may be long, and patches, too.
struct Index<'a> {
    merge_key: Option<&'a str>,
    /// By the JSON of the identity; of several, the first.
    positions: HashMap<String, usize>,
}

impl<'a> Index<'a> {
    fn new<'i>(list: impl IntoIterator<Item = &'i Value>, merge_key: Option<&'a str>) -> Self {
        let mut index = Self { merge_key, positions: HashMap::new() };
        for (at, item) in list.into_iter().enumerate() {
            index.add(item, at);
        }
        index
    }

    /// Whether it is new.
    fn add(&mut self, item: &Value, at: usize) -> bool {
        let len = self.positions.len();
        self.positions.entry(identity(item, self.merge_key).to_string()).or_insert(at);
        self.positions.len() > len
    }

    fn find(&self, item: &Value) -> Option<usize> {
        self.positions.get(&identity(item, self.merge_key).to_string()).copied()
    }
}

fn delete_from(mut list: Vec<Value>, deleted: &[Value]) -> Vec<Value> {
    let deleted = Index::new(deleted, None);
    list.retain(|item| deleted.find(item).is_none());
    list
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, node: Option<&Node>) -> Result<Vec<Value>, PatchError> {
    if !node.is_some_and(|n| n.patch.merge) {
        return Ok(patch);
    }
    if original.iter().chain(&patch).any(Value::is_array) {
        return Err(PatchError::Inapplicable("lists of lists are not supported".into()));
    }
    let item = node.and_then(|n| match &n.shape {
        Shape::List(item) => Some(item.as_ref()),
        _ => None,
    });
    let merge_key = node.and_then(|n| n.patch.merge_key.as_deref());
    if !original.iter().chain(&patch).any(Value::is_object) {
        let mut seen = Index::new([], None);
        let new = |value: &&Value| seen.add(value, 0);
        let merged = original.iter().chain(&patch).filter(new).cloned().collect();
        return Ok(in_order(merged, &patch, &original, None));
    }
    let Some(key) = merge_key else {
        return Err(malformed("cannot merge lists without merge key"));
    };
    let (original, patch) = list_directives(original, patch, key)?;
    let Some(patch) = patch else { return Ok(original) };
    let mut merged = original.clone();
    let mut index = Index::new(&merged, Some(key));
    for change in &patch {
        let Value::Object(entries) = change else { return Err(malformed("invalid JSON document")) };
        if !entries.contains_key(key) {
            return Err(malformed(format!("map: {change} does not contain declared merge key: {key}")));
        }
        match index.find(change) {
            Some(at) => {
                let Value::Object(old) = merged[at].take() else { return Err(malformed("invalid JSON document")) };
                merged[at] = Value::Object(merge_map(old, entries.clone(), Schema::of(item))?);
            }
            None => {
                index.add(change, merged.len());
                merged.extend(without_directives(change.clone()));
            }
        }
    }
    Ok(in_order(merged, &patch, &original, Some(key)))
}

/// Carries out the `$patch` directives among the items. Without a patch that remains, the list is as it is to be.
fn list_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Option<Vec<Value>>), PatchError> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut deleted = Index::new([], Some(key));
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => rest.push(item),
            Some("delete") => {
                if item.get(key).is_none() {
                    return Err(malformed(format!("map: {item} does not contain declared merge key: {key}")));
                }
                deleted.add(&item, 0);
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(malformed("merging lists cannot yet be specified in the patch")),
            Some(other) => return Err(malformed(format!("unknown patch type: {other} in map: {item}"))),
        }
    }
    original.retain(|item| deleted.find(item).is_none());
    if replace { Ok((rest, None)) } else { Ok((original, Some(rest))) }
}

/// Puts a merged list in order: what `order` names as it says; the rest as it was, each before the first that it stood
/// in front of.
fn in_order(merged: Vec<Value>, order: &[Value], was: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let (order, was) = (Index::new(order, merge_key), Index::new(was, merge_key));
    let (mut named, mut rest): (Vec<_>, Vec<_>) = merged.into_iter().partition(|item| order.find(item).is_some());
    named.sort_by_cached_key(|item| order.find(item));
    rest.sort_by_cached_key(|item| was.find(item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let mut named = named.into_iter().peekable();
    for item in rest {
        let place = was.find(&item);
        let is_before = |next: &Value| place.zip(was.find(next)).is_none_or(|(place, next)| next <= place);
        while let Some(next) = named.next_if(is_before) {
            out.push(next);
        }
        out.push(item);
    }
    out.extend(named);
    out
}
