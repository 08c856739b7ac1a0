//! Sets of paths, as a trie: what a manager owns.

use serde_json::{Map, Value};

use super::element::{Element, ElementError};
use super::typed::{Atom, Type};

/// A set of paths into an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Sorted by element; none without a meaning (a node is a member, or has children).
    nodes: Vec<Node>,
}

/// A step of some path of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The step.
    pub element: Element,
    /// Whether the path ends here (too).
    pub member: bool,
    /// How paths go on from here.
    pub children: Set,
}

/// Why `FieldsV1` could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FieldsError(pub String);

impl Set {
    /// The set of these paths.
    pub fn of<const N: usize>(paths: [&[&str]; N]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
            set.insert(&path);
        }
        set
    }

    /// Whether there is no path.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|node| usize::from(node.member) + node.children.len()).sum()
    }

    /// The steps from here.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The step `element` from here.
    pub fn get(&self, element: &Element) -> Option<&Node> {
        self.nodes.binary_search_by(|node| node.element.cmp(element)).ok().map(|at| &self.nodes[at])
    }

    /// Whether the path is in the set.
    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last).is_some_and(|node| node.member),
            [first, rest @ ..] => self.get(first).is_some_and(|node| node.children.has(rest)),
        }
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = match self.nodes.binary_search_by(|node| node.element.cmp(first)) {
            Ok(at) => at,
            Err(at) => {
                let node = Node { element: first.clone(), member: false, children: Self::default() };
                self.nodes.insert(at, node);
                at
            }
        };
        if rest.is_empty() {
            self.nodes[at].member = true;
        } else {
            self.nodes[at].children.insert(rest);
        }
    }

    /// Adds a step, unless it means nothing. Steps that are not added in their order have to be put in order
    /// ([`Self::sort`]) before the set is used.
    pub(super) fn push(&mut self, element: Element, member: bool, children: Self) {
        if member || !children.is_empty() {
            self.nodes.push(Node { element, member, children });
        }
    }

    /// Puts the steps in order; of one that was added twice, both count.
    pub(super) fn sort(&mut self) {
        if self.nodes.is_sorted_by(|a, b| a.element < b.element) {
            return;
        }
        self.nodes.sort_by(|a, b| a.element.cmp(&b.element));
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        for node in self.nodes.drain(..) {
            match nodes.last_mut() {
                Some(last) if last.element == node.element => {
                    last.member |= node.member;
                    last.children = last.children.union(&node.children);
                }
                _ => nodes.push(node),
            }
        }
        self.nodes = nodes;
    }

    /// The paths of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.zip(other, |a, b| match (a, b) {
            (Some(a), Some(b)) => Some(Node {
                element: a.element.clone(),
                member: a.member || b.member,
                children: a.children.union(&b.children),
            }),
            (one, other) => one.or(other).cloned(),
        })
    }

    /// The paths of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, |a, b| {
            let (a, b) = a.zip(b)?;
            meaningful(&a.element, a.member && b.member, a.children.intersection(&b.children))
        })
    }

    /// The paths that `other` has not.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, |a, b| match (a?, b) {
            (a, None) => Some(a.clone()),
            (a, Some(b)) => meaningful(&a.element, a.member && !b.member, a.children.difference(&b.children)),
        })
    }

    /// The paths that are not in `other`, nor below one of its paths.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        self.zip(other, |a, b| match (a?, b) {
            (a, None) => Some(a.clone()),
            (_, Some(b)) if b.member => None,
            (a, Some(b)) => meaningful(&a.element, a.member, a.children.recursive_difference(&b.children)),
        })
    }

    /// The paths that begin with one of `other`'s.
    #[must_use]
    pub fn below(&self, other: &Self) -> Self {
        self.zip(other, |a, b| {
            let (a, b) = a.zip(b)?;
            if b.member { Some(a.clone()) } else { meaningful(&a.element, false, a.children.below(&b.children)) }
        })
    }

    fn zip(&self, other: &Self, keep: impl Fn(Option<&Node>, Option<&Node>) -> Option<Node>) -> Self {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let (mut left, mut right) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.element.cmp(&b.element),
            };
            let a = order.is_le().then(|| left.next()).flatten();
            let b = order.is_ge().then(|| right.next()).flatten();
            nodes.extend(keep(a, b));
        }
        Self { nodes }
    }

    /// Every field that has paths below it and is declared by the type becomes a member, so that sets can be compared
    /// whether they name the structs on the way or not.
    #[must_use]
    pub fn with_named_fields(&self, ty: Option<Type<'_>>) -> Self {
        let atom = ty.map(|ty| ty.atom(None));
        let nodes = self.nodes.iter().map(|node| {
            let (declared, below) = match (&node.element, &atom) {
                (Element::Field(name), Some(Atom::Map(map))) => (map.declares(name), map.value_type(name)),
                (Element::Key(_), Some(Atom::List(list))) => (false, Some(list.item)),
                _ => (false, None),
            };
            Node {
                element: node.element.clone(),
                member: node.member || (declared && !node.children.is_empty()),
                children: node.children.with_named_fields(below),
            }
        });
        Self { nodes: nodes.collect() }
    }

    /// Calls `f` with every path: at each step first those that end there.
    pub fn each(&self, f: &mut impl FnMut(&[Element])) {
        self.each_below(&mut Vec::new(), f);
    }

    fn each_below(&self, path: &mut Vec<Element>, f: &mut impl FnMut(&[Element])) {
        for node in self.nodes.iter().filter(|node| node.member) {
            path.push(node.element.clone());
            f(path);
            path.pop();
        }
        for node in &self.nodes {
            path.push(node.element.clone());
            node.children.each_below(path, f);
            path.pop();
        }
    }

    /// From `FieldsV1`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_fields(fields: &Value) -> Result<Self, FieldsError> {
        match fields {
            Value::Object(entries) => Self::from_entries(entries, 0),
            Value::Null => Ok(Self::default()),
            _ => Err(FieldsError("fieldsV1 must be an object".into())),
        }
    }

    fn from_entries(entries: &Map<String, Value>, depth: usize) -> Result<Self, FieldsError> {
        if depth > crate::decode::MAX_DEPTH {
            return Err(FieldsError("exceeded max depth".into()));
        }
        let mut set = Self { nodes: Vec::with_capacity(entries.len()) };
        for (key, below) in entries.iter().filter(|(key, _)| *key != ".") {
            let element = match Element::parse(key) {
                Ok(element) => element,
                Err(ElementError::Unknown) => continue,
                Err(ElementError::Malformed(why)) => {
                    return Err(FieldsError(format!("parsing key as path element: {why}")));
                }
            };
            let Value::Object(below) = below else {
                return Err(FieldsError(format!("what is below {key:?} must be an object")));
            };
            let children = Self::from_entries(below, depth + 1)?;
            let member = children.is_empty() || below.contains_key(".");
            set.push(element, member, children);
        }
        set.sort();
        Ok(set)
    }

    /// As `FieldsV1`.
    pub fn to_fields(&self) -> Value {
        Value::Object(self.to_entries(false))
    }

    fn to_entries(&self, member: bool) -> Map<String, Value> {
        let mut entries = Map::new();
        if member && !self.is_empty() {
            entries.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for node in &self.nodes {
            entries.insert(node.element.encoded(), Value::Object(node.children.to_entries(node.member)));
        }
        entries
    }
}

fn meaningful(element: &Element, member: bool, children: Set) -> Option<Node> {
    (member || !children.is_empty()).then(|| Node { element: element.clone(), member, children })
}

/// A path as people read it: `.spec.containers[name="a"].image`.
pub fn shown(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}
