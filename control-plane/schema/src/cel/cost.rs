//! What an expression may cost at most, before any value is seen: cel-go's `checker/cost.go` with the prices of
//! apiserver's `cel/library/cost.go`.
//!
//! What has no bound that is known here (the pieces of a split string) counts as one; upstream takes it for endless, and
//! refuses a little more.

use std::collections::HashMap;

use super::ast::{Const, Fold, Kind, Node};
use super::size::Size;
use super::types::Type;
use super::{CompileError, Environment, check, parse};

/// Looking at a character.
const TRAVERSAL: f64 = 0.1;
/// A character of a regular expression.
const REGEX: f64 = 0.25;
const MAKE_LIST: u64 = 10;
const MAKE_MAP: u64 = 30;
const MAKE_STRUCT: u64 = 40;
/// Two are within the limit.
const AUTHORIZATION: u64 = 350_000;

/// What an expression may cost whose `self` (and `oldSelf`), or whose `device`, is of a size.
///
/// # Errors
///
/// It is no expression.
pub fn estimate(source: &str, environment: &Environment, size: &Size) -> Result<u64, CompileError> {
    let failed = |issues: Vec<parse::Issue>| CompileError { issues: parse::render(source, &issues) };
    let (root, text, depth) = parse::parse(source).map_err(failed)?;
    parse::with_stack(depth, parse::WALK_LEVEL_BYTES, || {
        let types = check::types(&root, environment, &text)?;
        Ok(Coster { types, size }.node(&root, None).cost)
    })
    .map_err(failed)
}

/// Of a part of an expression.
#[derive(Clone, Copy)]
struct Estimate<'s> {
    cost: u64,
    /// How large its value may be.
    elements: u64,
    /// What is known of what is inside.
    size: Option<&'s Size>,
}

impl<'s> Estimate<'s> {
    fn plain(cost: u64) -> Self {
        Self { cost, elements: 1, size: None }
    }

    fn sized(cost: u64, size: Option<&'s Size>) -> Self {
        Self { cost, elements: size.map_or(1, |size| size.elements), size }
    }

    fn of_elements(cost: u64, elements: u64) -> Self {
        Self { cost, elements, size: None }
    }
}

struct Scope<'v, 's> {
    name: &'v str,
    value: Estimate<'s>,
    outer: Option<&'v Scope<'v, 's>>,
}

struct Coster<'s> {
    types: HashMap<u64, Type>,
    size: &'s Size,
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate; too much is the largest number"
)]
fn times(elements: u64, price: f64) -> u64 {
    (elements as f64 * price).ceil() as u64
}

fn sum(estimates: &[Estimate<'_>]) -> u64 {
    estimates.iter().fold(0, |sum, estimate| sum.saturating_add(estimate.cost))
}

impl<'s> Coster<'s> {
    fn is_text(&self, node: &Node) -> bool {
        matches!(self.types.get(&node.id), Some(Type::String | Type::Bytes))
    }

    fn is_list(&self, node: &Node) -> bool {
        matches!(self.types.get(&node.id), Some(Type::List(_)))
    }

    fn all<'n>(&self, nodes: impl Iterator<Item = &'n Node>, scope: Option<&Scope<'_, 's>>) -> Vec<Estimate<'s>> {
        nodes.map(|node| self.node(node, scope)).collect()
    }

    fn node(&self, node: &Node, scope: Option<&Scope<'_, 's>>) -> Estimate<'s> {
        match &node.kind {
            Kind::Literal(literal) => Estimate::of_elements(
                0,
                match literal {
                    Const::String(text) => text.len() as u64,
                    Const::Bytes(bytes) => bytes.len() as u64,
                    _ => 1,
                },
            ),
            Kind::Ident(name) => self.ident(name, scope),
            // Looking whether a field is there is free.
            Kind::Select { operand, test: true, .. } => Estimate::plain(self.node(operand, scope).cost),
            Kind::Select { operand, field, .. } => {
                let inner = self.node(operand, scope);
                let paid = matches!(self.types.get(&operand.id), Some(Type::Map(..) | Type::Object(_)));
                let cost = inner.cost.saturating_add(u64::from(paid));
                Estimate::sized(cost, inner.size.and_then(|size| size.field(field)))
            }
            Kind::Call { function, args, .. } => self.call(function, args, scope),
            Kind::And(terms) | Kind::Or(terms) => Estimate::plain(sum(&self.all(terms.iter(), scope))),
            Kind::List(items) => {
                let cost = sum(&self.all(items.iter().map(|(item, _)| item), scope)).saturating_add(MAKE_LIST);
                Estimate::of_elements(cost, items.len() as u64)
            }
            Kind::Map(entries) => {
                let parts = self.all(entries.iter().flat_map(|(key, value, _)| [key, value]), scope);
                Estimate::of_elements(sum(&parts).saturating_add(MAKE_MAP), entries.len() as u64)
            }
            Kind::Struct(_, fields) => {
                let parts = self.all(fields.iter().map(|(_, value, _)| value), scope);
                Estimate::plain(sum(&parts).saturating_add(MAKE_STRUCT))
            }
            Kind::Fold { op, range, variables, filter, body } => {
                self.fold(*op, range, variables, filter.as_deref(), body, scope)
            }
            Kind::Bind { variable, init, body } => self.bound(variable, init, body, MAKE_LIST, scope),
            Kind::OptMap { target, variable, body, .. } => self.bound(variable, target, body, MAKE_LIST, scope),
        }
    }

    fn ident(&self, name: &str, scope: Option<&Scope<'_, 's>>) -> Estimate<'s> {
        let mut inner = scope;
        while let Some(scope) = inner {
            if scope.name == name {
                return Estimate { cost: 1, ..scope.value };
            }
            inner = scope.outer;
        }
        Estimate::sized(1, matches!(name, "self" | "oldSelf" | "device").then_some(self.size))
    }

    fn bound(
        &self,
        variable: &str,
        init: &Node,
        body: &Node,
        price: u64,
        scope: Option<&Scope<'_, 's>>,
    ) -> Estimate<'s> {
        let value = self.node(init, scope);
        let made = self.node(body, Some(&Scope { name: variable, value, outer: scope }));
        Estimate { cost: made.cost.saturating_add(value.cost).saturating_add(price), ..made }
    }

    fn call(&self, function: &str, args: &[Node], scope: Option<&Scope<'_, 's>>) -> Estimate<'s> {
        let parts = self.all(args.iter(), scope);
        if let ("_?_:_", [condition, then, otherwise]) = (function, parts.as_slice()) {
            let cost = condition.cost.saturating_add(then.cost.max(otherwise.cost));
            let larger = if then.elements < otherwise.elements { otherwise } else { then };
            return Estimate { cost, ..*larger };
        }
        let elements = |at: usize| parts.get(at).map_or(1, |part| part.elements);
        let paid = |price: u64| sum(&parts).saturating_add(price);
        let text = args.first().is_some_and(|arg| self.is_text(arg));
        let first = parts.first().and_then(|part| part.size);
        match function {
            "_[_]" | "_[?_]" => Estimate::sized(paid(1), first.and_then(Size::item)),
            "_?._" | "orValue" | "or" | "value" | "dyn" => {
                Estimate { cost: paid(1), elements: elements(0), size: first }
            }
            "_+_" if text => {
                let both = elements(0).saturating_add(elements(1));
                Estimate::of_elements(paid(times(both, TRAVERSAL)), both)
            }
            "_+_" if args.first().is_some_and(|arg| self.is_list(arg)) => {
                Estimate { cost: paid(1), elements: elements(0).saturating_add(elements(1)), size: first }
            }
            "url"
            | "lowerAscii"
            | "upperAscii"
            | "trim"
            | "substring"
            | "jsonpatch.escapeKey"
            | "find"
            | "replace"
            | "split"
            | "findAll"
            | "reverse"
            | "strings.quote"
            | "bytes"
            | "string" => Estimate::of_elements(paid(self.price(function, args, &parts)), elements(0)),
            _ => Estimate::plain(paid(self.price(function, args, &parts))),
        }
    }

    /// What a function takes beyond its arguments.
    fn price(&self, function: &str, args: &[Node], parts: &[Estimate<'_>]) -> u64 {
        let elements = |at: usize| parts.get(at).map_or(1, |part| part.elements);
        let traversed = times(elements(0), TRAVERSAL);
        let text = args.first().is_some_and(|arg| self.is_text(arg));
        let regex = || {
            let over = times(elements(0).saturating_add(1), TRAVERSAL);
            over.saturating_mul(times(elements(1), REGEX))
        };
        match function {
            "_==_" | "_!=_" => times(elements(0).min(elements(1)), TRAVERSAL),
            "_<_" | "_<=_" | "_>_" | "_>=_" if text => times(elements(0).min(elements(1)), TRAVERSAL),
            "@in" if args.get(1).is_some_and(|arg| self.is_list(arg)) => elements(1),
            "contains" => traversed.saturating_mul(times(elements(1), TRAVERSAL)),
            "startsWith" | "endsWith" => times(elements(1), TRAVERSAL),
            "matches" | "find" | "findAll" => regex(),
            "check" => AUTHORIZATION,
            "indexOf" | "lastIndexOf" if text => traversed,
            "isSorted" | "sum" | "min" | "max" | "indexOf" | "lastIndexOf" => {
                let item = parts.first().and_then(|part| part.size).and_then(Size::item);
                let each = 1 + times(item.map_or(0, |item| item.elements), TRAVERSAL);
                elements(0).saturating_mul(each)
            }
            "replace" | "split" => traversed.saturating_mul(2),
            "join" => {
                let item = parts.first().and_then(|part| part.size).and_then(Size::item);
                let piece =
                    item.map_or(1, |item| item.elements).saturating_add(if parts.len() > 1 { elements(1) } else { 0 });
                times(elements(0).saturating_mul(piece), TRAVERSAL)
            }
            "sets.contains" | "sets.intersects" => elements(0).saturating_mul(elements(1)).max(1),
            "sets.equivalent" => elements(0).saturating_mul(elements(1)).saturating_mul(2).max(1),
            "url"
            | "isURL"
            | "lowerAscii"
            | "upperAscii"
            | "trim"
            | "substring"
            | "reverse"
            | "strings.quote"
            | "jsonpatch.escapeKey"
            | "quantity"
            | "isQuantity"
            | "ip"
            | "isIP"
            | "ip.isCanonical"
            | "cidr"
            | "isCIDR"
            | "semver"
            | "isSemver" => traversed.max(1),
            "string" | "bytes" if text => traversed.max(1),
            "validate" => times(elements(1), TRAVERSAL).max(1),
            _ => 1,
        }
    }

    fn fold(
        &self,
        op: Fold,
        range: &Node,
        variables: &[String],
        filter: Option<&Node>,
        body: &Node,
        scope: Option<&Scope<'_, 's>>,
    ) -> Estimate<'s> {
        let over = self.node(range, scope);
        let item = Estimate::sized(1, over.size.and_then(Size::item));
        let (one, two) = (variables.len() == 1, self.is_list(range));
        // The keys of a map are counted as nothing, an index as one.
        let first = if one && two { item } else { Estimate::of_elements(1, u64::from(two)) };
        let outer = Scope { name: &variables[0], value: first, outer: scope };
        let inner = variables.get(1).map(|name| Scope { name, value: item, outer: Some(&outer) });
        let scope = Some(inner.as_ref().unwrap_or(&outer));
        let each = self.node(body, scope).cost;
        let filter = filter.map_or(0, |filter| self.node(filter, scope).cost);
        // What the macro makes of it: its beginning, its end, and what is around the body each time.
        let (begin, end, around) = match op {
            Fold::All => (0, 1, 3),
            Fold::Exists => (0, 1, 4),
            Fold::ExistsOne => (0, 2, 2),
            Fold::List | Fold::SortBy => (MAKE_LIST, 1, 12),
            Fold::Map | Fold::MapEntry => (MAKE_MAP, 1, 3),
        };
        let step = each.saturating_add(filter).saturating_add(around);
        let cost = over.elements.saturating_mul(step).saturating_add(over.cost).saturating_add(begin + end);
        match op {
            Fold::All | Fold::Exists | Fold::ExistsOne => Estimate::plain(cost),
            _ => Estimate::of_elements(cost, over.elements),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cost(schema: &Value, rule: &str) -> u64 {
        let ty = Type::from_schema(schema, false).expect("a type");
        let size = Size::of(schema, false).expect("a size");
        let environment = Environment::new().variable("self", ty.clone()).variable("oldSelf", ty);
        estimate(rule, &environment, &size).expect("an expression")
    }

    /// Cases of upstream's `TestCostEstimation`.
    #[test]
    fn costs_are_upstreams() {
        let list = |item: Value| json!({"type": "array", "items": item});
        let number = json!({"type": "number"});
        assert_eq!(cost(&list(number.clone()), "self.all(x, true)"), 4_718_591);
        assert_eq!(cost(&json!({"type": "array", "maxItems": 10, "items": number}), "self.all(x, true)"), 32);
        assert_eq!(cost(&list(json!({"type": "string"})), "self.all(x, true)"), 3_145_727);
        assert_eq!(cost(&list(json!({"type": "boolean"})), "self.all(x, true)"), 1_887_437);
        let map = json!({"type": "object", "additionalProperties": {"type": "number"}});
        assert_eq!(cost(&map, "self.all(x, true)"), 1_348_169);
        assert_eq!(cost(&json!({"type": "string"}), "self.contains('test')"), 314_574);
        assert_eq!(cost(&json!({"type": "string", "maxLength": 10}), "self.contains('test')"), 5);
        assert_eq!(cost(&json!({"type": "string"}), "self.startsWith('test')"), 2);
        assert_eq!(cost(&json!({"type": "string"}), "self.matches('x')"), 314_574);
    }

    #[test]
    fn everything_has_a_cost() {
        let schema = json!({"type": "object", "properties": {
            "s": {"type": "string"}, "n": {"type": "integer"}, "l": {"type": "array", "items": {"type": "string"}},
            "ll": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
            "o": {"type": "object", "properties": {"x": {"type": "string", "maxLength": 3}}}}});
        assert!(cost(&schema, "self.ll.all(x, x.all(y, y == 'z'))") > 1_000_000_000_000);
        assert!(cost(&schema, "self.l.all(x, self.l.exists(y, x == y))") > 1_000_000_000_000);
        assert!(cost(&schema, "self.o == oldSelf.o && self.n == oldSelf.n && has(self.s)") < 20);
        assert!(
            cost(&schema, "self.l.map(x, x + 'a').filter(x, x != '').size() > 3 ? true : self.n in [1, 2]")
                > 10_000_000
        );
        assert!(cost(&schema, "cel.bind(x, self.o.x, x + x == 'aa') && [1, 2].all(x, x > self.n)") < 100);
    }
}
