//! Field selectors: `metadata.name=web,status.phase!=Running` (apimachinery `fields/selector.go`).

use std::fmt;

use serde_json::{Value, json};

use crate::resource::Resource;

/// A selector of fields: all its requirements hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// One requirement of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field label, `status.phase`.
    pub field: String,
    /// Whether it must equal the value, or differ from it.
    pub equal: bool,
    /// The value.
    pub value: String,
}

impl FieldSelector {
    /// Reads the query-string form. In values, `\` escapes `,`, `=` and itself.
    ///
    /// # Errors
    /// Upstream's words, as a 400 carries them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let wrong = || format!("invalid selector: '{text}'; can't understand '{term}'");
            let at = term.find("!=").into_iter().chain(term.find('=')).min().ok_or_else(wrong)?;
            let (field, rest) = term.split_at(at);
            let (equal, value) = match rest.strip_prefix("!=") {
                Some(value) => (false, value),
                None => (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')).ok_or_else(wrong)?),
            };
            requirements.push(FieldRequirement { field: field.to_owned(), equal, value: unescape(value)? });
        }
        Ok(Self { requirements })
    }

    /// The same by the names that the stored kind has for the fields, for a client that used those of `resource`.
    #[must_use]
    pub fn translated(mut self, resource: &Resource) -> Self {
        let names = resource.strategy.field_names;
        for requirement in &mut self.requirements {
            if let Some((_, label)) = names.iter().find(|(name, _)| *name == requirement.field) {
                requirement.field = (*label).to_owned();
            }
        }
        self
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The value that `field` must have, if one is required.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }

    /// Whether an object is selected, whose fields `get` tells; a field it has not is empty.
    pub fn matches<T: AsRef<str>>(&self, get: impl Fn(&str) -> Option<T>) -> bool {
        self.requirements.iter().all(|r| {
            let value = get(&r.field);
            (value.as_ref().map_or("", AsRef::as_ref) == r.value) == r.equal
        })
    }

    /// [`FieldSelector::matches`] for an object of a kind.
    pub fn matches_object(&self, resource: &Resource, object: &Value) -> bool {
        if self.is_everything() {
            return true;
        }
        let own = resource.fields(object);
        let metadata = |name: &str| object["metadata"][name].as_str().map(str::to_owned);
        self.matches(|field| match field {
            "metadata.name" => metadata("name"),
            "metadata.namespace" => metadata("namespace"),
            other => own.iter().find(|(label, _)| *label == other).map(|(_, value)| value.clone()),
        })
    }

    /// Whether the kind has all these fields.
    ///
    /// # Errors
    /// Upstream's words for the first that it has not.
    pub fn check(&self, resource: &Resource) -> Result<(), String> {
        let own = resource.fields(&json!({}));
        let custom = resource.custom.as_ref();
        for requirement in &self.requirements {
            let field = requirement.field.as_str();
            let known = match field {
                "metadata.name" => true,
                "metadata.namespace" => resource.namespaced || (own.is_empty() && custom.is_none()),
                other => match custom {
                    Some(custom) => custom.labels().iter().any(|label| label == other),
                    None => own.iter().any(|(label, _)| *label == other),
                },
            };
            if known {
                continue;
            }
            return Err(if own.is_empty() && custom.is_none() {
                format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
            } else {
                format!("field label not supported: {field}")
            });
        }
        Ok(())
    }
}

/// The text between commas that are not escaped.
fn terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// The query-string form.
impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, r) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let value = r.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(f, "{comma}{}{}{value}", r.field, if r.equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}
