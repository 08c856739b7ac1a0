//! `AuthenticationConfiguration` (`apiserver.config.k8s.io`), checked and compiled.

use std::sync::Arc;

use serde_json::Value;
use xebec_schema::cel::admission::user_info;
use xebec_schema::cel::{Environment, Program, Type, compile};

use crate::config_file::{ConfigError, wrong};
use crate::json::{list, strings, text};

/// Who is let in, beyond client certificates and the cluster's own tokens.
#[derive(Clone, Debug, Default)]
pub struct AuthenticationConfig {
    /// The issuers of tokens.
    pub jwt: Vec<Jwt>,
    /// Whether requests without credentials are let in, if it says so at all.
    pub anonymous: Option<bool>,
    /// If there are any, only requests for these paths are let in without credentials.
    pub anonymous_paths: Vec<String>,
}

/// An issuer, and what its tokens' claims mean.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// What tokens say as `iss`.
    pub url: String,
    /// Where the issuer's description is.
    pub discovery_url: String,
    /// PEM; empty for the system's.
    pub authorities: Vec<u8>,
    /// A token has to be for one of these.
    pub audiences: Vec<String>,
    pub(super) required: Vec<(String, String)>,
    pub(super) claim_rules: Vec<Rule>,
    pub(super) username: Claim,
    pub(super) groups: Option<Claim>,
    pub(super) uid: Option<Claim>,
    pub(super) extra: Vec<(String, Arc<Program>)>,
    pub(super) user_rules: Vec<Rule>,
}

/// What must hold, and what is said if it does not.
pub(super) type Rule = (Arc<Program>, String);

/// Where a part of a user comes from.
#[derive(Clone, Debug)]
pub(super) enum Claim {
    Named { claim: String, prefix: String },
    Computed(Arc<Program>),
}

impl AuthenticationConfig {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// The field, and upstream's words for what is wrong with it.
    pub fn read(config: &Value) -> Result<Self, ConfigError> {
        let version = text(config, "/apiVersion");
        if !version.starts_with("apiserver.config.k8s.io/v1") || text(config, "/kind") != "AuthenticationConfiguration"
        {
            let why = "must be an AuthenticationConfiguration of apiserver.config.k8s.io/v1";
            return Err(wrong("apiVersion", why));
        }
        let jwt = list(config, "/jwt").iter().enumerate().map(|(at, jwt)| Jwt::read(jwt, &format!("jwt[{at}]")));
        let jwt = jwt.collect::<Result<Vec<_>, _>>()?;
        for (at, issuer) in jwt.iter().enumerate() {
            if jwt[..at].iter().any(|other| other.url == issuer.url) {
                return Err(wrong(format!("jwt[{at}].issuer.url"), format!("Duplicate value: {:?}", issuer.url)));
            }
        }
        let conditions = list(config, "/anonymous/conditions");
        let anonymous = config.pointer("/anonymous/enabled").and_then(Value::as_bool);
        if anonymous == Some(false) && !conditions.is_empty() {
            return Err(wrong("anonymous.conditions", "enabled should be set to true when conditions are defined"));
        }
        let paths = conditions.iter().map(|condition| text(condition, "/path").to_owned()).collect();
        Ok(Self { jwt, anonymous, anonymous_paths: paths })
    }
}

impl Jwt {
    fn read(jwt: &Value, path: &str) -> Result<Self, ConfigError> {
        let url = text(jwt, "/issuer/url").to_owned();
        let at_issuer = format!("{path}.issuer");
        if url.is_empty() {
            return Err(wrong(format!("{at_issuer}.url"), "Required value: URL is required"));
        }
        if !url.starts_with("https://") {
            return Err(wrong(format!("{at_issuer}.url"), format!("Invalid value: {url:?}: URL scheme must be https")));
        }
        let discovery = text(jwt, "/issuer/discoveryURL");
        if !discovery.is_empty() && !discovery.starts_with("https://") {
            let why = format!("Invalid value: {discovery:?}: URL scheme must be https");
            return Err(wrong(format!("{at_issuer}.discoveryURL"), why));
        }
        let audiences = strings(jwt, "/issuer/audiences");
        if audiences.is_empty() {
            let why = "Required value: at least one jwt.issuer.audiences is required";
            return Err(wrong(format!("{at_issuer}.audiences"), why));
        }
        let claims = Environment::new().variable("claims", Type::map(Type::Dyn));
        let mut required = Vec::new();
        for (at, rule) in list(jwt, "/claimValidationRules").iter().enumerate() {
            let path = format!("{path}.claimValidationRules[{at}]");
            match (text(rule, "/claim"), text(rule, "/expression")) {
                ("", "") => return Err(wrong(path, "Required value: claim or expression is required")),
                ("", _) => {}
                (claim, "") => required.push((claim.to_owned(), text(rule, "/requiredValue").to_owned())),
                _ => return Err(wrong(path, "Invalid value: claim and expression can't both be set")),
            }
        }
        let mappings = format!("{path}.claimMappings");
        let claim = |field: &str| Claim::read(&jwt["claimMappings"][field], &format!("{mappings}.{field}"), &claims);
        let username = claim("username")?;
        let mut extra = Vec::new();
        for (at, entry) in list(jwt, "/claimMappings/extra").iter().enumerate() {
            let path = format!("{mappings}.extra[{at}].valueExpression");
            extra.push((
                text(entry, "/key").to_owned(),
                expression(text(entry, "/valueExpression"), &path, &claims, &[])?,
            ));
        }
        let discovery = match discovery {
            "" => format!("{}/.well-known/openid-configuration", url.trim_end_matches('/')),
            discovery => discovery.to_owned(),
        };
        Ok(Self {
            required,
            claim_rules: rules(&jwt["claimValidationRules"], &format!("{path}.claimValidationRules"), &claims)?,
            username: username.ok_or_else(|| {
                wrong(format!("{mappings}.username"), "Required value: claim or expression is required")
            })?,
            groups: claim("groups")?,
            uid: claim("uid")?,
            extra,
            user_rules: rules(&jwt["userValidationRules"], &format!("{path}.userValidationRules"), &user())?,
            authorities: text(jwt, "/issuer/certificateAuthority").as_bytes().to_vec(),
            discovery_url: discovery,
            url,
            audiences,
        })
    }
}

/// What user validation rules see.
fn user() -> Environment {
    Environment::new().variable("user", user_info())
}

impl Claim {
    fn read(mapping: &Value, path: &str, environment: &Environment) -> Result<Option<Self>, ConfigError> {
        match (text(mapping, "/claim"), text(mapping, "/expression")) {
            ("", "") => Ok(None),
            (claim, "") => {
                Ok(Some(Self::Named { claim: claim.to_owned(), prefix: text(mapping, "/prefix").to_owned() }))
            }
            ("", source) => {
                let program = expression(source, &format!("{path}.expression"), environment, &[])?;
                Ok(Some(Self::Computed(program)))
            }
            _ => Err(wrong(path, "Invalid value: claim and expression can't both be set")),
        }
    }
}

fn rules(list: &Value, path: &str, environment: &Environment) -> Result<Vec<Rule>, ConfigError> {
    let mut out = Vec::new();
    for (at, rule) in list.as_array().into_iter().flatten().enumerate() {
        let source = text(rule, "/expression");
        if source.is_empty() {
            continue;
        }
        let path = format!("{path}[{at}].expression");
        out.push((expression(source, &path, environment, &[Type::Bool])?, text(rule, "/message").to_owned()));
    }
    Ok(out)
}

fn expression(
    source: &str,
    path: &str,
    environment: &Environment,
    types: &[Type],
) -> Result<Arc<Program>, ConfigError> {
    let program = compile(source, environment).map_err(|e| wrong(path, format!("Invalid value: {source:?}: {e}")))?;
    if let Some(wanted) = types.first()
        && program.result_type() != wanted
    {
        return Err(wrong(path, format!("Invalid value: {source:?}: must evaluate to {wanted}")));
    }
    Ok(Arc::new(program))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_told() {
        let read = |jwt: Value| {
            let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [jwt]});
            AuthenticationConfig::read(&config).expect_err("an error").to_string()
        };
        assert_eq!(read(json!({})), "jwt[0].issuer.url: Required value: URL is required");
        let issuer = json!({"url": "https://a.b", "audiences": ["x"]});
        assert_eq!(
            read(json!({"issuer": issuer})),
            "jwt[0].claimMappings.username: Required value: claim or expression is required"
        );
        let wrong = json!({"issuer": issuer, "claimMappings": {"username": {"expression": "claim.sub"}}});
        assert!(read(wrong).contains("undeclared reference to 'claim'"));
        let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]}});
        let config = AuthenticationConfig::read(&config).expect("a configuration");
        assert_eq!((config.anonymous, config.anonymous_paths), (Some(true), vec!["/livez".to_owned()]));
    }
}
