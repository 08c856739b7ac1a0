//! Questions about who somebody is and what they may do: kinds that are answered, not stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use xebec_clock::Clock;
use xebec_schema::field::{Error as FieldError, Path};
use xebec_schema::status::Status;

use crate::authn::UserInfo;
use crate::authn::chain::authenticated;
use crate::authn::token::Tokens;
use crate::authz::rbac::{Permissions, Rbac};
use crate::authz::{Attributes, Authorizer, Decision};
use crate::extension::{Answer, Question};
use crate::json::{strings, text};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// Answers the reviews.
pub struct Reviews {
    tokens: Tokens,
    audiences: Vec<String>,
    authorizer: Arc<dyn Authorizer>,
    rbac: Arc<Rbac>,
    clock: Clock,
}

impl Reviews {
    /// `audiences` are the API server's own: those that a TokenReview without audiences is about.
    pub fn new(
        tokens: Tokens,
        audiences: Vec<String>,
        authorizer: Arc<dyn Authorizer>,
        rbac: Arc<Rbac>,
        clock: &Clock,
    ) -> Self {
        Self { tokens, audiences, authorizer, rbac, clock: clock.clone() }
    }

    /// All the kinds, each answered by `self`, as the server's table wants them.
    pub fn table(self: Arc<Self>) -> BTreeMap<(String, String), Arc<dyn Answer>> {
        let kinds = [
            (AUTHENTICATION, "tokenreviews"),
            (AUTHENTICATION, "selfsubjectreviews"),
            (AUTHORIZATION, "subjectaccessreviews"),
            (AUTHORIZATION, "localsubjectaccessreviews"),
            (AUTHORIZATION, "selfsubjectaccessreviews"),
            (AUTHORIZATION, "selfsubjectrulesreviews"),
        ];
        let entry = |(group, plural): (&str, &str)| {
            let answer: Arc<dyn Answer> = self.clone();
            ((group.to_owned(), plural.to_owned()), answer)
        };
        kinds.into_iter().map(entry).collect()
    }

    async fn token_review(&self, mut review: Value) -> Result<Value, Status> {
        let token = text(&review, "/spec/token");
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let asked = strings(&review, "/spec/audiences");
        let wanted = if asked.is_empty() { self.audiences.clone() } else { asked.clone() };
        review["status"] = match self.tokens.check(token, &asked).await {
            Ok(Some(found)) => {
                // A method that knows no audiences is for the API server only.
                let audiences = match found.audiences {
                    none if none.is_empty() => wanted.into_iter().filter(|a| self.audiences.contains(a)).collect(),
                    some => some,
                };
                if audiences.is_empty() {
                    json!({"authenticated": false, "error": "the token is not for any of the audiences"})
                } else {
                    let user = user_value(&authenticated(found.user));
                    json!({"authenticated": true, "user": user, "audiences": audiences})
                }
            }
            Ok(None) => json!({"user": {}, "error": "the token is not known"}),
            Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
        };
        Ok(review)
    }

    async fn access_review(&self, mut review: Value, kind: &str, user: UserInfo) -> Result<Value, Status> {
        let spec = &review["spec"];
        let resource = spec.get("resourceAttributes").filter(|a| !a.is_null());
        let path = spec.get("nonResourceAttributes").filter(|a| !a.is_null());
        let attributes = match (resource, path) {
            (Some(resource), None) => resource_attributes(user, resource),
            (None, Some(path)) => Attributes {
                user,
                verb: text(path, "/verb").to_owned(),
                path: text(path, "/path").to_owned(),
                ..Attributes::default()
            },
            (given, _) => {
                let value = if given.is_some() { "both" } else { "neither" };
                let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                let error = FieldError::invalid(Path::new("spec.resourceAttributes"), value, why);
                return Err(Status::invalid(AUTHORIZATION, kind, "", &[error]));
            }
        };
        let mut status = json!({"allowed": false});
        let reason = match self.authorizer.authorize(&attributes).await {
            Decision::Allow(reason) => {
                status["allowed"] = true.into();
                reason
            }
            Decision::Deny(reason) => {
                status["denied"] = true.into();
                reason
            }
            Decision::NoOpinion(reason) => reason,
            Decision::Failed { why, denied } => {
                if denied {
                    status["denied"] = true.into();
                }
                status["evaluationError"] = why.into();
                String::new()
            }
        };
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        review["status"] = status;
        Ok(review)
    }

    fn rules_review(&self, mut review: Value, user: &UserInfo) -> Result<Value, Status> {
        let namespace = text(&review, "/spec/namespace");
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let mut permissions = self.rbac.permissions(user, namespace);
        if user.in_group("system:masters") {
            let any = || vec!["*".to_owned()];
            let everything = crate::authz::rbac::Rule {
                verbs: any(),
                api_groups: any(),
                resources: any(),
                non_resource_urls: any(),
                ..crate::authz::rbac::Rule::default()
            };
            permissions.rules.insert(0, Arc::new(everything));
        }
        let node = user.in_group("system:nodes");
        review["status"] = rules_status(&permissions, node);
        Ok(review)
    }

    fn self_review(&self, mut review: Value, user: &UserInfo) -> Value {
        review["metadata"]["creationTimestamp"] = self.clock.now_seconds().to_string().into();
        review["status"] = json!({"userInfo": user_value(user)});
        review
    }
}

fn rules_status(permissions: &Permissions, node: bool) -> Value {
    let (mut resources, mut urls) = (Vec::new(), Vec::new());
    for rule in &permissions.rules {
        if !rule.resources.is_empty() {
            let mut out = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if !rule.resource_names.is_empty() {
                out["resourceNames"] = rule.resource_names.clone().into();
            }
            resources.push(out);
        }
        if !rule.non_resource_urls.is_empty() {
            urls.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    let mut errors = permissions.errors.clone();
    if node {
        errors.push("node authorizer does not support user rule resolution".into());
    }
    let mut status = json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": !errors.is_empty()});
    if !errors.is_empty() {
        status["evaluationError"] = errors.join(", ").into();
    }
    status
}

fn resource_attributes(user: UserInfo, a: &Value) -> Attributes {
    let part = |pointer| text(a, pointer).to_owned();
    let requirement = |r: &Value| {
        let values = strings(r, "/values");
        let simple = text(r, "/operator") == "In" && values.len() == 1;
        simple.then(|| format!("{}={}", text(r, "/key"), values[0]))
    };
    let terms: Vec<String> =
        crate::json::list(a, "/fieldSelector/requirements").iter().filter_map(requirement).collect();
    let selector = match text(a, "/fieldSelector/rawSelector") {
        "" => terms.join(","),
        raw => raw.to_owned(),
    };
    Attributes {
        user,
        verb: part("/verb"),
        group: part("/group"),
        version: part("/version"),
        resource: part("/resource"),
        subresource: part("/subresource"),
        namespace: part("/namespace"),
        name: part("/name"),
        is_resource: true,
        field_selector: selector,
        ..Attributes::default()
    }
}

/// The user that a SubjectAccessReview is about.
fn subject(review: &Value, kind: &str) -> Result<UserInfo, Status> {
    let spec = &review["spec"];
    let user = UserInfo {
        name: text(spec, "/user").to_owned(),
        uid: text(spec, "/uid").to_owned(),
        groups: strings(spec, "/groups"),
        extra: spec["extra"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.to_lowercase(), strings(values, "")))
            .collect(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let why = "at least one of user or group must be specified";
        let error = FieldError::invalid(Path::new("spec.user"), "", why);
        return Err(Status::invalid(AUTHORIZATION, kind, "", &[error]));
    }
    Ok(user)
}

fn check_local(review: &Value, namespace: &str) -> Result<(), Status> {
    let said = text(review, "/spec/resourceAttributes/namespace");
    if said == namespace {
        return Ok(());
    }
    let why = "must match metadata.namespace";
    let error = FieldError::invalid(Path::new("spec.resourceAttributes.namespace"), said, why);
    Err(Status::invalid(AUTHORIZATION, "LocalSubjectAccessReview", "", &[error]))
}

/// `authentication.k8s.io/v1 UserInfo`.
pub(crate) fn user_value(user: &UserInfo) -> Value {
    let mut out = json!({"username": user.name});
    if !user.uid.is_empty() {
        out["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        out["groups"] = user.groups.clone().into();
    }
    if !user.extra.is_empty() {
        out["extra"] = user.extra.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
    }
    out
}

#[async_trait]
impl Answer for Reviews {
    async fn answer(&self, question: Question<'_>) -> Result<Value, Status> {
        let Question { user, resource, namespace, object, .. } = question;
        let kind: &str = &resource.kind;
        match &*resource.plural {
            "tokenreviews" => self.token_review(object).await,
            "selfsubjectreviews" => Ok(self.self_review(object, user)),
            "subjectaccessreviews" => {
                let subject = subject(&object, kind)?;
                self.access_review(object, kind, subject).await
            }
            "localsubjectaccessreviews" => {
                check_local(&object, namespace)?;
                let subject = subject(&object, kind)?;
                self.access_review(object, kind, subject).await
            }
            "selfsubjectaccessreviews" => self.access_review(object, kind, user.clone()).await,
            "selfsubjectrulesreviews" => self.rules_review(object, user),
            other => Err(Status::internal(format!("nobody answers {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use xebec_schema::registry::Registry;

    use super::*;
    use crate::authn::token::{TokenMethod, TokenUser};
    use crate::test_reader::FakeReader;

    /// Knows one token, which is for `vault` only.
    struct OneToken;

    impl TokenMethod for OneToken {
        fn check(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, String> {
            match token {
                "good" if audiences.iter().any(|a| a == "vault") => {
                    let user = UserInfo { name: "jane".into(), uid: "u".into(), ..UserInfo::default() };
                    Ok(Some(TokenUser { user, audiences: vec!["vault".into()] }))
                }
                "good" => Err("it is for somebody else".into()),
                _ => Ok(None),
            }
        }
    }

    async fn ask(user: &str, plural: &str, spec: Value) -> Result<Value, Status> {
        let reader = FakeReader::new();
        let group = "rbac.authorization.k8s.io";
        let rules = json!([{"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
            {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]);
        reader.put(group, "clusterroles", json!({"metadata": {"name": "r"}, "rules": rules}));
        reader.put(
            group,
            "clusterrolebindings",
            json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
                "subjects": [{"kind": "Group", "name": "dev"}]}),
        );
        let rbac = Arc::new(Rbac::new(reader));
        let tokens = Tokens::new(vec![Arc::new(OneToken)]);
        let reviews = Arc::new(Reviews::new(tokens, vec!["api".into()], rbac.clone(), rbac, &Clock::system()));
        let registry = Registry::builtin();
        let resource = registry.iter().find(|r| r.plural == plural).unwrap();
        let table = reviews.table();
        let answer = &table[&(resource.group.to_string(), plural.to_owned())];
        let user = UserInfo { name: user.into(), groups: vec!["dev".into()], ..UserInfo::default() };
        let object = json!({"metadata": {}, "spec": spec});
        let question =
            Question { user: &user, resource, namespace: "ns", name: "", parent: None, object, dry_run: false };
        Ok(answer.answer(question).await?["status"].clone())
    }

    #[tokio::test]
    async fn tokens_are_reviewed_for_their_audiences() {
        let review = |spec| ask("x", "tokenreviews", spec);
        let found = review(json!({"token": "good", "audiences": ["vault", "other"]})).await.unwrap();
        assert_eq!((&found["authenticated"], &found["audiences"]), (&json!(true), &json!(["vault"])));
        assert_eq!(found["user"], json!({"username": "jane", "uid": "u", "groups": ["system:authenticated"]}));
        let refused = review(json!({"token": "good"})).await.unwrap();
        assert!(refused.get("authenticated").is_none() && refused["error"].as_str().unwrap().contains("somebody else"));
        assert!(review(json!({"token": "?"})).await.unwrap()["error"].is_string());
        assert_eq!(review(json!({})).await.unwrap_err().code, 400);
    }

    #[tokio::test]
    async fn access_is_reviewed() {
        let log = json!({"verb": "get", "resource": "pods", "subresource": "log", "namespace": "ns"});
        let review = async |plural, spec| ask("x", plural, spec).await.map(|s| s["allowed"] == true);
        let of = |groups: &[&str]| json!({"user": "jane", "groups": groups, "resourceAttributes": log});
        assert_eq!(review("subjectaccessreviews", of(&["dev"])).await, Ok(true));
        assert_eq!(review("subjectaccessreviews", of(&[])).await, Ok(false));
        assert_eq!(review("selfsubjectaccessreviews", json!({"resourceAttributes": log})).await, Ok(true));
        let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}});
        assert_eq!(review("selfsubjectaccessreviews", path).await, Ok(true));
        assert_eq!(review("localsubjectaccessreviews", of(&["dev"])).await, Ok(true));
        let mut elsewhere = of(&["dev"]);
        elsewhere["resourceAttributes"]["namespace"] = "other".into();
        let error = review("localsubjectaccessreviews", elsewhere).await.unwrap_err();
        assert!(error.message.contains("must match metadata.namespace"), "{error}");
        let nobody = review("subjectaccessreviews", json!({"resourceAttributes": log})).await.unwrap_err();
        assert!(nobody.message.contains("at least one of user or group must be specified"), "{nobody}");
        assert_eq!(review("selfsubjectaccessreviews", json!({})).await.unwrap_err().code, 422);
    }

    #[tokio::test]
    async fn rules_and_oneself() {
        let rules = ask("x", "selfsubjectrulesreviews", json!({"namespace": "ns"})).await.unwrap();
        let log = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]});
        assert_eq!(rules["resourceRules"], json!([log]));
        assert_eq!(rules["nonResourceRules"][0]["nonResourceURLs"], json!(["/metrics"]));
        assert_eq!(rules["incomplete"], false);
        let me = ask("x", "selfsubjectreviews", json!({})).await.unwrap();
        assert_eq!(me["userInfo"], json!({"username": "x", "groups": ["dev"]}));
    }
}
