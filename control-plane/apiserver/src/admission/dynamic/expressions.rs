//! Evaluating expressions on a request.

use serde_json::Value;
use xebec_schema::cel::{self, Activation, AuthorizationRequest, Budget, Program};
use xebec_schema::policy::Condition;
use xebec_schema::resource::Resource;

use super::request;
use crate::admission::Review;
use crate::authn::UserInfo;
use crate::authz::{Answers, Attributes, Decision};
use crate::json::decode;
use crate::reader::Reader;

/// What expressions see of a request.
pub(super) struct Seen<'a, 'x> {
    pub object: Value,
    pub old_object: Value,
    pub request: Value,
    pub namespace: Value,
    authorizer: Rights<'a, 'x>,
    resource_check: AuthorizationRequest,
}

impl<'a, 'x> Seen<'a, 'x> {
    pub fn new(review: &'a Review<'_>, row: &Resource, reader: &dyn Reader, authorizer: &'a Answers<'x>) -> Self {
        let namespace = Some(review.namespace).filter(|name| !name.is_empty() && review.resource.namespaced);
        let namespace = namespace.and_then(|name| reader.get("", "namespaces", "", name));
        Self {
            object: request::object(review, row),
            old_object: request::old_object(review, row),
            request: request::request(review, row),
            namespace: namespace.map_or(Value::Null, |entry| shown_namespace(decode(&entry.bytes))),
            authorizer: Rights { authorizer, user: review.user },
            resource_check: AuthorizationRequest {
                group: review.requested.group.to_string(),
                resource: review.requested.plural.to_string(),
                subresource: review.subresource.to_owned(),
                namespace: review.namespace.to_owned(),
                name: review.name.to_owned(),
                ..AuthorizationRequest::default()
            },
        }
    }

    pub fn activation(&self) -> Activation<'_> {
        Activation::new()
            .value("object", &self.object)
            .value("oldObject", &self.old_object)
            .value("request", &self.request)
            .value("namespaceObject", &self.namespace)
            .authorizer(&self.authorizer, self.resource_check.clone())
    }
}

/// Expressions see `metadata.uid` of namespaces as `UID`.
fn shown_namespace(mut namespace: Value) -> Value {
    if let Some(metadata) = namespace["metadata"].as_object_mut()
        && let Some(uid) = metadata.remove("uid")
    {
        metadata.insert("UID".into(), uid);
    }
    namespace
}

/// What came of match conditions.
pub(crate) enum Matched {
    Yes,
    No,
    /// Whether it matches could not be said, and why.
    Unknown(String),
}

/// Whether all conditions hold: one that does not decides, whatever the others are.
pub(super) fn conditions<'a>(conditions: &'a [Condition], on: &Activation<'a>) -> Matched {
    all_hold(conditions.iter().map(|condition| &condition.program), on)
}

/// Whether all expressions hold: one that does not decides, whatever the others are.
pub(crate) fn all_hold<'a>(programs: impl Iterator<Item = &'a Program>, on: &Activation<'a>) -> Matched {
    let mut budget = Budget::new(cel::MATCH_CONDITIONS_BUDGET);
    let mut errors = Vec::new();
    for program in programs {
        match program.evaluate_bool(on, &mut budget) {
            Ok(true) => {}
            Ok(false) => return Matched::No,
            Err(error) => errors.push(format!("expression '{}' resulted in error: {error}", program.source())),
        }
    }
    match errors.as_slice() {
        [] => Matched::Yes,
        [one] => Matched::Unknown(one.clone()),
        many => Matched::Unknown(format!("[{}]", many.join(", "))),
    }
}

/// The server's authorizer, as expressions ask it.
struct Rights<'a, 'x> {
    authorizer: &'a Answers<'x>,
    user: &'a UserInfo,
}

impl cel::Authorizer for Rights<'_, '_> {
    fn authorize(&self, request: &AuthorizationRequest) -> cel::Decision {
        let user = match &request.service_account {
            None => self.user.clone(),
            Some((namespace, name)) => UserInfo {
                name: format!("system:serviceaccount:{namespace}:{name}"),
                groups: vec![
                    "system:serviceaccounts".into(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".into(),
                ],
                ..UserInfo::default()
            },
        };
        let attributes = Attributes {
            user,
            verb: request.verb.clone(),
            group: request.group.clone(),
            version: "*".into(),
            resource: request.resource.clone(),
            subresource: request.subresource.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            path: request.path.clone().unwrap_or_default(),
            is_resource: request.path.is_none(),
            field_selector: request.field_selector.clone(),
        };
        match self.authorizer.decide(&attributes) {
            Decision::Allow(reason) => cel::Decision { allowed: true, reason, error: None },
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                cel::Decision { allowed: false, reason, error: None }
            }
            Decision::Failed { why, .. } => cel::Decision { allowed: false, reason: String::new(), error: Some(why) },
        }
    }
}
