//! Which keys a document of YAML has twice, in the words of upstream's parser.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// How many are told; more say nothing new.
const REPEATED_MAX: usize = 100;

/// `yaml: unmarshal errors:` and a line for each key that is there again, or `None` if there is none.
///
/// The line is that of the key's value.
///
/// # Errors
/// If it is no YAML.
pub fn repeated(body: &[u8]) -> Result<Option<String>, String> {
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough };
    let root: Node = serde_saphyr::from_slice_with_options(body, options).map_err(|e| e.to_string())?;
    let mut lines = Vec::new();
    root.collect(&mut lines);
    let lines = lines.join("\n  ");
    Ok((!lines.is_empty()).then(|| format!("yaml: unmarshal errors:\n  {lines}")))
}

/// As much of a document as the question needs.
enum Node {
    Leaf,
    List(Vec<Node>),
    Map(Vec<(String, Spanned<Node>)>),
}

impl Node {
    /// A map's keys are told after what is wrong inside their values.
    fn collect(&self, lines: &mut Vec<String>) {
        match self {
            Self::Leaf => {}
            Self::List(items) => items.iter().for_each(|item| item.collect(lines)),
            Self::Map(entries) => {
                let mut seen = BTreeSet::new();
                for (key, node) in entries {
                    node.value.collect(lines);
                    if !seen.insert(key) && lines.len() < REPEATED_MAX {
                        lines.push(format!("line {}: key {key:?} already set in map", node.referenced.line()));
                    }
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Node::Leaf)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element()? {
            out.push(item);
        }
        Ok(Node::List(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut out = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            out.push(entry);
        }
        Ok(Node::Map(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_are_told_with_the_lines_of_their_values() {
        let text = "\na: 1\nspec:\n  foo: foo1\n  list:\n  - b: 1\n    b: 2\n  foo: foo2\na:\n  c: 1\n";
        let told = "yaml: unmarshal errors:\n  line 7: key \"b\" already set in map\n  \
                    line 8: key \"foo\" already set in map\n  line 10: key \"a\" already set in map";
        assert_eq!(repeated(text.as_bytes()).unwrap().as_deref(), Some(told));
        let json = "{\"a\": null, \"b\": [true, 1.5],\n \"a\": {}}";
        let told = "yaml: unmarshal errors:\n  line 2: key \"a\" already set in map";
        assert_eq!(repeated(json.as_bytes()).unwrap().as_deref(), Some(told));
    }

    #[test]
    fn nothing_is_told_of_what_is_there_once() {
        assert_eq!(repeated(b"a: 1\nb: {a: 1}\nc: [{a: 1}, {a: 1}]\n").unwrap(), None);
        assert!(repeated(b"a: [").is_err());
    }
}
