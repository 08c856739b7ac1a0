//! A webhook that decides (apiserver `plugin/pkg/authorizer/webhook`). What it said is remembered for a while; only what is
//! not known is asked.

use std::sync::Arc;

use serde_json::{Value, json};
use xebec_schema::cel::Activation;

use super::config::WebhookConfig;
use super::{Attributes, Authorizer, Decision, Verdict};
use crate::admission::dynamic::{Matched, all_hold};
use crate::json::text;
use crate::reader::Reader;
use crate::webhook::cache::Cache;
use crate::webhook::kubeconfig::KubeconfigClient;

/// How many answers are kept.
const MAX_CACHED: usize = 8192;
/// Questions longer than this are asked each time (upstream's `maxControlledAttrCacheSize`).
const MAX_QUESTION_BYTES: usize = 10_000;

/// Asks the webhook.
pub struct Webhook {
    config: WebhookConfig,
    client: KubeconfigClient,
    cache: Cache<Decision>,
}

impl Webhook {
    /// As configured.
    pub fn new(config: WebhookConfig, reader: Arc<dyn Reader>) -> Self {
        Self { client: config.kubeconfig.client(reader), config, cache: Cache::new(MAX_CACHED) }
    }

    /// The decision without the webhook, if it does not have to be asked.
    fn without_asking(&self, spec: &Value, question: &str) -> Option<Decision> {
        if !self.config.conditions.is_empty() {
            let on = Activation::new().value("request", spec);
            match all_hold(self.config.conditions.iter().map(|program| &**program), &on) {
                Matched::Yes => {}
                Matched::No => return Some(Decision::NoOpinion(String::new())),
                Matched::Unknown(why) => return Some(self.failed(why)),
            }
        }
        self.cache.get(question.as_bytes())
    }

    fn failed(&self, why: String) -> Decision {
        Decision::Failed { why, denied: self.config.fail_closed }
    }

    async fn review(&self, spec: Value, question: String) -> Decision {
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{}", self.config.version),
            "kind": "SubjectAccessReview",
            "metadata": {"creationTimestamp": null},
            "spec": spec,
            "status": {"allowed": false},
        });
        let answer = match self.client.review(&review, self.config.timeout).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!("Failed to make webhook authorizer request ({}): {error}", self.config.name);
                return self.failed(error.to_string());
            }
        };
        let status = &answer["status"];
        let reason = text(status, "/reason").to_owned();
        let (decision, good_for) = match (status["allowed"] == true, status["denied"] == true) {
            (true, true) => {
                return self.failed("webhook subject access review returned both allow and deny response".into());
            }
            (true, false) => (Decision::Allow(reason), self.config.authorized_ttl),
            (false, true) => (Decision::Deny(reason), self.config.unauthorized_ttl),
            (false, false) => (Decision::NoOpinion(reason), self.config.unauthorized_ttl),
        };
        if question.len() <= MAX_QUESTION_BYTES {
            self.cache.put(question.as_bytes(), decision.clone(), good_for);
        }
        decision
    }
}

impl Authorizer for Webhook {
    fn decide<'a>(&'a self, attributes: &Attributes) -> Verdict<'a> {
        let spec = spec(attributes, &self.config.version);
        let question = spec.to_string();
        match self.without_asking(&spec, &question) {
            Some(decision) => Verdict::Now(decision),
            None => Verdict::Ask(Box::pin(self.review(spec, question))),
        }
    }
}

/// The `SubjectAccessReviewSpec` of a question. What is empty is absent.
fn spec(attributes: &Attributes, version: &str) -> Value {
    let given = |fields: &[(&str, &str)]| -> Value {
        let fields = fields.iter().filter(|(_, value)| !value.is_empty());
        fields.map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect()
    };
    let a = attributes;
    let mut out = given(&[("user", &a.user.name), ("uid", &a.user.uid)]);
    if !a.user.groups.is_empty() {
        // Only the field of v1 is called as in everything else.
        out[if version == "v1beta1" { "group" } else { "groups" }] = a.user.groups.clone().into();
    }
    if !a.user.extra.is_empty() {
        out["extra"] = json!(a.user.extra);
    }
    if !a.is_resource {
        out["nonResourceAttributes"] = given(&[("path", &a.path), ("verb", &a.verb)]);
        return out;
    }
    let mut resource = given(&[
        ("namespace", &a.namespace),
        ("verb", &a.verb),
        ("group", &a.group),
        ("version", &a.version),
        ("resource", &a.resource),
        ("subresource", &a.subresource),
        ("name", &a.name),
    ]);
    let requirements: Vec<Value> = a.field_selector.split(',').filter_map(requirement).collect();
    if !requirements.is_empty() {
        resource["fieldSelector"] = json!({"requirements": requirements});
    }
    out["resourceAttributes"] = resource;
    out
}

/// A term of a field selector.
fn requirement(term: &str) -> Option<Value> {
    let (key, operator, value) = match term.split_once("!=") {
        Some((key, value)) => (key, "NotIn", value),
        None => {
            let (key, value) = term.split_once('=')?;
            (key, "In", value.strip_prefix('=').unwrap_or(value))
        }
    };
    Some(json!({"key": key, "operator": operator, "values": [value]}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::UserInfo;

    #[test]
    fn questions_are_upstreams() {
        let user = UserInfo { name: "jane".into(), groups: vec!["dev".into()], ..UserInfo::default() };
        let list = Attributes {
            user: user.clone(),
            verb: "list".into(),
            version: "v1".into(),
            resource: "pods".into(),
            field_selector: "spec.nodeName=n1,status.phase!=Failed".into(),
            is_resource: true,
            path: "/api/v1/pods".into(),
            ..Attributes::default()
        };
        let requirements = json!([{"key": "spec.nodeName", "operator": "In", "values": ["n1"]},
            {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]}]);
        assert_eq!(
            spec(&list, "v1"),
            json!({"user": "jane", "groups": ["dev"], "resourceAttributes": {"verb": "list", "version": "v1",
                "resource": "pods", "fieldSelector": {"requirements": requirements}}})
        );
        let path = Attributes { user, verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        assert_eq!(
            spec(&path, "v1beta1"),
            json!({"user": "jane", "group": ["dev"], "nonResourceAttributes": {"path": "/metrics", "verb": "get"}})
        );
    }
}
