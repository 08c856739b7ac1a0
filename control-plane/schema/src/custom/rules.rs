//! Rules in CEL, `x-kubernetes-validations` (apiextensions `apiserver/schema/cel`).
//!
//! A rule sees the value that its schema describes as `self`, and the value that it was as `oldSelf`, where the two can
//! be correlated. What a value violates that has not changed is let be, unless the rule compares the two.

use serde::Deserialize;
use serde_json::{Value, json};

use super::list_type::counterpart;
use super::schema::Rule;
use crate::cel::{Activation, Budget, Environment, EvalError, Program, Size, Type, Val, compile, cost};
use crate::field::{Error, ErrorKind, ErrorList, Path};
use crate::kinds::json::{list, same, text, truth};

/// The longest message that an expression may make, in bytes.
const MAX_MESSAGE_BYTES: usize = 5 << 10;
const RULES: &str = "x-kubernetes-validations";
/// What a rule may cost by itself, as far as its schema tells (apiextensions `StaticEstimatedCostLimit`).
const RULE_COST_LIMIT: u64 = 10_000_000;
/// What all the rules of a schema may (`StaticEstimatedCRDCostLimit`).
const SCHEMA_COST_LIMIT: u64 = 100_000_000;
/// How many are named when they do.
const MOST_EXPENSIVE: usize = 4;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a schema and of all that are inside it.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The schema's type, which errors quote.
    kind: String,
    compiled: Vec<Compiled>,
    properties: Vec<(String, Rules)>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    /// What tells the items of a list apart; empty where old and new ones cannot be correlated.
    keys: Vec<String>,
    atomic_map: bool,
}

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    program: Result<Program, String>,
    message: Option<Program>,
    transition: bool,
}

impl Compiled {
    fn new(rule: Rule, ty: &Type) -> Self {
        let environment = environment(&rule, ty);
        let program = compile(&rule.rule, &environment).map_err(|e| e.to_string());
        let expression = Some(rule.message_expression.as_str()).filter(|text| !text.is_empty());
        let message = expression.and_then(|text| compile(text, &environment).ok());
        let transition = program.as_ref().is_ok_and(|program| program.mentions("oldSelf"));
        Self { rule, program, message, transition }
    }
}

fn environment(rule: &Rule, ty: &Type) -> Environment {
    let old = if rule.optional_old_self == Some(true) { Type::optional(ty.clone()) } else { ty.clone() };
    Environment::new().variable("self", ty.clone()).variable("oldSelf", old)
}

fn rules_of(schema: &Value) -> Vec<Rule> {
    list(schema, RULES).iter().filter_map(|rule| Rule::deserialize(rule).ok()).collect()
}

impl Rules {
    /// The rules of a schema; `None` if there are none. `root` is set for the schema of an object as a whole.
    pub(crate) fn read(schema: &Value, root: bool) -> Option<Self> {
        let rules = rules_of(schema);
        let ty = if rules.is_empty() { None } else { Type::from_schema(schema, root) };
        let compiled: Vec<Compiled> = match ty {
            Some(ty) => rules.into_iter().map(|rule| Compiled::new(rule, &ty)).collect(),
            None => Vec::new(),
        };
        let embedded = |schema: &Value| truth(schema, "x-kubernetes-embedded-resource");
        let inner =
            |schema: &Value| schema.is_object().then(|| Self::read(schema, embedded(schema))).flatten().map(Box::new);
        let properties: Vec<(String, Self)> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, schema)| Some((name.clone(), Self::read(schema, embedded(schema))?)))
            .collect();
        let keys = match text(schema, "x-kubernetes-list-type") {
            "map" => list(schema, "x-kubernetes-list-map-keys"),
            _ => &[],
        };
        let rules = Self {
            kind: text(schema, "type").to_owned(),
            compiled,
            properties,
            additional: inner(&schema["additionalProperties"]),
            items: inner(&schema["items"]),
            keys: keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect(),
            atomic_map: text(schema, "x-kubernetes-map-type") == "atomic",
        };
        let none = rules.compiled.is_empty()
            && rules.properties.is_empty()
            && rules.additional.is_none()
            && rules.items.is_none();
        (!none).then_some(rules)
    }

    /// Everything that a value violates; `old` is what it was, of which `self` is the update if `ratchet` is set.
    pub(crate) fn validate(&self, value: &Value, old: Option<&Value>, ratchet: bool, path: &Path) -> ErrorList {
        let mut run = Run { budget: Budget::default(), errors: ErrorList::new(), over: false };
        let unchanged = match old {
            Some(old) if ratchet => Unchanged::Compared(value, old),
            _ => Unchanged::No,
        };
        run.node(self, value, old, unchanged, path, true);
        run.errors
    }
}

/// Whether a value is as it was, by itself or as a part of something that is.
#[derive(Clone, Copy)]
enum Unchanged<'a> {
    /// There is nothing to compare it with.
    No,
    /// The value, and what it was.
    Compared(&'a Value, &'a Value),
    /// It cannot be correlated itself; this is the nearest around it that can.
    Within(&'a Value, &'a Value),
}

impl<'a> Unchanged<'a> {
    fn holds(self) -> bool {
        match self {
            Self::No => false,
            Self::Compared(new, old) | Self::Within(new, old) => same(new, old),
        }
    }

    fn inner(self, new: &'a Value, old: Option<&'a Value>) -> Self {
        match (self, old) {
            (Self::No, _) => Self::No,
            (Self::Compared(..), Some(old)) => Self::Compared(new, old),
            (Self::Compared(new, old), None) | (Self::Within(new, old), _) => Self::Within(new, old),
        }
    }
}

struct Run {
    budget: Budget,
    errors: ErrorList,
    /// Nothing more is evaluated.
    over: bool,
}

impl Run {
    fn node(
        &mut self,
        rules: &Rules,
        value: &Value,
        old: Option<&Value>,
        unchanged: Unchanged<'_>,
        path: &Path,
        root: bool,
    ) {
        if value.is_null() || self.over {
            return;
        }
        for compiled in &rules.compiled {
            self.rule(rules, compiled, value, old, unchanged, path);
            if self.over {
                return;
            }
        }
        match value {
            Value::Object(entries) => {
                for (name, value) in entries {
                    let old = old.and_then(|old| old.get(name));
                    let known = if rules.atomic_map { None } else { old };
                    let unchanged = match unchanged {
                        _ if root && matches!(name.as_str(), "apiVersion" | "kind") => Unchanged::No,
                        unchanged => unchanged.inner(value, known),
                    };
                    if let Some(inner) = &rules.additional {
                        self.node(inner, value, old, unchanged, &path.key(name), false);
                    }
                    if let Some((_, inner)) = rules.properties.iter().find(|(known, _)| known == name) {
                        self.node(inner, value, old, unchanged, &path.child(name), false);
                    }
                }
            }
            Value::Array(items) => {
                let Some(inner) = &rules.items else { return };
                let before = old.and_then(Value::as_array).filter(|_| !rules.keys.is_empty());
                for (index, item) in items.iter().enumerate() {
                    let old = before.and_then(|before| counterpart(&rules.keys, before, item));
                    self.node(inner, item, old, unchanged.inner(item, old), &path.index(index), false);
                }
            }
            _ => {}
        }
    }

    fn rule(
        &mut self,
        rules: &Rules,
        compiled: &Compiled,
        value: &Value,
        old: Option<&Value>,
        unchanged: Unchanged<'_>,
        path: &Path,
    ) {
        let Compiled { rule, program, message, transition } = compiled;
        let said = if rule.message.is_empty() { rule.rule.trim() } else { rule.message.trim() };
        let invalid = |why: String| Error::invalid(path.clone(), rules.kind.as_str(), why);
        if self.budget.exhausted() {
            self.errors.push(invalid(OUT_OF_BUDGET.into()));
            self.over = true;
            return;
        }
        let program = match program {
            Ok(program) => program,
            Err(why) => {
                self.errors.push(invalid(format!("rule compile error: {why}")));
                return;
            }
        };
        let old = old.filter(|old| !old.is_null());
        let optional = rule.optional_old_self == Some(true);
        if *transition && old.is_none() && !optional {
            return;
        }
        let activation = Activation::new().value("self", value).value("oldSelf", old.unwrap_or(&Value::Null));
        match program.evaluate(&activation, &mut self.budget) {
            Ok(Val::Bool(true)) => return,
            Ok(_) => {}
            Err(EvalError::CostLimit) => {
                let why = if self.budget.exhausted() {
                    OUT_OF_BUDGET.to_owned()
                } else {
                    let limit = EvalError::CostLimit;
                    format!(
                        "'{limit}': no further validation rules will be run due to call cost exceeds limit for rule: {said}"
                    )
                };
                self.errors.push(invalid(why));
                self.over = true;
                return;
            }
            Err(EvalError::Other(why)) if why.starts_with("no such overload") => {
                self.errors.push(invalid(format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for rule: \
                     {said}"
                )));
                return;
            }
            Err(EvalError::Other(why)) => {
                self.errors.push(invalid(format!("{why} evaluating rule: {said}")));
                return;
            }
        }
        let made = message.as_ref().and_then(|message| self.message(message, &activation));
        let detail = made.unwrap_or_else(|| match rule.message.as_str() {
            "" => format!("failed rule: {said}"),
            text => text.trim().to_owned(),
        });
        let path = match rule.field_path.trim().trim_start_matches('.') {
            "" => path.clone(),
            field => path.child(&field.replace("['", "[").replace("']", "]")),
        };
        if *transition || !unchanged.holds() {
            let whole = matches!(rules.kind.as_str(), "object" | "array");
            self.errors.push(failed(rule, path, (!whole).then(|| value.clone()), detail));
        }
    }

    /// The message that an expression makes, if it makes a good one.
    fn message<'a>(&mut self, program: &'a Program, activation: &Activation<'a>) -> Option<String> {
        let Ok(Val::Str(text)) = program.evaluate(activation, &mut self.budget) else { return None };
        let text = text.trim();
        let good = !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n');
        good.then(|| text.to_owned())
    }
}

fn failed(rule: &Rule, path: Path, value: Option<Value>, detail: String) -> Error {
    match rule.reason.as_deref() {
        Some("FieldValueForbidden") => Error::forbidden(path, detail),
        Some("FieldValueRequired") => Error::required(path, detail),
        Some("FieldValueDuplicate") => Error { kind: ErrorKind::Duplicate, path, value, detail: String::new() },
        _ => Error { kind: ErrorKind::Invalid, path, value, detail },
    }
}

/// Everything that is wrong with the rules of a schema that is sound otherwise.
pub(crate) fn check(schema: &Value, path: &Path) -> ErrorList {
    let mut check = Check { total: Total::default(), errors: ErrorList::new() };
    check.schema(schema, true, &Place { lost: None, times: Some(1) }, path);
    check.total.report(path, &mut check.errors);
    check.errors
}

/// Where a schema is in the one around it.
struct Place<'p> {
    /// The list from which on old and new values cannot be correlated.
    lost: Option<&'p Path>,
    /// How many values it describes at most; `None` if nothing says so.
    times: Option<u64>,
}

struct Check {
    total: Total,
    errors: ErrorList,
}

impl Check {
    fn schema(&mut self, schema: &Value, root: bool, place: &Place<'_>, path: &Path) {
        let rules = list(schema, RULES);
        if !rules.is_empty()
            && let (Some(ty), Some(size)) = (Type::from_schema(schema, root), Size::of(schema, root))
        {
            for (index, rule) in rules.iter().enumerate() {
                let path = path.child(RULES).index(index);
                let costs = check_rule(rule, &ty, &size, place.lost, &path, &mut self.errors);
                let times = place.times.unwrap_or_else(|| size.cardinality());
                let mut limited = |name: &str, what: &str, cost: u64| {
                    if cost > RULE_COST_LIMIT {
                        let why = too_much(what, cost, RULE_COST_LIMIT);
                        self.errors.push(Error::forbidden(path.child(name), why));
                    }
                    self.total.add(path.child(name), cost);
                };
                if let Some(cost) = costs.rule {
                    limited("rule", "estimated rule cost", cost.saturating_mul(times));
                }
                if let Some(cost) = costs.message {
                    limited("messageExpression", "estimated messageExpression cost", cost);
                }
            }
        }
        let embedded = |schema: &Value| truth(schema, "x-kubernetes-embedded-resource");
        let inside = |limit: &str| schema[limit].as_u64().and_then(|n| Some(n.saturating_mul(place.times?)));
        let additional = &schema["additionalProperties"];
        if additional.is_object() {
            let place = Place { lost: place.lost, times: inside("maxProperties") };
            self.schema(additional, embedded(additional), &place, &path.child("additionalProperties"));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            self.schema(property, embedded(property), place, &path.child("properties").key(name));
        }
        let items = &schema["items"];
        if items.is_object() {
            let correlates = text(schema, "x-kubernetes-list-type") == "map";
            let lost = place.lost.or(if correlates { None } else { Some(path) });
            let place = Place { lost, times: inside("maxItems") };
            self.schema(items, embedded(items), &place, &path.child("items"));
        }
    }
}

/// What all the rules of a schema may cost.
#[derive(Default)]
struct Total {
    cost: u64,
    /// Those that cost most of it.
    most: Vec<(u64, Path)>,
}

impl Total {
    fn add(&mut self, path: Path, cost: u64) {
        self.cost = self.cost.saturating_add(cost);
        if cost >= SCHEMA_COST_LIMIT / 100 {
            self.most.push((cost, path));
            self.most.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.most.truncate(MOST_EXPENSIVE);
        }
    }

    fn report(self, path: &Path, errors: &mut ErrorList) {
        if self.cost <= SCHEMA_COST_LIMIT {
            return;
        }
        for (_, path) in self.most {
            let why = "contributed to estimated rule & messageExpression cost total exceeding cost limit for entire \
                       OpenAPIv3 schema";
            errors.push(Error::forbidden(path, why));
        }
        let what = "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema";
        errors.push(Error::forbidden(path.clone(), too_much(what, self.cost, SCHEMA_COST_LIMIT)));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a factor to be read by people")]
fn too_much(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        // Never a factor of 1.0.
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// What a rule may cost, and its message.
#[derive(Default)]
struct Costs {
    rule: Option<u64>,
    message: Option<u64>,
}

fn check_rule(
    written: &Value,
    ty: &Type,
    size: &Size,
    lost: Option<&Path>,
    path: &Path,
    errors: &mut ErrorList,
) -> Costs {
    let rule = Rule::deserialize(written).unwrap_or_default();
    let environment = environment(&rule, ty);
    let invalid = |name: &str, why: String| Error::invalid(path.child(name), as_go(&rule), why);
    let mut transition = false;
    match compile(&rule.rule, &environment) {
        Err(why) => {
            errors.push(invalid("rule", why.to_string()));
            return Costs::default();
        }
        Ok(program) if *program.result_type() != Type::Bool => {
            errors.push(invalid("rule", "cel expression must evaluate to a bool".into()));
            return Costs::default();
        }
        Ok(program) => transition |= program.mentions("oldSelf"),
    }
    let estimate = |expression: &str| cost::estimate(expression, &environment, size).ok();
    let mut costs = Costs { rule: estimate(&rule.rule), message: None };
    if !rule.message_expression.is_empty() {
        match compile(&rule.message_expression, &environment) {
            Err(why) => errors.push(invalid("messageExpression", format!("messageExpression {why}"))),
            Ok(program) if *program.result_type() != Type::String => {
                errors.push(invalid("messageExpression", "messageExpression must evaluate to a string".into()));
            }
            Ok(_) => costs.message = estimate(&rule.message_expression),
        }
    }
    if let Some(lost) = lost.filter(|_| transition) {
        let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}");
        errors.push(Error::invalid(path.child("rule"), rule.rule.as_str(), why));
    }
    if let Some(optional) = rule.optional_old_self.filter(|_| !transition) {
        let why = "may not be set if oldSelf is not used in rule";
        errors.push(Error::invalid(path.child("optionalOldSelf"), optional, why));
    }
    costs
}

/// A rule as Go's internal type prints it.
fn as_go(rule: &Rule) -> Value {
    json!({
        "Rule": rule.rule, "Message": rule.message, "MessageExpression": rule.message_expression,
        "Reason": rule.reason, "FieldPath": rule.field_path, "OptionalOldSelf": rule.optional_old_self,
    })
}
