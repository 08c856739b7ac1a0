//! `ValidatingAdmissionPolicy` (apiserver `admission/plugin/policy/validating`).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use xebec_schema::cel::{Activation, Budget, EvalError, Val};
use xebec_schema::policy::Validation;
use xebec_schema::status::{Cause, Status};

use super::answer::known_reason;
use super::expressions::{self, Matched, Seen};
use super::policies::{Binding, Bound, Policies};
use crate::admission::support::forbidden;
use crate::admission::{Plugin, Review};
use crate::authz::{Answers, Authorizer};
use crate::reader::Reader;

/// The longest message that an expression makes.
const MAX_MESSAGE_BYTES: usize = 5 << 10;
/// The longest annotation that an expression makes.
const MAX_ANNOTATION_BYTES: usize = 10 << 10;

/// Evaluates policies on requests.
pub struct ValidatingPolicies {
    policies: Policies,
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
}

/// Why a policy objects to a request.
struct Objection {
    message: String,
    reason: String,
    /// Which validation it was.
    index: usize,
}

/// What comes of all policies.
#[derive(Default)]
struct Verdict {
    /// The first to deny: policy, binding, why.
    denied: Option<(String, Option<String>, Objection)>,
    warnings: Vec<String>,
    failures: Vec<Value>,
    /// Values by key, of each policy and binding.
    annotations: BTreeMap<String, Vec<String>>,
}

impl ValidatingPolicies {
    /// Those that are stored.
    pub fn new(reader: Arc<dyn Reader>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { policies: Policies::new(reader.clone(), false), reader, authorizer }
    }

    fn judge(&self, review: &Review<'_>, answers: &Answers<'_>) -> Result<Verdict, Status> {
        let mut verdict = Verdict::default();
        for bound in self.policies.load().iter() {
            let Some(row) = bound.matcher.matches(review, &*self.reader, false)? else { continue };
            let seen = Seen::new(review, &row, &*self.reader, answers);
            for binding in &bound.bindings {
                if let Some(matcher) = &binding.matcher
                    && matcher.matches(review, &*self.reader, true)?.is_none()
                {
                    continue;
                }
                match bound.params(binding, review, &*self.reader) {
                    Ok(params) => {
                        for params in &params {
                            evaluate(bound, binding, &seen, params, &mut verdict);
                        }
                    }
                    Err(why) if bound.fail => {
                        let message = format!("failed to configure binding: {why}");
                        let objection = Objection { message, reason: "Invalid".into(), index: 0 };
                        verdict.deny(&bound.name, Some(&binding.name), objection);
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(verdict)
    }
}

impl Verdict {
    fn deny(&mut self, policy: &str, binding: Option<&str>, objection: Objection) {
        if self.denied.is_none() {
            self.denied = Some((policy.to_owned(), binding.map(str::to_owned), objection));
        }
    }

    /// Does what the binding says is to be done about an objection.
    fn act(&mut self, bound: &Bound, binding: &Binding, objection: Objection) {
        let (policy, name) = (&bound.name, &binding.name);
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => {
                    let Objection { message, reason, index } = &objection;
                    let denied = Objection { message: message.clone(), reason: reason.clone(), index: *index };
                    self.deny(policy, Some(name), denied);
                }
                "Warn" => self.warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {}",
                    objection.message
                )),
                _ => self.failures.push(json!({
                    "message": objection.message, "policy": policy, "binding": name,
                    "expressionIndex": objection.index, "validationActions": binding.actions,
                })),
            }
        }
    }
}

fn evaluate(bound: &Bound, binding: &Binding, seen: &Seen<'_, '_>, params: &Value, verdict: &mut Verdict) {
    let on = seen.activation().value("params", params).composed(&bound.policy.variables);
    let object = |message: String| Objection { message, reason: "Invalid".into(), index: 0 };
    match expressions::conditions(&bound.policy.conditions, &on) {
        Matched::Yes => {}
        Matched::No => return,
        Matched::Unknown(why) => {
            if bound.fail {
                verdict.act(bound, binding, object(why));
            }
            return;
        }
    }
    let mut budget = Budget::default();
    for (index, validation) in bound.policy.validations.iter().enumerate() {
        match validation.program.evaluate_bool(&on, &mut budget) {
            Ok(true) => {}
            Ok(false) => {
                let message = message(validation, &on, &mut budget);
                verdict.act(bound, binding, Objection { message, reason: validation.reason.clone(), index });
            }
            Err(_) if !bound.fail => {}
            Err(error) => {
                let message = if budget.exhausted() || error == EvalError::CostLimit {
                    "validation failed due to running out of cost budget, no further validation rules will be run"
                        .into()
                } else {
                    format!("expression '{}' resulted in error: {error}", validation.program.source())
                };
                verdict.act(bound, binding, Objection { message, reason: "Invalid".into(), index });
            }
        }
        if budget.exhausted() {
            return;
        }
    }
    for (key, program) in &bound.policy.annotations {
        match program.evaluate(&on, &mut budget) {
            Ok(Val::Str(value)) if !value.trim().is_empty() => {
                let mut value = value.trim().to_owned();
                let end = (0..=MAX_ANNOTATION_BYTES.min(value.len())).rev().find(|at| value.is_char_boundary(*at));
                value.truncate(end.unwrap_or(0));
                let values = verdict.annotations.entry(format!("{}/{key}", bound.name)).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            Ok(_) => {}
            Err(error) if bound.fail => {
                verdict.act(
                    bound,
                    binding,
                    object(format!("expression '{}' resulted in error: {error}", program.source())),
                );
            }
            Err(_) => {}
        }
    }
}

/// What is said of a validation that does not hold.
fn message<'a>(validation: &'a Validation, on: &Activation<'a>, budget: &mut Budget) -> String {
    if let Some(program) = &validation.message_program
        && let Ok(Val::Str(said)) = program.evaluate(on, budget)
    {
        let said = said.trim();
        if !said.is_empty() && said.len() <= MAX_MESSAGE_BYTES && !said.contains('\n') {
            return said.to_owned();
        }
    }
    if validation.message.is_empty() {
        format!("failed expression: {}", validation.program.source().trim())
    } else {
        validation.message.clone()
    }
}

/// The Status of a request that a policy has denied.
pub(super) fn denied(review: &Review<'_>, message: String, reason: &str) -> Status {
    let mut status = forbidden(review, &message);
    status.reason = known_reason(reason);
    status.code = match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    if let Some(details) = &mut status.details {
        details.causes.push(Cause { reason: String::new(), message, field: String::new() });
    }
    status
}

#[async_trait]
impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if super::is_exempt(review) || self.policies.load().is_empty() {
            return Ok(());
        }
        let answers = Answers::of(&*self.authorizer);
        let verdict = answers.settle(|answers| self.judge(review, answers)).await?;
        review.warnings.extend(verdict.warnings);
        let annotations = verdict.annotations.into_iter().map(|(key, values)| (key, values.join(", ")));
        review.annotations.extend(annotations);
        if !verdict.failures.is_empty() {
            let key = "validation.policy.admission.k8s.io/validation_failure".to_owned();
            review.annotations.push((key, Value::Array(verdict.failures).to_string()));
        }
        let Some((policy, binding, objection)) = verdict.denied else { return Ok(()) };
        let by = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        let message = format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {}", objection.message);
        Err(denied(review, message, &objection.reason))
    }
}
