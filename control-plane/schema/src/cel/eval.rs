//! The evaluator: a walk over the nodes that pays for what it does, by cel-go's prices.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::{Const, Fold, Kind, Node};
use super::parse::{WALK_LEVEL_BYTES, with_stack};
use super::value::{Key, Val, lift};
use super::{Activation, EvalError, Program, functions, signatures};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

const SELECT: u64 = 1;
const MAKE_LIST: u64 = 10;
const MAKE_MAP: u64 = 30;
const MAKE_STRUCT: u64 = 40;

/// What a program is worth, and what that has cost.
pub(super) fn evaluate<'a>(program: &'a Program, on: &Activation<'a>, limit: u64) -> (Evaluated<'a>, u64) {
    let mut evaluator = Evaluator { on, program, meter: Meter { spent: 0, limit } };
    let value = with_stack(program.depth, WALK_LEVEL_BYTES, || evaluator.node(&program.root, None));
    (value, evaluator.meter.spent)
}

/// What an evaluation has spent.
pub(super) struct Meter {
    spent: u64,
    limit: u64,
}

impl Meter {
    pub fn pay(&mut self, cost: u64) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }
}

/// The variables of folds and binds, innermost first.
struct Scope<'s, 'a> {
    name: &'s str,
    value: Val<'a>,
    outer: Option<&'s Scope<'s, 'a>>,
}

struct Evaluator<'e, 'a> {
    on: &'e Activation<'a>,
    program: &'a Program,
    meter: Meter,
}

impl<'a> Evaluator<'_, 'a> {
    fn node(&mut self, node: &'a Node, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        match &node.kind {
            Kind::Literal(literal) => Ok(constant(literal)),
            Kind::Ident(name) => self.ident(name, scope),
            Kind::Select { operand, field, test: true, .. } => self.has(operand, field, scope),
            Kind::Select { operand, field, optional, .. } => self.select(operand, field, *optional, scope),
            Kind::Call { function, args, .. } => self.call(function, args, scope),
            Kind::And(terms) => self.logic(terms, false, scope),
            Kind::Or(terms) => self.logic(terms, true, scope),
            Kind::List(items) => self.list(items, scope),
            Kind::Map(entries) => self.map(entries, scope),
            Kind::Struct(name, fields) => self.structure(name, fields, scope),
            Kind::Fold { op, range, variables, filter, body } => {
                self.fold(*op, range, variables, filter.as_deref(), body, scope)
            }
            Kind::Bind { variable, init, body } => {
                let value = self.node(init, scope)?;
                self.node(body, Some(&Scope { name: variable, value, outer: scope }))
            }
            Kind::OptMap { target, variable, body, flat } => self.opt_map(target, variable, body, *flat, scope),
        }
    }

    fn ident(&mut self, name: &'a str, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        self.meter.pay(SELECT)?;
        let mut inner = scope;
        while let Some(scope) = inner {
            if scope.name == name {
                return Ok(scope.value.clone());
            }
            inner = scope.outer;
        }
        if let Some(value) = self.on.values.get(name) {
            let ty = self.program.variables.get(name).unwrap_or(&super::Type::Dyn);
            return match ty {
                // The value that something had before, if it was there.
                super::Type::Optional(_) if value.is_null() => Ok(Val::Optional(None)),
                super::Type::Optional(inner) => lift(value, inner).map(Val::some),
                ty => lift(value, ty),
            };
        }
        if let Some(value) = self.on.bound.get(name) {
            return Ok(value.clone());
        }
        if name == "variables" && !self.on.composed.is_empty() {
            return Ok(Val::Composed);
        }
        if let ("authorizer", Some(_)) = (name, &self.on.authorizer) {
            return Ok(Val::Authorizer(Arc::default()));
        }
        match signatures::type_name(name) {
            Some(name) => Ok(Val::Type(name.into())),
            None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }

    /// `variables.name`.
    fn composed(&mut self, name: &str) -> Evaluated<'a> {
        let unknown = || EvalError::new(format!("no such key: {name}"));
        let (name, program) = self.on.composed.iter().find(|(known, _)| known == name).ok_or_else(unknown)?;
        if let Some(known) = self.on.memo.borrow().get(name.as_str()) {
            return known.clone();
        }
        let outer = std::mem::replace(&mut self.program, program);
        let value = with_stack(program.depth, WALK_LEVEL_BYTES, || self.node(&program.root, None));
        self.program = outer;
        if !matches!(value, Err(EvalError::CostLimit)) {
            self.on.memo.borrow_mut().insert(name, value.clone());
        }
        value
    }

    fn select(
        &mut self,
        operand: &'a Node,
        field: &'a str,
        optional: bool,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        if let (Kind::Ident(name), Some((_, request))) = (&operand.kind, &self.on.authorizer)
            && name == "authorizer"
            && field == "requestResource"
        {
            self.meter.pay(SELECT)?;
            return Ok(Val::Authorizer(Arc::new(request.clone())));
        }
        if let Some(name) = qualified_type(operand, field) {
            return Ok(Val::Type(name.into()));
        }
        let value = self.node(operand, scope)?;
        self.meter.pay(SELECT)?;
        match value {
            Val::Composed => self.composed(field),
            Val::Optional(None) => Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => Ok(get(&inner, field)?.map_or(Val::Optional(None), Val::some)),
            value if optional => Ok(get(&value, field)?.map_or(Val::Optional(None), Val::some)),
            value => get(&value, field)?.ok_or_else(|| EvalError::new(format!("no such key: {field}"))),
        }
    }

    fn has(&mut self, operand: &'a Node, field: &str, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let value = self.node(operand, scope)?;
        self.meter.pay(SELECT)?;
        let found = match &value {
            Val::Composed => self.on.composed.iter().any(|(known, _)| known == field),
            Val::Optional(None) => false,
            Val::Optional(Some(inner)) => get(inner, field)?.is_some(),
            value => get(value, field)?.is_some(),
        };
        Ok(Val::Bool(found))
    }

    /// `&&` (the deciding value is false) and `||` (true): one deciding term decides, whatever errors the others are.
    fn logic(&mut self, terms: &'a [Node], deciding: bool, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut error = None;
        for term in terms {
            match self.node(term, scope) {
                Ok(Val::Bool(value)) if value == deciding => return Ok(Val::Bool(deciding)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => error = error.or(Some(EvalError::no_overload())),
                Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
                Err(e) => error = error.or(Some(e)),
            }
        }
        error.map_or(Ok(Val::Bool(!deciding)), Err)
    }

    fn call(&mut self, function: &'a str, args: &'a [Node], scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        match (function, args) {
            ("_?_:_", [condition, then, otherwise]) => {
                return match self.node(condition, scope)? {
                    Val::Bool(true) => self.node(then, scope),
                    Val::Bool(false) => self.node(otherwise, scope),
                    _ => Err(EvalError::no_overload()),
                };
            }
            ("or", [first, other]) => {
                return match self.node(first, scope)? {
                    Val::Optional(None) => self.node(other, scope),
                    some @ Val::Optional(Some(_)) => Ok(some),
                    _ => Err(EvalError::no_overload()),
                };
            }
            ("orValue", [first, other]) => {
                return match self.node(first, scope)? {
                    Val::Optional(None) => self.node(other, scope),
                    Val::Optional(Some(value)) => Ok((*value).clone()),
                    _ => Err(EvalError::no_overload()),
                };
            }
            _ => {}
        }
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.node(arg, scope)?);
        }
        self.meter.pay(functions::cost(function, &values))?;
        if function == "check" {
            return self.authorize(&values);
        }
        let value = functions::call(function, &values)?;
        // What makes much of little pays for what it made.
        self.meter.pay(functions::cost_of_result(function, &value))?;
        Ok(value)
    }

    /// `authorizer...check(verb)`.
    fn authorize(&self, args: &[Val<'a>]) -> Evaluated<'a> {
        let ([Val::Authorizer(request), Val::Str(verb)], Some((authorizer, _))) = (args, &self.on.authorizer) else {
            return Err(EvalError::no_overload());
        };
        let request = super::AuthorizationRequest { verb: verb.clone().into_owned(), ..(**request).clone() };
        let decision = authorizer.authorize(&request);
        Ok(Val::Decision(decision.allowed, decision.reason.into(), decision.error.map(Into::into)))
    }

    fn list(&mut self, items: &'a [(Node, bool)], scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        self.meter.pay(MAKE_LIST)?;
        let mut out = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.node(item, scope)?, optional) {
                (Val::Optional(inner), true) => out.extend(inner.map(|v| (*v).clone())),
                (_, true) => return Err(EvalError::no_overload()),
                (value, false) => out.push(value),
            }
        }
        Ok(Val::list(out))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)], scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        self.meter.pay(MAKE_MAP)?;
        let mut out = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.node(key, scope)?.key()?;
            let value = match (self.node(value, scope)?, optional) {
                (Val::Optional(None), true) => continue,
                (Val::Optional(Some(value)), true) => (*value).clone(),
                (_, true) => return Err(EvalError::no_overload()),
                (value, false) => value,
            };
            if out.contains_key(&key) {
                return Err(EvalError::new(format!("Failed with repeated key: {key}")));
            }
            out.insert(key, value);
        }
        Ok(Val::Map(Arc::new(out)))
    }

    fn structure(
        &mut self,
        name: &'a str,
        fields: &'a [(String, Node, bool)],
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        self.meter.pay(MAKE_STRUCT)?;
        let mut out = BTreeMap::new();
        for (field, value, optional) in fields {
            let value = match (self.node(value, scope)?, optional) {
                (Val::Optional(None), true) => continue,
                (Val::Optional(Some(value)), true) => (*value).clone(),
                (value, _) => value,
            };
            out.insert(Key::Str(unescape(field)), value);
        }
        Ok(Val::Struct(name.into(), Arc::new(out)))
    }

    fn opt_map(
        &mut self,
        target: &'a Node,
        variable: &'a str,
        body: &'a Node,
        flat: bool,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        let value = match self.node(target, scope)? {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(value)) => (*value).clone(),
            _ => return Err(EvalError::no_overload()),
        };
        match self.node(body, Some(&Scope { name: variable, value, outer: scope }))? {
            value @ Val::Optional(_) if flat => Ok(value),
            _ if flat => Err(EvalError::no_overload()),
            value => Ok(value.some()),
        }
    }

    fn fold(
        &mut self,
        op: Fold,
        range: &'a Node,
        variables: &'a [String],
        filter: Option<&'a Node>,
        body: &'a Node,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Evaluated<'a> {
        let range = self.node(range, scope)?;
        let mut result = Folded::new(op);
        let keys = if range.is_list() { None } else { range.keys() };
        let count = match (&keys, range.len()) {
            (Some(keys), _) => keys.len(),
            (None, Some(count)) if range.is_list() => count,
            _ => return Err(EvalError::no_overload()),
        };
        for at in 0..count {
            // The accumulator's part in each step.
            self.meter.pay(SELECT)?;
            let (first, second) = match &keys {
                Some(keys) => {
                    let key = &keys[at];
                    let value = if variables.len() > 1 { range.get(key)?.unwrap_or(Val::Null) } else { Val::Null };
                    (key.value(), value)
                }
                None => {
                    let item = range.at(at).unwrap_or(Ok(Val::Null))?;
                    if variables.len() > 1 { (Val::Int(at as i64), item) } else { (item, Val::Null) }
                }
            };
            let item = first.clone();
            let outer = Scope { name: &variables[0], value: first, outer: scope };
            let inner = variables.get(1).map(|name| Scope { name, value: second, outer: Some(&outer) });
            let scope = inner.as_ref().unwrap_or(&outer);
            if let Some(filter) = filter {
                match self.node(filter, Some(scope))? {
                    Val::Bool(true) => {}
                    Val::Bool(false) => continue,
                    _ => return Err(EvalError::no_overload()),
                }
            }
            let value = self.node(body, Some(scope));
            if matches!(value, Err(EvalError::CostLimit)) {
                return value;
            }
            self.meter.pay(result.step_cost())?;
            if result.step(item, value)? {
                break;
            }
        }
        result.finish()
    }
}

/// A field of an object or an entry of a map.
fn get<'a>(value: &Val<'a>, field: &str) -> Result<Option<Val<'a>>, EvalError> {
    match value {
        Val::Map(_) | Val::Domains(_) | Val::Struct(..) => value.get(&Key::Str(field.to_owned())),
        Val::Json(serde_json::Value::Object(map), ty) => {
            let Some((json, ty)) = super::value::json_member(ty, field) else { return Ok(None) };
            map.get(json).map(|value| lift(value, ty)).transpose()
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// `google.protobuf.Timestamp` and the like, which are types.
fn qualified_type(operand: &Node, field: &str) -> Option<&'static str> {
    let path = match &operand.kind {
        Kind::Ident(name) => format!("{name}.{field}"),
        Kind::Select { operand, field: middle, test: false, optional: false } => match &operand.kind {
            Kind::Ident(name) => format!("{name}.{middle}.{field}"),
            _ => return None,
        },
        _ => return None,
    };
    signatures::type_name(&path)
}

/// The JSON name of an escaped field name.
fn unescape(field: &str) -> String {
    if let Some(word) = field.strip_prefix("__").and_then(|f| f.strip_suffix("__")).filter(|w| !w.contains("__")) {
        return word.to_owned();
    }
    let parts = [("__dot__", "."), ("__dash__", "-"), ("__slash__", "/"), ("__underscores__", "__")];
    parts.iter().fold(field.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn constant<'a>(literal: &'a Const) -> Val<'a> {
    match literal {
        Const::Null => Val::Null,
        Const::Bool(b) => Val::Bool(*b),
        Const::Int(i) => Val::Int(*i),
        Const::Uint(u) => Val::Uint(*u),
        Const::Double(f) => Val::Double(*f),
        Const::String(s) => Val::Str(Cow::Borrowed(s)),
        Const::Bytes(b) => Val::Bytes(b.as_slice().into()),
    }
}

/// What a fold has come to.
enum Folded<'a> {
    /// `all` (deciding: false) and `exists` (true), and the first error on the way.
    Logic {
        deciding: bool,
        decided: bool,
        error: Option<EvalError>,
    },
    One(usize),
    List(Vec<Val<'a>>),
    Map(BTreeMap<Key, Val<'a>>),
    Entries(BTreeMap<Key, Val<'a>>),
    Sort(Vec<(Val<'a>, Val<'a>)>),
}

impl<'a> Folded<'a> {
    fn new(op: Fold) -> Self {
        match op {
            Fold::All => Self::Logic { deciding: false, decided: false, error: None },
            Fold::Exists => Self::Logic { deciding: true, decided: false, error: None },
            Fold::ExistsOne => Self::One(0),
            Fold::List => Self::List(Vec::new()),
            Fold::Map => Self::Map(BTreeMap::new()),
            Fold::MapEntry => Self::Entries(BTreeMap::new()),
            Fold::SortBy => Self::Sort(Vec::new()),
        }
    }

    fn step_cost(&self) -> u64 {
        match self {
            Self::Logic { .. } | Self::One(_) => SELECT,
            Self::List(_) | Self::Sort(_) => MAKE_LIST + SELECT,
            Self::Map(_) | Self::Entries(_) => MAKE_MAP + SELECT,
        }
    }

    /// Takes one value in; whether that decides it.
    fn step(&mut self, item: Val<'a>, value: Evaluated<'a>) -> Result<bool, EvalError> {
        match self {
            Self::Logic { deciding, decided, error } => match value {
                Ok(Val::Bool(value)) => *decided = value == *deciding,
                Ok(_) => *error = error.take().or(Some(EvalError::no_overload())),
                Err(e) => *error = error.take().or(Some(e)),
            },
            Self::One(count) => match value? {
                Val::Bool(value) => *count += usize::from(value),
                _ => return Err(EvalError::no_overload()),
            },
            Self::List(items) => items.push(value?),
            Self::Map(entries) => {
                entries.insert(item.key()?, value?);
            }
            Self::Entries(entries) => {
                let value = value?;
                for key in value.keys().ok_or_else(EvalError::no_overload)? {
                    if entries.contains_key(&key) {
                        return Err(EvalError::new(format!("insert failed: key {key} already exists")));
                    }
                    let entry = value.get(&key)?.unwrap_or(Val::Null);
                    entries.insert(key, entry);
                }
            }
            Self::Sort(items) => items.push((value?, item)),
        }
        Ok(matches!(self, Self::Logic { decided: true, .. }))
    }

    fn finish(self) -> Evaluated<'a> {
        match self {
            Self::Logic { deciding, decided: true, .. } => Ok(Val::Bool(deciding)),
            Self::Logic { error: Some(error), .. } => Err(error),
            Self::Logic { deciding, .. } => Ok(Val::Bool(!deciding)),
            Self::One(count) => Ok(Val::Bool(count == 1)),
            Self::List(items) => Ok(Val::list(items)),
            Self::Map(entries) | Self::Entries(entries) => Ok(Val::Map(Arc::new(entries))),
            Self::Sort(mut items) => {
                functions::lists::sort_pairs(&mut items)?;
                Ok(Val::list(items.into_iter().map(|(_, item)| item).collect()))
            }
        }
    }
}
