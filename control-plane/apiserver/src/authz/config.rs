//! `AuthorizationConfiguration` (`apiserver.config.k8s.io`, KEP-3221), checked and compiled.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;
use xebec_schema::cel::admission::record;
use xebec_schema::cel::{Environment, Program, Type, compile};

use crate::config_file::{ConfigError, wrong};
use crate::json::{list, text};
use crate::webhook::kubeconfig::Kubeconfig;

const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_CONDITIONS: usize = 64;
/// How long answers are good for, if it does not say.
const AUTHORIZED_TTL: Duration = Duration::from_secs(5 * 60);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);

/// Who decides what users may do, in this order.
#[derive(Clone, Debug)]
pub struct AuthorizationConfig {
    /// Each is asked until one decides.
    pub authorizers: Vec<Method>,
}

/// A method of authorization.
#[derive(Clone, Debug)]
pub enum Method {
    /// The node authorizer.
    Node,
    /// Roles and bindings.
    Rbac,
    /// Everybody may do everything.
    AlwaysAllow,
    /// Nobody may do anything.
    AlwaysDeny,
    /// Somebody else is asked.
    Webhook(Box<WebhookConfig>),
}

/// A webhook that is asked.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// What it is called in messages.
    pub name: String,
    /// How long a yes is good for.
    pub authorized_ttl: Duration,
    /// How long a no is good for.
    pub unauthorized_ttl: Duration,
    /// How long it may take.
    pub timeout: Duration,
    /// The version of the reviews: `v1` or `v1beta1`.
    pub version: String,
    /// Whether nobody else is asked when it can't be.
    pub fail_closed: bool,
    /// Where it is.
    pub kubeconfig: Kubeconfig,
    /// It is only asked about requests that all of these hold for.
    pub conditions: Vec<Arc<Program>>,
}

impl AuthorizationConfig {
    /// Reads one, and the kubeconfigs that it names.
    ///
    /// # Errors
    ///
    /// The field, and upstream's words for what is wrong with it.
    pub fn read(config: &Value) -> Result<Self, ConfigError> {
        let version = text(config, "/apiVersion").strip_prefix("apiserver.config.k8s.io/");
        if !version.is_some_and(|v| VERSIONS.contains(&v)) || text(config, "/kind") != "AuthorizationConfiguration" {
            let why = "must be an AuthorizationConfiguration of apiserver.config.k8s.io/v1";
            return Err(wrong("apiVersion", why));
        }
        let given = list(config, "/authorizers");
        if given.is_empty() {
            return Err(wrong("authorizers", "Required value: at least one authorization mode must be defined"));
        }
        let (mut names, mut once) = (BTreeSet::new(), BTreeSet::new());
        let mut authorizers = Vec::new();
        for (at, authorizer) in given.iter().enumerate() {
            let path = format!("authorizers[{at}]");
            let (kind, name) = (text(authorizer, "/type"), text(authorizer, "/name"));
            let method = Method::read(authorizer, &path)?;
            if !matches!(method, Method::Webhook(_)) && !once.insert(kind) {
                return Err(wrong(format!("{path}.type"), format!("Duplicate value: {kind:?}")));
            }
            if name.is_empty() {
                return Err(wrong(format!("{path}.name"), "Required value"));
            }
            if !names.insert(name) {
                return Err(wrong(format!("{path}.name"), format!("Duplicate value: {name:?}")));
            }
            authorizers.push(method);
        }
        Ok(Self { authorizers })
    }
}

impl Method {
    fn read(authorizer: &Value, path: &str) -> Result<Self, ConfigError> {
        let webhook = authorizer.get("webhook").filter(|webhook| !webhook.is_null());
        let method = match text(authorizer, "/type") {
            "" => return Err(wrong(format!("{path}.type"), "Required value")),
            "Node" => Self::Node,
            "RBAC" => Self::Rbac,
            "AlwaysAllow" => Self::AlwaysAllow,
            "AlwaysDeny" => Self::AlwaysDeny,
            "Webhook" => {
                let webhook = webhook
                    .ok_or_else(|| wrong(format!("{path}.webhook"), "Required value: required when type=Webhook"))?;
                let name = text(authorizer, "/name");
                return Ok(Self::Webhook(Box::new(WebhookConfig::read(name, webhook, &format!("{path}.webhook"))?)));
            }
            other => {
                let known = "\"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"";
                let why = format!("Unsupported value: {other:?}: supported values: {known}");
                return Err(wrong(format!("{path}.type"), why));
            }
        };
        match webhook {
            Some(_) => Err(wrong(format!("{path}.webhook"), "Invalid value: may only be specified when type=Webhook")),
            None => Ok(method),
        }
    }
}

impl WebhookConfig {
    fn read(name: &str, webhook: &Value, path: &str) -> Result<Self, ConfigError> {
        let at = |field: &str| format!("{path}.{field}");
        let timeout = duration(webhook, "timeout", path)?.ok_or_else(|| wrong(at("timeout"), "Required value"))?;
        if timeout > MAX_TIMEOUT {
            return Err(wrong(at("timeout"), format!("Invalid value: {timeout:?}: must be <= 30s")));
        }
        let version = one_of(webhook, "subjectAccessReviewVersion", &["v1", "v1beta1"], path)?;
        let fail_closed = one_of(webhook, "failurePolicy", &["NoOpinion", "Deny"], path)? == "Deny";
        let conditions = list(webhook, "/matchConditions");
        if !conditions.is_empty() {
            one_of(webhook, "matchConditionSubjectAccessReviewVersion", &["v1"], path)?;
        }
        if conditions.len() > MAX_CONDITIONS {
            let why = format!("Too many: {}: must have at most {MAX_CONDITIONS} items", conditions.len());
            return Err(wrong(at("matchConditions"), why));
        }
        let (seen, mut compiled) = (environment(), Vec::new());
        for (index, condition) in conditions.iter().enumerate() {
            compiled.push(Arc::new(expression(
                text(condition, "/expression"),
                &at(&format!("matchConditions[{index}]")),
                &seen,
            )?));
        }
        Ok(Self {
            name: name.to_owned(),
            authorized_ttl: duration(webhook, "authorizedTTL", path)?.unwrap_or(AUTHORIZED_TTL),
            unauthorized_ttl: duration(webhook, "unauthorizedTTL", path)?.unwrap_or(UNAUTHORIZED_TTL),
            timeout,
            version,
            fail_closed,
            kubeconfig: connection(&webhook["connectionInfo"], &at("connectionInfo"))?,
            conditions: compiled,
        })
    }
}

fn connection(info: &Value, path: &str) -> Result<Kubeconfig, ConfigError> {
    match text(info, "/type") {
        "KubeConfigFile" => {}
        "" => return Err(wrong(format!("{path}.type"), "Required value")),
        "InClusterConfig" => {
            let why = "Invalid value: \"InClusterConfig\": this server runs in no pod; use KubeConfigFile";
            return Err(wrong(format!("{path}.type"), why));
        }
        other => {
            let known = "\"InClusterConfig\", \"KubeConfigFile\"";
            let why = format!("Unsupported value: {other:?}: supported values: {known}");
            return Err(wrong(format!("{path}.type"), why));
        }
    }
    let (file, at) = (text(info, "/kubeConfigFile"), format!("{path}.kubeConfigFile"));
    if file.is_empty() {
        return Err(wrong(at, "Required value"));
    }
    if !file.starts_with('/') {
        return Err(wrong(at, format!("Invalid value: {file:?}: must be an absolute path")));
    }
    Kubeconfig::read(Path::new(file)).map_err(|e| wrong(at, e.to_string()))
}

/// A duration as Go writes them, if there is one.
fn duration(webhook: &Value, field: &str, path: &str) -> Result<Option<Duration>, ConfigError> {
    let given = webhook[field].as_str().unwrap_or_default();
    if given.is_empty() {
        return Ok(None);
    }
    let parsed = given.parse::<SignedDuration>();
    let parsed = parsed.map_err(|e| wrong(format!("{path}.{field}"), format!("Invalid value: {given:?}: {e}")))?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(Some(duration)),
        _ => Err(wrong(format!("{path}.{field}"), format!("Invalid value: {given:?}: must be > 0s"))),
    }
}

fn one_of(webhook: &Value, field: &str, known: &[&str], path: &str) -> Result<String, ConfigError> {
    match webhook[field].as_str().unwrap_or_default() {
        "" => Err(wrong(format!("{path}.{field}"), "Required value")),
        value if known.contains(&value) => Ok(value.to_owned()),
        other => {
            let known: Vec<String> = known.iter().map(|value| format!("{value:?}")).collect();
            let why = format!("Unsupported value: {other:?}: supported values: {}", known.join(", "));
            Err(wrong(format!("{path}.{field}"), why))
        }
    }
}

fn expression(source: &str, path: &str, seen: &Environment) -> Result<Program, ConfigError> {
    let path = format!("{path}.expression");
    if source.is_empty() {
        return Err(wrong(path, "Required value"));
    }
    let program = compile(source, seen);
    let program = program.map_err(|e| wrong(&path, format!("Invalid value: {source:?}: compilation failed: {e}")))?;
    match program.result_type() {
        Type::Bool => Ok(program),
        _ => Err(wrong(path, format!("Invalid value: {source:?}: must evaluate to bool"))),
    }
}

/// What match conditions see: `request`, the `SubjectAccessReviewSpec`.
fn environment() -> Environment {
    let requirement = |name: &str| {
        record(name, [("key", Type::String), ("operator", Type::String), ("values", Type::list(Type::String))])
    };
    let selector = |name: &str, of: &str| {
        record(name, [("rawSelector", Type::String), ("requirements", Type::list(requirement(of)))])
    };
    let resource = record(
        "kubernetes.ResourceAttributes",
        [
            ("namespace", Type::String),
            ("verb", Type::String),
            ("group", Type::String),
            ("version", Type::String),
            ("resource", Type::String),
            ("subresource", Type::String),
            ("name", Type::String),
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes", "kubernetes.FieldSelectorRequirement")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes", "kubernetes.LabelSelectorRequirement")),
        ],
    );
    let path = record("kubernetes.NonResourceAttributes", [("path", Type::String), ("verb", Type::String)]);
    let spec = record(
        "kubernetes.SubjectAccessReviewSpec",
        [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
            ("user", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::list(Type::String))),
            ("uid", Type::String),
        ],
    );
    Environment::new().variable("request", spec)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(authorizers: Value) -> String {
        let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": authorizers});
        AuthorizationConfig::read(&config).expect_err("an error").to_string()
    }

    fn webhook(change: Value) -> String {
        let mut webhook = json!({"timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
            "matchConditionSubjectAccessReviewVersion": "v1",
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "/nowhere/at/all"}});
        for (field, value) in change.as_object().unwrap() {
            webhook[field] = value.clone();
        }
        read(json!([{"type": "Webhook", "name": "w", "webhook": webhook}]))
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert_eq!(read(json!([])), "authorizers: Required value: at least one authorization mode must be defined");
        assert_eq!(read(json!([{"name": "x"}])), "authorizers[0].type: Required value");
        assert_eq!(
            read(json!([{"type": "RBAC", "name": "a"}, {"type": "RBAC", "name": "b"}])),
            "authorizers[1].type: Duplicate value: \"RBAC\""
        );
        assert_eq!(
            read(json!([{"type": "Webhook", "name": "w"}])),
            "authorizers[0].webhook: Required value: required when type=Webhook"
        );
        let at = |field: &str, why: &str| format!("authorizers[0].webhook.{field}: {why}");
        assert_eq!(webhook(json!({"timeout": null})), at("timeout", "Required value"));
        assert_eq!(webhook(json!({"timeout": "31s"})), at("timeout", "Invalid value: 31s: must be <= 30s"));
        assert_eq!(
            webhook(json!({"authorizedTTL": "-1s"})),
            at("authorizedTTL", "Invalid value: \"-1s\": must be > 0s")
        );
        assert_eq!(
            webhook(json!({"failurePolicy": "Ignore"})),
            at("failurePolicy", "Unsupported value: \"Ignore\": supported values: \"NoOpinion\", \"Deny\"")
        );
        let condition = |source: &str| webhook(json!({"matchConditions": [{"expression": source}]}));
        assert_eq!(
            condition("request.user"),
            at("matchConditions[0].expression", "Invalid value: \"request.user\": must evaluate to bool")
        );
        assert!(condition("request.nobody == ''").contains("compilation failed"));
        assert!(condition("has(request.resourceAttributes)").contains("kubeConfigFile: /nowhere/at/all: "));
    }
}
