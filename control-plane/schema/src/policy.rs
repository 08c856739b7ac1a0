//! Admission policies, compiled: what is wrong with their expressions, and what is evaluated on requests. The rest of
//! their validation is with their kinds.
//!
//! `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy` share their head (match conditions and variables), and
//! webhooks have match conditions of the same sort.

use std::sync::Arc;

use serde_json::Value;

use crate::cel::admission::{Sees, environment};
use crate::cel::{Environment, Field, Object, Program, Type, compile};
use crate::field::{Error, ErrorList, Path};

/// A condition that a request has to meet.
#[derive(Debug)]
pub struct Condition {
    /// Its name.
    pub name: String,
    /// A boolean.
    pub program: Program,
}

/// A rule of a `ValidatingAdmissionPolicy`.
#[derive(Debug)]
pub struct Validation {
    /// A boolean.
    pub program: Program,
    /// What is said when it does not hold.
    pub message: String,
    /// A string to be said instead.
    pub message_program: Option<Program>,
    /// A reason of a Status: `Invalid`.
    pub reason: String,
}

/// A change by a `MutatingAdmissionPolicy`.
#[derive(Debug)]
pub enum Mutation {
    /// An object to be merged as server-side apply does.
    Apply(Program),
    /// A list of JSON patch operations.
    JsonPatch(Program),
}

/// A policy.
#[derive(Debug, Default)]
pub struct Policy {
    /// All must hold, or the policy does not concern the request.
    pub conditions: Vec<Condition>,
    /// The fields of `variables`.
    pub variables: Vec<(String, Program)>,
    /// The rules.
    pub validations: Vec<Validation>,
    /// What is noted in the audit log, by key.
    pub annotations: Vec<(String, Program)>,
    /// The changes.
    pub mutations: Vec<Mutation>,
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Compiles an expression that has to be of one of some types; none is any.
fn checked(
    errors: &mut ErrorList,
    path: &Path,
    expression: &str,
    environment: &Environment,
    types: &[Type],
) -> Option<Program> {
    if expression.trim().is_empty() {
        return None;
    }
    let program = match compile(expression, environment) {
        Ok(program) => program,
        Err(error) => {
            errors.push(Error::invalid(path.clone(), expression, error.to_string()));
            return None;
        }
    };
    let result = program.result_type();
    // What an expression makes of `Object` has no fields that are known.
    let object = |ty: &Type| matches!((ty, result), (Type::Object(a), Type::Object(b)) if a.name == b.name);
    if !types.is_empty() && !types.iter().any(|ty| ty == result || object(ty) || is_list_of(ty, result)) {
        let wanted: Vec<String> = types.iter().map(Type::to_string).collect();
        let detail = match wanted.as_slice() {
            [one] => format!("must evaluate to {one}"),
            many => format!("must evaluate to one of [{}]", many.join(" ")),
        };
        errors.push(Error::invalid(path.clone(), expression, detail));
        return None;
    }
    Some(program)
}

/// A list of objects of the type, or one of which nothing is known (an empty one).
fn is_list_of(wanted: &Type, result: &Type) -> bool {
    match (wanted, result) {
        (Type::List(wanted), Type::List(result)) => match (&**wanted, &**result) {
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (_, Type::Dyn) => true,
            _ => false,
        },
        _ => false,
    }
}

/// Compiles match conditions.
pub fn conditions(list: &[Value], path: &Path, sees: Sees, errors: &mut ErrorList) -> Vec<Condition> {
    let environment = environment(sees);
    let mut out = Vec::with_capacity(list.len());
    for (index, condition) in list.iter().enumerate() {
        let expression = text(condition, "expression").trim();
        let path = path.index(index).child("expression");
        if let Some(program) = checked(errors, &path, expression, &environment, &[Type::Bool]) {
            out.push(Condition { name: text(condition, "name").to_owned(), program });
        }
    }
    out
}

/// Compiles a policy's spec, and says what is wrong with its expressions.
pub fn policy(spec: &Value, mutating: bool) -> (Policy, ErrorList) {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let params = spec.get("paramKind").is_some_and(Value::is_object);
    let sees = Sees { params, authorizer: true, patches: mutating };
    let head = Sees { patches: false, ..sees };
    let mut out = Policy {
        conditions: conditions(items(spec, "matchConditions"), &path.child("matchConditions"), head, &mut errors),
        ..Policy::default()
    };
    let mut environment = environment(sees);
    let mut fields = Object { name: "kubernetes.variables".into(), ..Object::default() };
    for (index, variable) in items(spec, "variables").iter().enumerate() {
        environment = environment.variable("variables", Type::Object(Arc::new(fields.clone())));
        let path = path.child("variables").index(index);
        if let Some((name, program)) = compile_variable(variable, &path, &environment, &mut errors) {
            let ty = program.result_type().clone();
            fields.fields.insert(name.clone(), Field { json: name.clone(), ty });
            out.variables.push((name, program));
        }
    }
    environment = environment.variable("variables", Type::Object(Arc::new(fields)));
    for (index, validation) in items(spec, "validations").iter().enumerate() {
        let path = path.child("validations").index(index);
        out.validations.extend(compile_validation(validation, &path, &environment, &mut errors));
    }
    for (index, annotation) in items(spec, "auditAnnotations").iter().enumerate() {
        let path = path.child("auditAnnotations").index(index).child("valueExpression");
        let expression = text(annotation, "valueExpression").trim();
        let types = [Type::String, Type::Null, Type::Dyn];
        if let Some(program) = checked(&mut errors, &path, expression, &environment, &types) {
            out.annotations.push((text(annotation, "key").to_owned(), program));
        }
    }
    for (index, mutation) in items(spec, "mutations").iter().enumerate() {
        let path = path.child("mutations").index(index);
        out.mutations.extend(compile_mutation(mutation, &path, &environment, &mut errors));
    }
    (out, errors)
}

fn compile_variable(
    variable: &Value,
    path: &Path,
    environment: &Environment,
    errors: &mut ErrorList,
) -> Option<(String, Program)> {
    let (name, expression) = (text(variable, "name"), text(variable, "expression"));
    if crate::cel::escape(name).as_deref() != Some(name) && !name.contains("__") {
        let detail = "name is not a valid CEL identifier";
        errors.push(Error::invalid(path.child("name"), name, detail));
        return None;
    }
    let program = checked(errors, &path.child("expression"), expression, environment, &[])?;
    Some((name.to_owned(), program))
}

fn compile_validation(
    validation: &Value,
    path: &Path,
    environment: &Environment,
    errors: &mut ErrorList,
) -> Option<Validation> {
    let mut compile =
        |field: &str, ty: Type| checked(errors, &path.child(field), text(validation, field), environment, &[ty]);
    let program = compile("expression", Type::Bool);
    let message_program = compile("messageExpression", Type::String);
    let (message, reason) = (text(validation, "message"), text(validation, "reason"));
    Some(Validation {
        program: program?,
        message: message.trim().to_owned(),
        message_program,
        reason: if reason.is_empty() { "Invalid" } else { reason }.to_owned(),
    })
}

fn compile_mutation(
    mutation: &Value,
    path: &Path,
    environment: &Environment,
    errors: &mut ErrorList,
) -> Option<Mutation> {
    let object = |name: &str| Type::object(name, []);
    let (field, types): (_, [Type; 1]) = match text(mutation, "patchType") {
        "ApplyConfiguration" => ("applyConfiguration", [object("Object")]),
        "JSONPatch" => ("jsonPatch", [Type::list(object("JSONPatch"))]),
        _ => return None,
    };
    let expression = mutation.get(field).map_or("", |patch| text(patch, "expression"));
    let path = path.child(field).child("expression");
    let program = checked(errors, &path, expression, environment, &types)?;
    Some(if field == "jsonPatch" { Mutation::JsonPatch(program) } else { Mutation::Apply(program) })
}
