//! Fields that are always there in Go: structs that are no pointers, and whatever is not `omitempty`. Upstream compares
//! Go structs, so who owns `.spec.containers` or `.status` hangs on these.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use serde_json::{Map, Value};

use crate::types::{self, Definition, Node, Scalar, Shape};

/// Lines `definition field`, with `*` after fields that are pointers.
const FACTS: &str = include_str!("../../data/present.txt");

type Fields = Vec<(&'static str, &'static Value)>;

/// The lines of one definition, read when they are asked for.
struct Entry {
    lines: Vec<&'static str>,
    fields: OnceLock<Fields>,
}

/// The fields of a struct that are always there, with their zero values.
pub fn of(definition: &Definition) -> &'static [(&'static str, &'static Value)] {
    static INDEX: LazyLock<HashMap<&'static str, Entry>> = LazyLock::new(index);
    if definition.name.is_empty() {
        return &[];
    }
    let Some(entry) = INDEX.get(types::short(&definition.name).as_ref()) else { return &[] };
    entry.fields.get_or_init(|| entry.lines.iter().filter_map(|line| field(definition, line)).collect())
}

fn index() -> HashMap<&'static str, Entry> {
    let mut index: HashMap<&'static str, Entry> = HashMap::new();
    for (name, line) in FACTS.lines().filter_map(|line| line.split_once(' ')) {
        let new = || Entry { lines: Vec::new(), fields: OnceLock::new() };
        index.entry(name).or_insert_with(new).lines.push(line);
    }
    index
}

fn field(definition: &Definition, line: &'static str) -> Option<(&'static str, &'static Value)> {
    let (name, pointer) = line.split_once(' ').map_or((line, false), |(name, _)| (name, true));
    let zero = if pointer { &*NULL } else { zero(&definition.field(name)?.node) };
    Some((name, zero))
}

static NULL: LazyLock<Value> = LazyLock::new(|| Value::Null);
static STRUCT: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static STRING: LazyLock<Value> = LazyLock::new(|| Value::String(String::new()));
static ZERO: LazyLock<Value> = LazyLock::new(|| Value::from(0));
static NO_QUANTITY: LazyLock<Value> = LazyLock::new(|| Value::from("0"));
static FALSE: LazyLock<Value> = LazyLock::new(|| Value::Bool(false));

fn zero(node: &Node) -> &'static Value {
    match &node.shape {
        Shape::Reference(_) | Shape::Object(_) => &STRUCT,
        Shape::Scalar(Scalar::String) => &STRING,
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString) => &ZERO,
        Shape::Scalar(Scalar::Bool) => &FALSE,
        Shape::Scalar(Scalar::Quantity) => &NO_QUANTITY,
        Shape::Scalar(Scalar::Bytes | Scalar::Time | Scalar::MicroTime | Scalar::Raw | Scalar::Any)
        | Shape::List(_)
        | Shape::Map(_) => &NULL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_names_a_field() {
        let mut last = "";
        for line in FACTS.lines() {
            assert!(last < line, "sorted: {line}");
            last = line;
            let mut words = line.split(' ');
            let definition = types::definition(&types::full(words.next().unwrap())).expect(line);
            assert!(definition.field(words.next().unwrap()).is_some(), "{line}");
        }
    }

    #[test]
    fn zero_values_are_gos() {
        let fields = of(types::definition("io.k8s.api.core.v1.PodSpec").unwrap());
        assert_eq!(fields, [("containers", &*NULL)]);
        let fields = of(types::definition("io.k8s.api.apps.v1.DeploymentSpec").unwrap());
        assert_eq!(fields, [("selector", &*NULL), ("strategy", &*STRUCT), ("template", &*STRUCT)]);
    }
}
