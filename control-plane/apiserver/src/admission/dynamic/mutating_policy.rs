//! `MutatingAdmissionPolicy` (apiserver `admission/plugin/policy/mutating`).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use xebec_schema::apply::typed::Type;
use xebec_schema::apply::unowned;
use xebec_schema::cel::Budget;
use xebec_schema::policy::Mutation;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;
use xebec_schema::types::{self, Definition};
use xebec_schema::{openapi, patch};

use super::expressions::{self, Matched, Seen};
use super::policies::{Binding, Bound, Policies};
use super::validating_policy::denied;
use super::{request, webhooks};
use crate::admission::{Operation, Plugin, Review};
use crate::authz::{Answers, Authorizer};
use crate::reader::Reader;

/// Lets policies change objects.
pub struct MutatingPolicies {
    policies: Policies,
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
}

impl MutatingPolicies {
    /// Those that are stored.
    pub fn new(reader: Arc<dyn Reader>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { policies: Policies::new(reader.clone(), true), reader, authorizer }
    }

    /// Lets a policy change the object as a binding says. Answers whether it has.
    async fn apply(
        &self,
        bound: &Bound,
        binding: &Binding,
        review: &mut Review<'_>,
        row: &Resource,
    ) -> Result<bool, Status> {
        let refuse = |review: &Review<'_>, why: String| {
            let message = format!("policy '{}' with binding '{}' denied request: {why}", bound.name, binding.name);
            Err(denied(review, message, "Invalid"))
        };
        let params = match bound.params(binding, review, &*self.reader) {
            Ok(params) => params,
            Err(why) if bound.fail => return refuse(review, format!("failed to configure binding: {why}")),
            Err(_) => return Ok(false),
        };
        let mut changed = false;
        for params in &params {
            let mut budget = Budget::default();
            for (index, mutation) in bound.policy.mutations.iter().enumerate() {
                let answers = Answers::of(&*self.authorizer);
                let (made, left) = answers
                    .settle(|answers| {
                        let mut left = budget.clone();
                        let seen = Seen::new(review, row, &*self.reader, answers);
                        (mutated(bound, mutation, index == 0, review, row, params, &seen, &mut left), left)
                    })
                    .await;
                budget = left;
                match made {
                    Ok(Some(new)) => {
                        changed |= review.object.as_ref() != Some(&new);
                        review.object = Some(new);
                    }
                    // The conditions do not hold.
                    Ok(None) => break,
                    Err(why) if bound.fail => return refuse(review, why),
                    Err(_) => {}
                }
            }
        }
        Ok(changed)
    }
}

/// The object as a mutation makes it.
#[expect(clippy::too_many_arguments, reason = "what an expression sees")]
fn mutated(
    bound: &Bound,
    mutation: &Mutation,
    first: bool,
    review: &Review<'_>,
    row: &Resource,
    params: &Value,
    seen: &Seen<'_, '_>,
    budget: &mut Budget,
) -> Result<Option<Value>, String> {
    let Some(object) = &review.object else { return Ok(None) };
    let on = seen.activation().value("params", params).composed(&bound.policy.variables);
    if first {
        match expressions::conditions(&bound.policy.conditions, &on) {
            Matched::Yes => {}
            Matched::No => return Ok(None),
            Matched::Unknown(why) => return Err(why),
        }
    }
    let program = match mutation {
        Mutation::Apply(program) | Mutation::JsonPatch(program) => program,
    };
    let value = program.evaluate(&on, budget).and_then(|value| value.to_json());
    let value = value.map_err(|e| format!("expression '{}' resulted in error: {e}", program.source()))?;
    let before = request::shown(row, review.subresource, object);
    let after = match mutation {
        Mutation::JsonPatch(_) => patch::json_patch(&before, &operations(value)).map_err(|e| e.to_string()),
        Mutation::Apply(_) => applied(review, row, &before, value),
    }?;
    webhooks::accept(row, review.subresource, object, after).map(Some).map_err(|status| status.message)
}

/// An object with what a configuration says of it. The configuration is of the object's kind, whatever it says.
fn applied(review: &Review<'_>, row: &Resource, before: &Value, mut configuration: Value) -> Result<Value, String> {
    for field in ["apiVersion", "kind"] {
        configuration[field] = before[field].clone();
    }
    let ty = of_part(review, row).map_or(Type::Deduced, Type::Struct);
    unowned::mutate(ty, before, &configuration).map_err(|why| format!("error applying patch: {why}"))
}

/// What is known of the objects that the request exchanges.
fn of_part<'a>(review: &Review<'_>, row: &'a Resource) -> Option<&'a Definition> {
    let Some(part) = row.subresource(review.subresource).filter(|part| part.kind != row.kind) else {
        return row.definition();
    };
    openapi::part_schema(row, part).and_then(|name| types::definition(&name))
}

/// The operations of a list of `JSONPatch` objects.
fn operations(list: Value) -> Value {
    let Value::Array(list) = list else { return json!([]) };
    let with_value = |mut operation: Value| {
        let needs = matches!(operation["op"].as_str(), Some("add" | "replace" | "test"));
        if needs && operation.get("value").is_none() {
            operation["value"] = Value::Null;
        }
        operation
    };
    list.into_iter().map(with_value).collect()
}

#[async_trait]
impl Plugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn is_dynamic(&self) -> bool {
        true
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let policies = self.policies.load();
        let changes = matches!(review.operation, Operation::Create | Operation::Update);
        if policies.is_empty() || !changes || super::is_exempt(review) {
            return Ok(());
        }
        let again = review.reinvocation.again;
        review.reinvocation.policies.begin(again, review.object.as_ref());
        for bound in policies.iter() {
            for binding in &bound.bindings {
                let id = format!("{}/{}", bound.name, binding.name);
                if again && !review.reinvocation.policies.due.contains(&id) {
                    continue;
                }
                let Some(row) = bound.matcher.matches(review, &*self.reader, false)? else { continue };
                if let Some(matcher) = &binding.matcher
                    && matcher.matches(review, &*self.reader, true)?.is_none()
                {
                    continue;
                }
                if self.apply(bound, binding, review, &row).await? {
                    review.reinvocation.policies.changed();
                    review.reinvocation.wanted = true;
                }
                if bound.reinvoked {
                    review.reinvocation.policies.invoked.insert(id);
                }
            }
        }
        review.reinvocation.policies.last.clone_from(&review.object);
        Ok(())
    }
}
