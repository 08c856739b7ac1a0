//! JSONPath as printer columns and selectable fields have it (client-go `util/jsonpath`):
//! `.status.conditions[?(@.type=="Ready")].status`.

use serde_json::Value;

/// How deep and long a path may be.
const MAX_STEPS: usize = 256;

/// A path, read.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Some of several fields.
    Fields(Vec<String>),
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    All,
    /// The values, and all that are in them.
    Recursive,
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// A path that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl JsonPath {
    /// Reads a path, `.spec.replicas`.
    ///
    /// # Errors
    /// It is malformed, or has too many steps.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let mut parser = Parser { rest: text, steps: 0 };
        let path = parser.path()?;
        if parser.rest.is_empty() {
            return Ok(path);
        }
        Err(Unreadable(format!("unrecognized character in {text:?} at {:?}", parser.rest)))
    }

    /// What is there in an object; nothing for what is not there.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.apply(value)).collect();
        }
        found
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(entries)) => entries.get(name).into_iter().collect(),
            (Self::Fields(names), Value::Object(entries)) => names.iter().filter_map(|n| entries.get(n)).collect(),
            (Self::Index(at), Value::Array(items)) => {
                place(*at, items.len()).and_then(|at| items.get(at)).into_iter().collect()
            }
            (Self::Slice(from, to, step), Value::Array(items)) => slice(items, *from, *to, *step),
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(entries)) => entries.values().collect(),
            (Self::Recursive, value) => descendants(value),
            (Self::Filter(left, comparison), Value::Array(items)) => {
                items.iter().filter(|item| passes(item, left, comparison.as_ref())).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn place(at: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if at < 0 { at + length } else { at }).ok()
}

fn slice(items: &[Value], from: Option<i64>, to: Option<i64>, step: i64) -> Vec<&Value> {
    let start = place(from.unwrap_or(0), items.len()).unwrap_or(0);
    let end = to.map_or(Some(items.len()), |to| place(to, items.len())).unwrap_or(0).min(items.len());
    let step = usize::try_from(step).unwrap_or(1).max(1);
    items.get(start..end).into_iter().flatten().step_by(step).collect()
}

fn descendants(value: &Value) -> Vec<&Value> {
    let mut found = vec![value];
    match value {
        Value::Object(entries) => found.extend(entries.values().flat_map(descendants)),
        Value::Array(items) => found.extend(items.iter().flat_map(descendants)),
        _ => {}
    }
    found
}

fn passes(item: &Value, left: &Operand, comparison: Option<&(Comparison, Operand)>) -> bool {
    fn first<'a>(operand: &'a Operand, item: &'a Value) -> Option<&'a Value> {
        match operand {
            Operand::Path(path) => path.find(item).into_iter().next(),
            Operand::Literal(value) => Some(value),
        }
    }
    let Some((comparison, right)) = comparison else { return first(left, item).is_some() };
    let (Some(left), Some(right)) = (first(left, item), first(right, item)) else { return false };
    let order = match (left, right) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        (a, b) if a == b => Some(std::cmp::Ordering::Equal),
        _ => None,
    };
    match comparison {
        Comparison::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Unequal => !order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::AtMost => order.is_some_and(std::cmp::Ordering::is_le),
        Comparison::More => order.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::AtLeast => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

struct Parser<'a> {
    rest: &'a str,
    steps: usize,
}

impl<'a> Parser<'a> {
    fn path(&mut self) -> Result<JsonPath, Unreadable> {
        let mut steps = Vec::new();
        self.take("$");
        loop {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(Unreadable("the path has too many steps".into()));
            }
            if self.take("..") {
                steps.push(Step::Recursive);
                if self.rest.starts_with('[') {
                    continue;
                }
                steps.push(self.field()?);
            } else if self.take(".") {
                if self.rest.starts_with('[') || self.rest.is_empty() {
                    continue;
                }
                steps.push(self.field()?);
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(JsonPath(steps));
            }
        }
    }

    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn field(&mut self) -> Result<Step, Unreadable> {
        if self.take("*") {
            return Ok(Step::All);
        }
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' | ']' | ')' | ' ' | '=' | '!' | '<' | '>' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() {
            return Err(Unreadable(format!("a name is missing at {:?}", self.rest)));
        }
        Ok(Step::Field(name))
    }

    fn bracket(&mut self) -> Result<Step, Unreadable> {
        if self.take("?(") {
            let step = self.filter()?;
            return if self.take(")]") { Ok(step) } else { Err(Unreadable("unterminated filter".into())) };
        }
        let inside = self.until_bracket()?;
        let trimmed = inside.trim();
        if trimmed == "*" {
            return Ok(Step::All);
        }
        if trimmed.starts_with(['\'', '"']) {
            let names: Option<Vec<String>> = split_names(trimmed);
            let names = names.ok_or_else(|| Unreadable(format!("invalid array index {inside}")))?;
            return Ok(if let [name] = names.as_slice() { Step::Field(name.clone()) } else { Step::Fields(names) });
        }
        let number = |text: &str| -> Result<Option<i64>, Unreadable> {
            if text.trim().is_empty() {
                return Ok(None);
            }
            text.trim().parse().map(Some).map_err(|_| Unreadable(format!("invalid array index {inside}")))
        };
        let parts: Vec<&str> = trimmed.split(':').collect();
        match parts.as_slice() {
            [index] => {
                number(index)?.map(Step::Index).ok_or_else(|| Unreadable(format!("invalid array index {inside}")))
            }
            [from, to] => Ok(Step::Slice(number(from)?, number(to)?, 1)),
            [from, to, step] => Ok(Step::Slice(number(from)?, number(to)?, number(step)?.unwrap_or(1))),
            _ => Err(Unreadable(format!("invalid array index {inside}"))),
        }
    }

    /// The text up to the bracket that closes, which is skipped.
    fn until_bracket(&mut self) -> Result<&'a str, Unreadable> {
        let mut quote = None;
        let mut escaped = false;
        for (at, c) in self.rest.char_indices() {
            match (quote, c) {
                _ if escaped => escaped = false,
                (_, '\\') => escaped = true,
                (Some(open), c) if c == open => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, ']') => {
                    let inside = &self.rest[..at];
                    self.rest = &self.rest[at + 1..];
                    return Ok(inside);
                }
                _ => {}
            }
        }
        Err(Unreadable("unterminated array".into()))
    }

    fn filter(&mut self) -> Result<Step, Unreadable> {
        let left = self.operand()?;
        self.rest = self.rest.trim_start();
        let operators = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ];
        for (text, comparison) in operators {
            if self.take(text) {
                let right = self.operand()?;
                self.rest = self.rest.trim_start();
                return Ok(Step::Filter(left, Some((comparison, right))));
            }
        }
        Ok(Step::Filter(left, None))
    }

    fn operand(&mut self) -> Result<Operand, Unreadable> {
        self.rest = self.rest.trim_start();
        if self.take("@") {
            return self.path().map(Operand::Path);
        }
        if let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let body = &self.rest[1..];
            let end = body.find(quote).ok_or_else(|| Unreadable("unterminated quoted string".into()))?;
            let text = Value::from(&body[..end]);
            self.rest = &body[end + 1..];
            return Ok(Operand::Literal(text));
        }
        let end = self.rest.find([')', ' ', '=', '!', '<', '>']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        serde_json::from_str(word)
            .map(Operand::Literal)
            .map_err(|_| Unreadable(format!("unrecognized identifier {word}")))
    }
}

/// `'a','b'`, without the quotes.
fn split_names(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut name = String::new();
        let mut chars = rest[1..].char_indices();
        let end = loop {
            match chars.next()? {
                (_, '\\') => name.push(chars.next()?.1),
                (at, c) if c == quote => break at,
                (_, c) => name.push(c),
            }
        };
        names.push(name);
        rest = rest[1 + end + 1..].trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => return rest.is_empty().then_some(names),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_they_name() {
        let object = json!({"spec": {"replicas": 3, "list": [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}]},
            "metadata": {"annotations": {"a.b/c": "x"}}});
        for (path, expected) in [
            (".spec.replicas", json!([3])),
            (".spec.missing", json!([])),
            (".spec.list[1].n", json!([2])),
            (".spec.list[-1].n", json!([2])),
            (".spec.list[*].n", json!([1, 2])),
            (".spec.list[0:1].n", json!([1])),
            (r#".spec.list[?(@.t=="b")].n"#, json!([2])),
            (".spec.list[?(@.t=='b')].n", json!([2])),
            (".spec.list[?(@.n > 1)].t", json!(["b"])),
            (".spec.list[?(@.x)].t", json!([])),
            (r".metadata.annotations.a\.b/c", json!(["x"])),
            (r".metadata.annotations['a\.b/c']", json!(["x"])),
            ("..n", json!([1, 2])),
            (".", json!([object])),
        ] {
            let found = JsonPath::parse(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(json!(found.find(&object)), expected, "{path}");
        }
        for bad in ["[", ".a[x]", ".a[?(@.b==]", "a b", ".spec.list[?(@.t==\"b]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_text_panics() {
        proptest::proptest!(|(text in r#"[.\[\]a-c*?@()='":0-9\\ -]{0,24}"#)| {
            if let Ok(path) = JsonPath::parse(&text) {
                path.find(&json!({"a": [{"b": 1}, 2], "b": {"c": null}}));
            }
        });
    }
}
