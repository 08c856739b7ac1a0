//! CEL, the Common Expression Language, as Kubernetes has it: in the rules of CustomResourceDefinitions, in match
//! conditions, admission policies and authentication configurations.
//!
//! [`compile`] checks an expression against an [`Environment`] (which variables there are, and of what type) with
//! cel-go's words for what is wrong. A [`Program`] is evaluated on an [`Activation`] (the variables' values, JSON that is
//! read in place) within a [`Budget`], counted as cel-go counts cost. Nothing here panics, and nothing is unbounded:
//! expressions are bounded in size and depth, evaluation by its cost.
//!
//! - `parse`: from text to `ast`, by the grammar of the `cel` crate;
//! - `types`, `signatures`, `check`: what is an error before any value is seen;
//! - `size`, `cost`: what an expression may cost, before any value is seen;
//! - `value`, `eval`: what an expression is worth, and what that has cost;
//! - `functions`: the standard library, cel-go's extensions and Kubernetes' libraries.

pub mod admission;
mod ast;
mod check;
pub mod cost;
pub mod device;
mod eval;
mod functions;
mod parse;
mod signatures;
mod size;
mod types;
mod value;

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value;

use ast::{Kind, Node};

pub use size::Size;
pub use types::{Field, Object, Type, escape};
pub use value::{Key, Val};

/// What an expression may spend by itself.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all expressions of a request may spend together: the rules of an object, the expressions of a policy.
pub const REQUEST_BUDGET: u64 = 10_000_000;
/// What the match conditions of a webhook or policy may spend together.
pub const MATCH_CONDITIONS_BUDGET: u64 = REQUEST_BUDGET / 4;

/// Which variables an expression sees, and of what type.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, Type>,
    structs: Vec<&'static str>,
}

impl Environment {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// One variable more.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, ty: Type) -> Self {
        self.variables.insert(name.into(), ty);
        self
    }

    /// The variable `authorizer`, with which expressions ask what a user may do.
    #[must_use]
    pub fn authorizer(self) -> Self {
        self.variable("authorizer", Type::Opaque(signatures::AUTHORIZER))
            .variable("authorizer.requestResource", Type::Opaque(signatures::RESOURCE_CHECK))
    }

    /// Expressions may make objects of a type: `Object{...}` (and of the types of its fields, `Object.spec{...}`).
    #[must_use]
    pub fn structure(mut self, name: &'static str) -> Self {
        self.structs.push(name);
        self
    }
}

/// Why an expression does not compile. The text is cel-go's, with the place in the expression marked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compilation failed: {issues}")]
pub struct CompileError {
    /// The issues, without the leading words.
    pub issues: String,
}

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression did more than it may. `&&` and `||` do not hide it.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// Anything else: `no such key: x`.
    #[error("{0}")]
    Other(String),
}

impl EvalError {
    fn new(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    fn no_overload() -> Self {
        Self::new("no such overload")
    }
}

/// What may be spent.
#[derive(Clone, Debug)]
pub struct Budget {
    remaining: u64,
    per_call: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(REQUEST_BUDGET)
    }
}

impl Budget {
    /// `total` for all evaluations, and [`PER_CALL_LIMIT`] for each.
    pub fn new(total: u64) -> Self {
        Self { remaining: total, per_call: PER_CALL_LIMIT }
    }

    /// What is left.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Whether the last evaluations have spent all of it: nothing more must be evaluated then.
    pub fn exhausted(&self) -> bool {
        self.remaining == 0
    }
}

/// What an expression asks of the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationRequest {
    /// Whose rights are asked for: namespace and name of a service account, or the request's own user.
    pub service_account: Option<(String, String)>,
    /// The path of a non-resource request.
    pub path: Option<String>,
    /// The group of a resource request.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The field selector.
    pub field_selector: String,
    /// The label selector.
    pub label_selector: String,
    /// The verb.
    pub verb: String,
}

/// What an authorizer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// Who answers expressions that ask for rights.
pub trait Authorizer {
    /// Whether the request's user, or the service account of the request, may do it.
    fn authorize(&self, request: &AuthorizationRequest) -> Decision;
}

/// The values of the variables.
#[derive(Default)]
pub struct Activation<'a> {
    values: BTreeMap<&'a str, &'a Value>,
    bound: BTreeMap<&'a str, Val<'a>>,
    composed: &'a [(String, Program)],
    memo: RefCell<BTreeMap<&'a str, Result<Val<'a>, EvalError>>>,
    authorizer: Option<(&'a dyn Authorizer, AuthorizationRequest)>,
}

impl<'a> Activation<'a> {
    /// No values: a variable without one is an error when an expression needs it.
    pub fn new() -> Self {
        Self::default()
    }

    /// One value more.
    #[must_use]
    pub fn value(mut self, name: &'a str, value: &'a Value) -> Self {
        self.values.insert(name, value);
        self
    }

    /// One value more, that is no JSON.
    #[must_use]
    fn bound(mut self, name: &'a str, value: Val<'a>) -> Self {
        self.bound.insert(name, value);
        self
    }

    /// The fields of `variables`: expressions that are evaluated when they are needed, once, in this same activation.
    #[must_use]
    pub fn composed(mut self, programs: &'a [(String, Program)]) -> Self {
        self.composed = programs;
        self
    }

    /// Who answers `authorizer`, and what `authorizer.requestResource` is.
    #[must_use]
    pub fn authorizer(mut self, authorizer: &'a dyn Authorizer, request: AuthorizationRequest) -> Self {
        self.authorizer = Some((authorizer, request));
        self
    }
}

/// An expression that compiles.
#[derive(Debug)]
pub struct Program {
    source: String,
    root: Node,
    result: Type,
    variables: BTreeMap<String, Type>,
    depth: usize,
}

/// Checks an expression.
///
/// # Errors
/// If it is no expression, or what it says cannot be right.
pub fn compile(source: &str, environment: &Environment) -> Result<Program, CompileError> {
    let failed = |issues: Vec<parse::Issue>| CompileError { issues: parse::render(source, &issues) };
    let (root, text, depth) = parse::parse(source).map_err(failed)?;
    let result = parse::with_stack(depth, parse::WALK_LEVEL_BYTES, || check::check(&root, environment, &text))
        .map_err(failed)?;
    Ok(Program { source: source.to_owned(), root, result, variables: environment.variables.clone(), depth })
}

impl Program {
    /// The text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of its value.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// Whether its value is, or may turn out to be, of a type.
    pub fn yields(&self, ty: &Type) -> bool {
        self.result == *ty || self.result == Type::Dyn
    }

    /// Whether it mentions a variable: `oldSelf` makes a rule a transition rule.
    pub fn mentions(&self, variable: &str) -> bool {
        let mut found = false;
        self.root.walk(&mut |node| found |= matches!(&node.kind, Kind::Ident(name) if name == variable));
        found
    }

    /// The value, on these variables.
    ///
    /// # Errors
    /// If there is none, or its cost is beyond a limit.
    pub fn evaluate<'a>(&'a self, activation: &Activation<'a>, budget: &mut Budget) -> Result<Val<'a>, EvalError> {
        let limit = budget.per_call.min(budget.remaining);
        let (value, cost) = eval::evaluate(self, activation, limit);
        budget.remaining = budget.remaining.saturating_sub(cost);
        value
    }

    /// The value of an expression that must be a boolean.
    ///
    /// # Errors
    /// As [`Self::evaluate`], and if it is none.
    pub fn evaluate_bool<'a>(&'a self, on: &Activation<'a>, budget: &mut Budget) -> Result<bool, EvalError> {
        match self.evaluate(on, budget)? {
            Val::Bool(value) => Ok(value),
            other => Err(EvalError::new(format!("expected bool, got {}", other.type_name()))),
        }
    }
}

#[cfg(test)]
mod tests;
