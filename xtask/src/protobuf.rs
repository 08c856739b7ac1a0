//! The facts about the protobuf form of the built-in types: `control-plane/schema/data/protobuf.txt`.
//!
//! They are in the struct tags of Go's types, `k8s.io/api` and `k8s.io/apimachinery` (directories with their files).
//! A message is a line with its short name; below it, a line for each field, indented by a space: the tag, and the
//! field's name in JSON. Before the name, `=` says that a zero is kept (the Go field is a pointer, or is always written).
//! Instead of a name, `>` and a message say that the message's fields are the struct's own in JSON.
//! Only messages of types.txt (and what they inline) are listed, of stable versions. No prose.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

#[derive(Clone, Debug)]
enum Field {
    Named { tag: u32, name: String, keep_zero: bool },
    Inline { tag: u32, message: String },
}

type Messages = BTreeMap<String, Vec<Field>>;

/// Reads the sources, and prints the facts.
pub fn print(api: &str, apimachinery: &str, types: &str) -> Result<()> {
    let text = std::fs::read_to_string(types).with_context(|| format!("cannot read {types}"))?;
    let wanted: BTreeSet<&str> =
        text.lines().filter(|l| !l.starts_with(' ')).filter_map(|l| l.split(' ').next()).collect();
    let packages: BTreeSet<&str> = wanted.iter().filter_map(|name| name.rsplit_once('.')).map(|(p, _)| p).collect();
    let mut messages = Messages::new();
    for package in packages {
        let Some((group, version)) = package.split_once('.') else { continue };
        // Versions that are not served; some share Go types with others.
        if version.contains("alpha") || version.contains("beta") {
            continue;
        }
        let directory = match group {
            "meta" => Path::new(apimachinery).join("pkg/apis/meta").join(version),
            _ => Path::new(api).join(group).join(version),
        };
        // Groups that live elsewhere (CustomResourceDefinition) are not sent as protobuf by kubectl.
        let Ok(source) = std::fs::read_to_string(directory.join("types.go")) else { continue };
        read(package, &source, &mut messages);
    }
    let mut inlined = BTreeSet::new();
    for field in wanted.iter().filter_map(|name| messages.get(*name)).flatten() {
        if let Field::Inline { message, .. } = field {
            inlined.insert(message.clone());
        }
    }
    messages.retain(|name, _| wanted.contains(name.as_str()) || inlined.contains(name));
    print!("{}", render(&messages));
    Ok(())
}

fn render(messages: &Messages) -> String {
    let mut out = String::new();
    for (name, fields) in messages.iter().filter(|(_, fields)| !fields.is_empty()) {
        let _ = writeln!(out, "{name}");
        for field in fields {
            let _ = match field {
                Field::Named { tag, name, keep_zero: true } => writeln!(out, " {tag} ={name}"),
                Field::Named { tag, name, keep_zero: false } => writeln!(out, " {tag} {name}"),
                Field::Inline { tag, message } => writeln!(out, " {tag} >{message}"),
            };
        }
    }
    out
}

fn read(package: &str, source: &str, messages: &mut Messages) {
    let mut current: Option<(String, Vec<Field>)> = None;
    for line in source.lines() {
        if let Some(name) = line.strip_prefix("type ").and_then(|rest| rest.strip_suffix(" struct {")) {
            current = Some((format!("{package}.{name}"), Vec::new()));
        } else if line == "}" {
            messages.extend(current.take());
        } else if let Some((_, fields)) = &mut current {
            fields.extend(field(package, line));
        }
    }
}

/// `\tImmutable *bool `json:"immutable,omitempty" protobuf:"varint,4,opt,name=immutable"``.
fn field(package: &str, line: &str) -> Option<Field> {
    let (left, tags) = line.split_once('`')?;
    if left.trim_start().starts_with("//") {
        return None;
    }
    let quoted = |key: &str| tags.split_once(key)?.1.split('"').next();
    let tag = quoted("protobuf:\"")?.split(',').nth(1)?.parse().ok()?;
    let json = quoted("json:\"").unwrap_or_default();
    let name = json.split(',').next().unwrap_or_default();
    let words: Vec<&str> = left.split_whitespace().collect();
    if name.is_empty() {
        let kind = words.last()?.trim_start_matches('*');
        let message = match kind.split_once('.') {
            Some(("metav1", kind)) => format!("meta.v1.{kind}"),
            Some((_, kind)) => format!("core.v1.{kind}"),
            None => format!("{package}.{kind}"),
        };
        return Some(Field::Inline { tag, message });
    }
    let pointer = words.last()?.starts_with('*');
    let keep_zero = pointer || !json.contains(",omitempty");
    Some(Field::Named { tag, name: name.to_owned(), keep_zero })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read() {
        let mut messages = Messages::new();
        let source = "type A struct {\n\tmetav1.TypeMeta `json:\",inline\"`\n\tB *int32 `json:\"b,omitempty\" \
                      protobuf:\"varint,3,opt,name=b\"`\n\tC `json:\",inline\" protobuf:\"bytes,2,opt,name=c\"`\n}\n";
        read("x.v1", source, &mut messages);
        assert_eq!(render(&messages), "x.v1.A\n 3 =b\n 2 >x.v1.C\n");
    }
}
