//! What differs between two states of an object.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::{Element, equal};
use super::set::Set;
use super::typed::{Atom, ListType, MapType, Type, always};

/// What differs. No path is in more than one of the sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Gone in the second state.
    pub removed: Set,
    /// In both, and different.
    pub modified: Set,
    /// New in the second state.
    pub added: Set,
}

/// What is true of the compared value itself.
#[derive(Clone, Copy, Default)]
struct Marks {
    removed: bool,
    modified: bool,
    added: bool,
}

/// Compares two states of an object of a type.
pub fn compare(ty: Type<'_>, old: &Value, new: &Value) -> Comparison {
    either(ty, Some(old), Some(new)).1
}

impl Comparison {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    fn push(&mut self, element: Element, (marks, below): (Marks, Self)) {
        if below.is_same() {
            // The usual case: one of the three, without a copy of the element.
            let set = match (marks.removed, marks.modified, marks.added) {
                (false, false, false) => return,
                (true, false, false) => Some(&mut self.removed),
                (false, true, false) => Some(&mut self.modified),
                (false, false, true) => Some(&mut self.added),
                _ => None,
            };
            if let Some(set) = set {
                return set.push(element, true, Set::default());
            }
        }
        self.removed.push(element.clone(), marks.removed, below.removed);
        self.modified.push(element.clone(), marks.modified, below.modified);
        self.added.push(element, marks.added, below.added);
    }

    fn sort(&mut self) {
        self.removed.sort();
        self.modified.sort();
        self.added.sort();
    }
}

/// One of the states may lack the value.
fn either(ty: Type<'_>, old: Option<&Value>, new: Option<&Value>) -> (Marks, Comparison) {
    if let (Some(old), Some(new)) = (old, new)
        && old == new
    {
        return (Marks::default(), Comparison::default());
    }
    let (before, after) = (ty.atom(old), ty.atom(new));
    let (Some(_), Some(_)) = (old, new) else {
        return as_atom(if new.is_none() { before } else { after }, old, new);
    };
    if before.is_like(&after) {
        return as_atom(after, old, new);
    }
    // A value that nothing is known of has changed its kind.
    let (was, gone) = as_atom(before, old, new);
    let (is, came) = as_atom(after, old, new);
    let marks = Marks {
        removed: was.removed || is.removed,
        modified: was.modified || is.modified,
        added: was.added || is.added,
    };
    let comparison = Comparison {
        removed: gone.removed.union(&came.removed),
        modified: gone.modified.union(&came.modified),
        added: gone.added.union(&came.added),
    };
    (marks, comparison)
}

fn as_atom(atom: Atom<'_>, old: Option<&Value>, new: Option<&Value>) -> (Marks, Comparison) {
    let leaf = || (leaf(old, new), Comparison::default());
    let comparison = match atom {
        Atom::Scalar(_) => return leaf(),
        Atom::List(list) => {
            let (old, new) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            if list.is_atomic() || (old.is_none_or(Vec::is_empty) && new.is_none_or(Vec::is_empty)) {
                return leaf();
            }
            items(&list, old.map_or(&[], Vec::as_slice), new.map_or(&[], Vec::as_slice))
        }
        Atom::Map(map) => {
            let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let empty = |entries: Option<&Map<String, Value>>| {
                entries.is_none_or(|entries| entries.is_empty() && always(&map).is_empty())
            };
            if map.atomic || (empty(old) && empty(new)) {
                return leaf();
            }
            entries(&map, old, new)
        }
    };
    let marks = Marks { removed: new.is_none(), modified: false, added: old.is_none() };
    (marks, comparison)
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Marks {
    match (old, new) {
        (None, _) => Marks { added: true, ..Marks::default() },
        (_, None) => Marks { removed: true, ..Marks::default() },
        (Some(old), Some(new)) => Marks { modified: !equal(old, new), ..Marks::default() },
    }
}

fn entries(map: &MapType<'_>, old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>) -> Comparison {
    let mut out = Comparison::default();
    let always = always(map);
    let mut visit = |name: &str, before: Option<&Value>, after: Option<&Value>| {
        // What Go would have written, had it written the object.
        let zero = || always.iter().find(|(field, _)| *field == name).map(|(_, zero)| *zero);
        let before = before.or_else(|| old.and_then(|_| zero()));
        let after = after.or_else(|| new.and_then(|_| zero()));
        if before.is_some() || after.is_some() {
            let ty = map.value_type(name).unwrap_or(Type::Deduced);
            out.push(Element::field(name), either(ty, before, after));
        }
    };
    let has = |entries: Option<&Map<String, Value>>, name: &str| entries.is_some_and(|e| e.contains_key(name));
    for (name, before) in old.into_iter().flatten() {
        visit(name, Some(before), new.and_then(|new| new.get(name)));
    }
    for (name, after) in new.into_iter().flatten().filter(|(name, _)| !has(old, name)) {
        visit(name, None, Some(after));
    }
    for (name, _) in always.iter().filter(|(name, _)| !has(old, name) && !has(new, name)) {
        visit(name, None, None);
    }
    out.sort();
    out
}

fn items(list: &ListType<'_>, old: &[Value], new: &[Value]) -> Comparison {
    let mut pairs: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old {
        if let Ok(element) = list.element(item) {
            pairs.entry(element).or_default().0.push(item);
        }
    }
    for item in new {
        if let Ok(element) = list.element(item) {
            pairs.entry(element).or_default().1.push(item);
        }
    }
    let mut out = Comparison::default();
    for (element, (before, after)) in pairs {
        let compared = match (before.as_slice(), after.as_slice()) {
            // Items that cannot be told apart are one thing.
            ([_, _, ..], [_, _, ..]) => {
                let same = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| equal(a, b));
                (Marks { modified: !same, ..Marks::default() }, Comparison::default())
            }
            ([_, _, ..], after) => {
                let one = after.first().map(|item| either(list.item, None, Some(item)));
                let (marks, below) = one.unwrap_or_default();
                (Marks { removed: true, ..marks }, below)
            }
            (before, [_, _, ..]) => {
                let one = before.first().map(|item| either(list.item, Some(item), None));
                let (marks, below) = one.unwrap_or_default();
                (Marks { added: true, ..marks }, below)
            }
            (before, after) => either(list.item, before.first().copied(), after.first().copied()),
        };
        out.push(element, compared);
    }
    out
}
