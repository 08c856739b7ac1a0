//! Tokens of OpenID Connect issuers, by structured configuration (apiserver `authentication/.../oidc`, KEP-3331).
//!
//! - [`config`]: the `AuthenticationConfiguration`, checked and compiled;
//! - `keys`: the issuers' keys, fetched in the background and kept;
//! - here: a token's signature, its time, its audience, and the user that its claims make.

pub mod config;
mod keys;

use std::sync::Arc;

use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use xebec_clock::Clock;
use xebec_schema::cel::{Activation, Budget, Program, Val};

use self::config::{AuthenticationConfig, Claim, Jwt};
use self::keys::Keys;
use super::UserInfo;
use super::token::{TokenMethod, TokenUser};
use crate::webhook::WebhookClient;

/// How far an issuer's clock may be off (go-oidc's).
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 5 * 60;

/// Checks tokens of the configured issuers.
pub struct Oidc {
    issuers: Vec<Issuer>,
    clock: Clock,
}

struct Issuer {
    jwt: Jwt,
    keys: Arc<Keys>,
}

impl Oidc {
    /// For the issuers of a configuration, whose keys are fetched from now on.
    pub fn new(config: &AuthenticationConfig, client: &WebhookClient, clock: &Clock) -> Self {
        let issuer = |jwt: &Jwt| {
            let keys = Keys::follow(client.clone(), jwt);
            Issuer { jwt: jwt.clone(), keys }
        };
        Self { issuers: config.jwt.iter().map(issuer).collect(), clock: clock.clone() }
    }
}

impl TokenMethod for Oidc {
    fn check(&self, token: &str, _: &[String]) -> Result<Option<TokenUser>, String> {
        let Ok(unverified) = jsonwebtoken::dangerous::insecure_decode::<Value>(token) else { return Ok(None) };
        let said = unverified.claims["iss"].as_str().unwrap_or_default();
        let Some(issuer) = self.issuers.iter().find(|issuer| issuer.jwt.url == said) else { return Ok(None) };
        let claims = issuer.verified(token)?;
        issuer.jwt.check_times(&claims, self.clock.now().as_second())?;
        let user = issuer.jwt.user(&claims).map_err(|why| format!("oidc: {why}"))?;
        Ok(Some(TokenUser { user, audiences: Vec::new() }))
    }
}

impl Issuer {
    /// The claims of a token with a good signature.
    fn verified(&self, token: &str) -> Result<Value, String> {
        let failed = |why: &str| format!("oidc: verify token: {why}");
        let header = decode_header(token).map_err(|_| failed("oidc: malformed jwt"))?;
        let set = self.keys.load().ok_or("oidc: authenticator not initialized")?;
        let candidates = set.keys.iter().filter(|key| match (&header.kid, &key.common.key_id) {
            (Some(wanted), Some(known)) => wanted == known,
            _ => true,
        });
        let mut validation = Validation::new(header.alg);
        // Times and audiences are checked by the server's clock and configuration.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        for key in candidates {
            let Ok(key) = DecodingKey::from_jwk(key) else { continue };
            if let Ok(data) = decode::<Value>(token, &key, &validation) {
                return Ok(data.claims);
            }
        }
        // The issuer may have new keys.
        self.keys.refresh();
        Err(failed("failed to verify signature: failed to verify id token signature"))
    }
}

impl Jwt {
    fn check_times(&self, claims: &Value, now: i64) -> Result<(), String> {
        let expiry = claims["exp"].as_f64();
        #[expect(clippy::cast_precision_loss, reason = "seconds of this century are exact")]
        if expiry.is_none_or(|expiry| expiry <= now as f64) {
            return Err("oidc: verify token: oidc: token is expired".into());
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds of this century are exact")]
        if claims["nbf"].as_f64().is_some_and(|from| from > (now + NOT_BEFORE_LEEWAY_SECONDS) as f64) {
            return Err("oidc: verify token: oidc: current time is before the nbf (not before) time".into());
        }
        let audiences: Vec<&str> = match &claims["aud"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if self.audiences.iter().any(|wanted| audiences.contains(&wanted.as_str())) {
            return Ok(());
        }
        Err(format!("oidc: verify token: oidc: expected audience in {:?} got {audiences:?}", self.audiences))
    }

    /// The user that the claims make.
    fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        for (claim, wanted) in &self.required {
            let value = claims.get(claim).ok_or_else(|| format!("required claim {claim} not present in ID token"))?;
            if value.as_str() != Some(wanted) {
                return Err(format!("required claim {claim} value does not match. Got = {value}, want = {wanted}"));
            }
        }
        let on = Activation::new().value("claims", claims);
        let mut budget = Budget::default();
        for (program, message) in &self.claim_rules {
            hold(program, message, &on, &mut budget, "claims validation")?;
        }
        let name = match &self.username {
            Claim::Named { claim, prefix } => format!("{prefix}{}", self.username_claim(claims, claim)?),
            Claim::Computed(program) => text(program, &on, &mut budget, "username")?,
        };
        if name.is_empty() {
            return Err("username claim value is empty".into());
        }
        let mut user = UserInfo { name, ..UserInfo::default() };
        match &self.groups {
            None => {}
            Some(Claim::Named { claim, prefix }) => {
                user.groups = strings(&claims[claim]).into_iter().map(|group| format!("{prefix}{group}")).collect();
            }
            Some(Claim::Computed(program)) => user.groups = values(program, &on, &mut budget, "groups")?,
        }
        match &self.uid {
            None => {}
            Some(Claim::Named { claim, .. }) => user.uid = claims[claim].as_str().unwrap_or_default().to_owned(),
            Some(Claim::Computed(program)) => user.uid = text(program, &on, &mut budget, "uid")?,
        }
        for (key, program) in &self.extra {
            let values = values(program, &on, &mut budget, "extra")?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        self.check_user(&user, &mut budget)?;
        Ok(user)
    }

    fn username_claim<'c>(&self, claims: &'c Value, claim: &str) -> Result<&'c str, String> {
        let absent = || format!("parse username claims {claim:?}: claim not present");
        let name = claims.get(claim).ok_or_else(absent)?.as_str();
        let name = name.ok_or_else(|| format!("parse username claims {claim:?}: claim is no string"))?;
        // An address that nobody has verified could be anybody's.
        if claim == "email" && claims.get("email_verified").is_some_and(|verified| *verified != true) {
            return Err("email not verified".into());
        }
        Ok(name)
    }

    fn check_user(&self, user: &UserInfo, budget: &mut Budget) -> Result<(), String> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        let on = Activation::new().value("user", &shown);
        for (program, message) in &self.user_rules {
            hold(program, message, &on, budget, "user info validation")?;
        }
        Ok(())
    }
}

fn hold<'a>(
    program: &'a Program,
    message: &str,
    on: &Activation<'a>,
    budget: &mut Budget,
    what: &str,
) -> Result<(), String> {
    match program.evaluate_bool(on, budget) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "error evaluating {what} expression: validation expression '{}' failed: {message}",
            program.source()
        )),
        Err(error) => Err(format!(
            "error evaluating {what} expression: expression '{}' resulted in error: {error}",
            program.source()
        )),
    }
}

fn text<'a>(program: &'a Program, on: &Activation<'a>, budget: &mut Budget, what: &str) -> Result<String, String> {
    match program.evaluate(on, budget) {
        Ok(Val::Str(text)) => Ok(text.into_owned()),
        Ok(Val::Null) if what == "uid" => Ok(String::new()),
        Ok(_) => Err(format!("error evaluating {what} claim expression: expression must return a string")),
        Err(error) => Err(format!("error evaluating {what} claim expression: {error}")),
    }
}

fn values<'a>(
    program: &'a Program,
    on: &Activation<'a>,
    budget: &mut Budget,
    what: &str,
) -> Result<Vec<String>, String> {
    let value = program.evaluate(on, budget).and_then(|value| value.to_json());
    let value = value.map_err(|error| format!("error evaluating {what} claim expression: {error}"))?;
    Ok(strings(&value).into_iter().filter(|text| !text.is_empty()).collect())
}

/// A string or a list of them.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(more: Value) -> Jwt {
        let mut jwt = json!({"issuer": {"url": "https://id.example.com", "audiences": ["me"]},
            "claimMappings": {"username": {"claim": "sub", "prefix": "x:"}}});
        for (key, value) in more.as_object().unwrap() {
            jwt[key] = value.clone();
        }
        let config =
            json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [jwt]});
        AuthenticationConfig::read(&config).expect("a configuration").jwt.remove(0)
    }

    #[test]
    fn claims_make_users() {
        let plain = jwt(json!({})).user(&json!({"sub": "jane"})).expect("a user");
        assert_eq!(plain.name, "x:jane");
        let mapped = jwt(json!({
            "claimMappings": {
                "username": {"expression": "claims.email.split('@')[0]"},
                "groups": {"expression": "claims.roles.map(r, 'role:' + r)"},
                "uid": {"claim": "sub"},
                "extra": [{"key": "example.com/tenant", "valueExpression": "claims.tenant"}]},
            "claimValidationRules": [{"expression": "claims.hd == 'example.com'", "message": "wrong domain"},
                {"claim": "kind", "requiredValue": "user"}],
            "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}]}));
        let claims = json!({"sub": "1", "email": "jane@example.com", "email_verified": true, "hd": "example.com",
            "kind": "user", "roles": ["a", "b"], "tenant": "t"});
        let user = mapped.user(&claims).expect("a user");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("jane", "1"));
        assert_eq!(user.groups, ["role:a", "role:b"]);
        assert_eq!(user.extra["example.com/tenant"], ["t"]);
        let mut other = claims.clone();
        other["hd"] = "evil.com".into();
        assert!(mapped.user(&other).is_err_and(|why| why.ends_with("failed: wrong domain")));
        other = claims.clone();
        other["email"] = "system:admin@x".into();
        assert!(mapped.user(&other).is_err_and(|why| why.ends_with("failed: reserved")));
        other = claims;
        other["kind"] = "robot".into();
        assert!(mapped.user(&other).is_err_and(|why| why.starts_with("required claim kind value does not match")));
    }

    #[test]
    fn tokens_have_their_time_and_audience() {
        let jwt = jwt(json!({}));
        let check = |claims: Value| jwt.check_times(&claims, 1000).err().unwrap_or_default();
        assert_eq!(check(json!({"exp": 1001, "aud": "me"})), "");
        assert_eq!(check(json!({"exp": 1001, "aud": ["you", "me"]})), "");
        assert!(check(json!({"exp": 1000, "aud": "me"})).contains("token is expired"));
        assert!(check(json!({"aud": "me"})).contains("token is expired"));
        assert!(check(json!({"exp": 2000, "nbf": 1500, "aud": "me"})).contains("before the nbf"));
        assert!(check(json!({"exp": 2000, "aud": "you"})).contains("expected audience in [\"me\"] got [\"you\"]"));
    }
}
