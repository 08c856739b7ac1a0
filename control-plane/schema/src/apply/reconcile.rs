//! Brings what a manager owns up to a type that has changed since it was written down: where a list or struct became
//! atomic, who owned a part of it owns all of it.

use super::element::Element;
use super::set::{Node, Set};
use super::typed::{Atom, Type};

/// The set as the type is now; `None` if nothing is to be changed.
pub fn reconcile(ty: Type<'_>, set: &Set) -> Option<Set> {
    let mut found = Set::default();
    walk(ty, set, false, &mut Vec::new(), &mut found);
    (!found.is_empty()).then(|| set.recursive_difference(&found).union(&found))
}

/// `whole` says that the set names the value itself and nothing below it.
fn walk(ty: Type<'_>, set: &Set, whole: bool, path: &mut Vec<Element>, found: &mut Set) {
    match ty.atom(None) {
        Atom::Scalar(_) => {}
        Atom::List(list) if list.is_atomic() => {
            if !whole {
                found.insert(path);
            }
        }
        Atom::List(list) => each(set, |_| Some(list.item), path, found),
        Atom::Map(map) if map.is_deduced() => {}
        Atom::Map(map) if map.atomic => {
            if !whole && !set.is_empty() {
                found.insert(path);
            }
        }
        Atom::Map(map) => {
            let of = |node: &Node| match &node.element {
                Element::Field(name) => map.value_type(name),
                _ => None,
            };
            each(set, of, path, found);
        }
    }
}

fn each<'a>(set: &Set, of: impl Fn(&Node) -> Option<Type<'a>>, path: &mut Vec<Element>, found: &mut Set) {
    for node in set.nodes() {
        let Some(ty) = of(node) else { continue };
        path.push(node.element.clone());
        walk(ty, &node.children, node.member && node.children.is_empty(), path, found);
        path.pop();
    }
}
