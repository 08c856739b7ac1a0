//! The checker: what is wrong with an expression whatever its values are, in cel-go's words.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::ast::{Const, Fold, Kind, Node};
use super::parse::{Issue, Source};
use super::types::Type;
use super::value::Val;
use super::{Environment, functions, signatures};

/// The type of an expression.
pub(super) fn check(root: &Node, environment: &Environment, source: &Source) -> Result<Type, Vec<Issue>> {
    let mut checker = Checker { environment, source, issues: Vec::new(), mixed: false, types: None };
    let ty = checker.node(root, None);
    if checker.issues.is_empty() { Ok(ty) } else { Err(checker.issues) }
}

/// The types of all its parts, by their ids.
pub(super) fn types(root: &Node, environment: &Environment, source: &Source) -> Result<HashMap<u64, Type>, Vec<Issue>> {
    let types = Some(HashMap::new());
    let mut checker = Checker { environment, source, issues: Vec::new(), mixed: false, types };
    checker.node(root, None);
    if checker.issues.is_empty() { Ok(checker.types.unwrap_or_default()) } else { Err(checker.issues) }
}

struct Scope<'s> {
    name: &'s str,
    ty: Type,
    outer: Option<&'s Scope<'s>>,
}

struct Checker<'c> {
    environment: &'c Environment,
    source: &'c Source,
    issues: Vec<Issue>,
    /// Within the arguments of `format`, which takes lists of mixed types.
    mixed: bool,
    /// Of the parts that have been seen, where somebody wants to know.
    types: Option<HashMap<u64, Type>>,
}

/// What the type parameters of an overload have turned out to be.
type Bindings = BTreeMap<char, Type>;

/// Whether an argument fits a parameter. What is known at run time only fits all.
fn fits(parameter: &Type, argument: &Type, bindings: &mut Bindings) -> bool {
    match (parameter, argument) {
        (Type::Param(name), argument) => match bindings.get(name).cloned() {
            None | Some(Type::Dyn) => {
                bindings.insert(*name, argument.clone());
                true
            }
            Some(bound) => {
                if let Some(joined) = join(&bound, argument) {
                    bindings.insert(*name, joined);
                    true
                } else {
                    false
                }
            }
        },
        (Type::Dyn, _) | (_, Type::Dyn) => true,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => fits(a, b, bindings),
        (Type::Map(ak, av), Type::Map(bk, bv)) => fits(ak, bk, bindings) && fits(av, bv, bindings),
        // An object may be looked into as a map of what is known at run time only.
        (a, b) => join(a, b).is_some(),
    }
}

/// The type that both are.
fn join(a: &Type, b: &Type) -> Option<Type> {
    match (a, b) {
        (Type::Dyn, other) | (other, Type::Dyn) => Some(other.clone()),
        (Type::List(a), Type::List(b)) => Some(Type::List(Arc::new(join(a, b)?))),
        (Type::Optional(a), Type::Optional(b)) => Some(Type::Optional(Arc::new(join(a, b)?))),
        (Type::Map(ak, av), Type::Map(bk, bv)) => Some(Type::Map(Arc::new(join(ak, bk)?), Arc::new(join(av, bv)?))),
        (Type::Null, other) | (other, Type::Null) if is_nullable(other) => Some(other.clone()),
        // Two shapes of one type, as objects that an expression makes are.
        (Type::Object(x), Type::Object(y)) if x.name == y.name => Some(a.clone()),
        (a, b) => (a == b).then(|| a.clone()),
    }
}

fn is_nullable(ty: &Type) -> bool {
    matches!(ty, Type::Null | Type::Object(_) | Type::Opaque(_) | Type::Duration | Type::Timestamp | Type::Optional(_))
}

fn resolve(ty: &Type, bindings: &Bindings) -> Type {
    match ty {
        Type::Param(name) => bindings.get(name).cloned().unwrap_or(Type::Dyn),
        Type::List(item) => Type::list(resolve(item, bindings)),
        Type::Optional(inner) => Type::optional(resolve(inner, bindings)),
        Type::Map(key, value) => Type::Map(Arc::new(resolve(key, bindings)), Arc::new(resolve(value, bindings))),
        other => other.clone(),
    }
}

impl Checker<'_> {
    fn error(&mut self, node: &Node, message: impl Into<String>) -> Type {
        self.issues.push(self.source.issue(node.id, message));
        Type::Dyn
    }

    fn node(&mut self, node: &Node, scope: Option<&Scope<'_>>) -> Type {
        let ty = self.inferred(node, scope);
        if let Some(types) = &mut self.types {
            types.insert(node.id, ty.clone());
        }
        ty
    }

    fn inferred(&mut self, node: &Node, scope: Option<&Scope<'_>>) -> Type {
        match &node.kind {
            Kind::Literal(literal) => literal_type(literal),
            Kind::Ident(name) => self.ident(node, name, scope),
            Kind::Select { operand, field, test, optional } => {
                self.select(node, operand, field, *test, *optional, scope)
            }
            Kind::Call { function, member, args } => {
                let outer = self.mixed;
                self.mixed |= function == "format";
                let types: Vec<Type> = args.iter().map(|arg| self.node(arg, scope)).collect();
                self.mixed = outer;
                self.literal_arguments(function, args);
                self.call(node, function, *member, &types)
            }
            Kind::And(terms) | Kind::Or(terms) => {
                let function = if matches!(node.kind, Kind::And(_)) { "_&&_" } else { "_||_" };
                let types: Vec<Type> = terms.iter().map(|term| self.node(term, scope)).collect();
                if types.iter().any(|ty| !matches!(ty, Type::Bool | Type::Dyn)) {
                    self.no_overload(node, function, false, &types);
                }
                Type::Bool
            }
            Kind::List(items) => self.list(items, scope),
            Kind::Map(entries) => self.map(entries, scope),
            Kind::Struct(name, fields) => {
                for (_, value, _) in fields {
                    self.node(value, scope);
                }
                let known = self.environment.structs.iter().any(|s| name == s || name.starts_with(&format!("{s}.")));
                if !known {
                    return self.error(node, format!("undeclared reference to '{name}' (in container '')"));
                }
                Type::object(name.clone(), [])
            }
            Kind::Fold { op, range, variables, filter, body } => {
                self.fold(*op, range, variables, filter.as_deref(), body, scope)
            }
            Kind::Bind { variable, init, body } => {
                let ty = self.node(init, scope);
                self.node(body, Some(&Scope { name: variable, ty, outer: scope }))
            }
            Kind::OptMap { target, variable, body, flat } => {
                let ty = match self.node(target, scope) {
                    Type::Optional(inner) => (*inner).clone(),
                    Type::Dyn => Type::Dyn,
                    other => {
                        let function = if *flat { "optFlatMap" } else { "optMap" };
                        return self.no_overload(node, function, true, &[other]);
                    }
                };
                let result = self.node(body, Some(&Scope { name: variable, ty, outer: scope }));
                if *flat { result } else { Type::optional(result) }
            }
        }
    }

    fn ident(&mut self, node: &Node, name: &str, scope: Option<&Scope<'_>>) -> Type {
        let mut inner = scope;
        while let Some(scope) = inner {
            if scope.name == name {
                return scope.ty.clone();
            }
            inner = scope.outer;
        }
        if let Some(ty) = self.environment.variables.get(name) {
            return ty.clone();
        }
        match signatures::type_name(name) {
            Some(_) => Type::Type,
            None => self.error(node, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn select(
        &mut self,
        node: &Node,
        operand: &Node,
        field: &str,
        test: bool,
        optional: bool,
        scope: Option<&Scope<'_>>,
    ) -> Type {
        if let Some(path) = path_of(operand) {
            let path = format!("{path}.{field}");
            if let Some(ty) = self.environment.variables.get(&path) {
                return ty.clone();
            }
            if signatures::type_name(&path).is_some() {
                return Type::Type;
            }
        }
        let ty = self.node(operand, scope);
        let (ty, wrap) = match &ty {
            Type::Optional(inner) => ((**inner).clone(), true),
            _ => (ty, optional),
        };
        let found = match &ty {
            Type::Dyn => Type::Dyn,
            Type::Map(_, value) => (**value).clone(),
            // What an expression makes has the fields it was made with, which is not kept.
            Type::Object(object) if object.fields.is_empty() && object.name.starts_with("Object") => Type::Dyn,
            Type::Object(object) => match object.fields.get(field) {
                Some(known) => known.ty.clone(),
                None => return self.error(node, format!("undefined field '{field}'")),
            },
            other => return self.error(node, format!("type '{other}' does not support field selection")),
        };
        match (test, wrap) {
            (true, _) => Type::Bool,
            (false, true) => Type::optional(found),
            (false, false) => found,
        }
    }

    /// Literals that a function will not take are errors at once.
    fn literal_arguments(&mut self, function: &str, args: &[Node]) {
        let literal = |at: usize| match args.get(at).map(|arg| &arg.kind) {
            Some(Kind::Literal(Const::String(text))) => Some(text),
            _ => None,
        };
        let (at, name) = match function {
            "duration" | "timestamp" => (0, function),
            "matches" => (1, "matches"),
            _ => return,
        };
        let Some(text) = literal(at) else { return };
        let values = match function {
            "matches" => vec![Val::string(""), Val::string(text)],
            _ => vec![Val::string(text)],
        };
        if functions::call(function, &values).is_err() {
            self.error(&args[at], format!("invalid {name} argument"));
        }
    }

    fn call(&mut self, node: &Node, function: &str, member: bool, types: &[Type]) -> Type {
        let Some(overloads) = signatures::overloads(function) else {
            return self.error(node, format!("undeclared reference to '{function}' (in container '')"));
        };
        if matches!(function, "math.greatest" | "math.least") {
            return match types {
                [Type::List(item)] => (**item).clone(),
                [first, ..] if types.iter().all(|ty| ty == first) => first.clone(),
                _ => Type::Dyn,
            };
        }
        let mut results: Vec<Type> = Vec::new();
        for overload in overloads.iter().filter(|o| o.member == member && o.args.len() == types.len()) {
            let mut bindings = Bindings::new();
            if overload.args.iter().zip(types).all(|(parameter, ty)| fits(parameter, ty, &mut bindings)) {
                let result = resolve(&overload.result, &bindings);
                if !results.contains(&result) {
                    results.push(result);
                }
            }
        }
        match results.len() {
            0 => self.no_overload(node, function, member, types),
            1 => results.swap_remove(0),
            _ => Type::Dyn,
        }
    }

    fn no_overload(&mut self, node: &Node, function: &str, member: bool, types: &[Type]) -> Type {
        let print = |types: &[Type]| types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
        let applied = match types.split_first() {
            Some((target, args)) if member => format!("{target}.({})", print(args)),
            _ => format!("({})", print(types)),
        };
        self.error(node, format!("found no matching overload for '{function}' applied to '{applied}'"))
    }

    fn list(&mut self, items: &[(Node, bool)], scope: Option<&Scope<'_>>) -> Type {
        let mut item_type = None;
        for (item, optional) in items {
            let ty = match (self.node(item, scope), optional) {
                (Type::Optional(inner), true) => (*inner).clone(),
                (other, _) => other,
            };
            item_type = Some(self.same(item, item_type, ty));
        }
        Type::list(item_type.unwrap_or(Type::Dyn))
    }

    fn map(&mut self, entries: &[(Node, Node, bool)], scope: Option<&Scope<'_>>) -> Type {
        let (mut key_type, mut value_type) = (None, None);
        for (key, value, optional) in entries {
            let key_ty = self.node(key, scope);
            let value_ty = match (self.node(value, scope), optional) {
                (Type::Optional(inner), true) => (*inner).clone(),
                (other, _) => other,
            };
            key_type = Some(self.same(key, key_type, key_ty));
            value_type = Some(self.same(value, value_type, value_ty));
        }
        Type::Map(Arc::new(key_type.unwrap_or(Type::Dyn)), Arc::new(value_type.unwrap_or(Type::Dyn)))
    }

    /// Aggregates that are written out hold one type.
    fn same(&mut self, node: &Node, known: Option<Type>, ty: Type) -> Type {
        let Some(known) = known else { return ty };
        match join(&known, &ty) {
            Some(joined) => joined,
            None if self.mixed => Type::Dyn,
            None => self.error(node, format!("expected type '{known}' but found '{ty}'")),
        }
    }

    fn fold(
        &mut self,
        op: Fold,
        range: &Node,
        variables: &[String],
        filter: Option<&Node>,
        body: &Node,
        scope: Option<&Scope<'_>>,
    ) -> Type {
        let range_type = self.node(range, scope);
        let (first, second) = match &range_type {
            Type::List(item) if variables.len() > 1 => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Dyn),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.error(range, message);
            }
        };
        let item = first.clone();
        let outer = Scope { name: &variables[0], ty: first.clone(), outer: scope };
        let inner = variables.get(1).map(|name| Scope { name, ty: second, outer: Some(&outer) });
        let scope = Some(inner.as_ref().unwrap_or(&outer));
        if let Some(filter) = filter {
            self.predicate(filter, scope);
        }
        match op {
            Fold::All | Fold::Exists | Fold::ExistsOne => {
                self.predicate(body, scope);
                Type::Bool
            }
            Fold::List => Type::list(self.node(body, scope)),
            Fold::Map => Type::Map(Arc::new(first), Arc::new(self.node(body, scope))),
            Fold::MapEntry => self.node(body, scope),
            Fold::SortBy => {
                self.node(body, scope);
                Type::list(item)
            }
        }
    }

    fn predicate(&mut self, node: &Node, scope: Option<&Scope<'_>>) {
        let ty = self.node(node, scope);
        if !matches!(ty, Type::Bool | Type::Dyn) {
            self.error(node, format!("expected type 'bool' but found '{ty}'"));
        }
    }
}

/// `a.b` as text.
fn path_of(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select { operand, field, test: false, optional: false } => Some(format!("{}.{field}", path_of(operand)?)),
        _ => None,
    }
}

fn literal_type(literal: &Const) -> Type {
    match literal {
        Const::Null => Type::Null,
        Const::Bool(_) => Type::Bool,
        Const::Int(_) => Type::Int,
        Const::Uint(_) => Type::Uint,
        Const::Double(_) => Type::Double,
        Const::String(_) => Type::String,
        Const::Bytes(_) => Type::Bytes,
    }
}
