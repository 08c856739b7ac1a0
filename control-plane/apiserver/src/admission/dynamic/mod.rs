//! Admission that is configured by objects: webhooks and policies.
//!
//! - `matching`: which requests an object concerns: rules, selectors, equivalent versions;
//! - `request`: the request as webhooks and expressions see it;
//! - `hooks`: webhooks as they are configured; `answer`: what they say; `webhooks`: calling them;
//! - `policies`: policies and bindings; `validating_policy`, `mutating_policy`: evaluating them.

mod answer;
mod expressions;
mod hooks;
mod matching;
mod mutating_policy;
mod policies;
pub(crate) mod request;
mod validating_policy;
mod webhooks;

pub(crate) use expressions::{Matched, all_hold};
pub use mutating_policy::MutatingPolicies;
pub use validating_policy::ValidatingPolicies;
pub use webhooks::Webhooks;

use std::collections::BTreeSet;

use serde_json::Value;

use super::Review;

/// What plugins that are run a second time know of the first (apiserver `admission/reinvocation.go`): when a webhook
/// has changed the object, all that mutate see it once more, and so do the webhooks that ask for it.
#[derive(Debug, Default)]
pub struct Reinvocation {
    /// This is the second time.
    pub again: bool,
    /// There is to be a second time.
    pub wanted: bool,
    /// Of webhooks.
    webhooks: Round,
    /// Of policies.
    policies: Round,
}

/// What is known of webhooks, or of policies.
#[derive(Debug, Default)]
struct Round {
    /// Those that were called, and would like to be called again.
    invoked: BTreeSet<String>,
    /// Those that have to be called again.
    due: BTreeSet<String>,
    /// The object after the last of them.
    last: Option<Value>,
}

impl Round {
    /// At the start of a round: if others have changed the object since, all that want to be called again are.
    fn begin(&mut self, again: bool, object: Option<&Value>) {
        if again && self.last.as_ref() != object {
            self.due.append(&mut self.invoked);
        }
    }

    /// The object was changed by one: those before it are called again.
    fn changed(&mut self) {
        self.due.append(&mut self.invoked);
    }
}

/// Whether a request is for one of the objects that configure admission: those cannot lock each other out.
fn is_exempt(review: &Review<'_>) -> bool {
    review.resource.group == "admissionregistration.k8s.io"
        && matches!(
            review.resource.kind.as_ref(),
            "MutatingWebhookConfiguration"
                | "ValidatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}
