//! Service-account tokens that are kept in Secrets of the type `kubernetes.io/service-account-token` (upstream
//! `pkg/serviceaccount/legacy.go`): good while the Secret has them, and the account is there.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use xebec_pki::{SecretClaims, ServiceAccountKeys, TokenError};

use super::service_account::service_account_user;
use super::token::{TokenMethod, TokenUser};
use crate::json::text;
use crate::reader::Reader;

/// A Secret's token that is marked by this label is not accepted (upstream's cleaner sets it).
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// Checks tokens that are kept in Secrets.
pub struct SecretTokens {
    keys: Arc<ServiceAccountKeys>,
    reader: Arc<dyn Reader>,
    audiences: Vec<String>,
}

impl SecretTokens {
    /// `audiences` are the API server's own: such tokens are for nobody else.
    pub fn new(keys: Arc<ServiceAccountKeys>, reader: Arc<dyn Reader>, audiences: Vec<String>) -> Self {
        Self { keys, reader, audiences }
    }

    /// Whether the Secret still has the token, and the account is the one that it is for.
    fn check_bound(&self, token: &str, claims: &SecretClaims) -> Result<(), String> {
        let invalidated = || "service account token has been invalidated".to_owned();
        let read = |plural: &str, name: &str| -> Result<Value, String> {
            let entry = self.reader.get("", plural, &claims.namespace, name).ok_or_else(invalidated)?;
            let object: Value = serde_json::from_slice(&entry.bytes).map_err(|error| error.to_string())?;
            let deleted = !text(&object, "/metadata/deletionTimestamp").is_empty();
            if deleted { Err(invalidated()) } else { Ok(object) }
        };
        let secret = read("secrets", &claims.secret)?;
        let kept = STANDARD.decode(text(&secret, "/data/token")).unwrap_or_default();
        if kept != token.as_bytes() {
            return Err("service account token does not match server's copy".into());
        }
        let account = read("serviceaccounts", &claims.account)?;
        let uid = text(&account, "/metadata/uid");
        if uid != claims.account_uid {
            return Err(format!("service account UID ({uid}) does not match claim ({})", claims.account_uid));
        }
        if secret["metadata"]["labels"].get(INVALID_SINCE).is_some() {
            let (namespace, name) = (&claims.namespace, &claims.secret);
            return Err(format!(
                "the token in secret {namespace}/{name} for service account {namespace}/{} has been marked invalid. Use \
                 tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 '{INVALID_SINCE}' label from the secret to temporarily allow use of this token",
                claims.account
            ));
        }
        Ok(())
    }
}

impl TokenMethod for SecretTokens {
    fn check(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, String> {
        let claims = match self.keys.verify_for_secret(token) {
            Ok(claims) => claims,
            Err(TokenError::Foreign) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let audiences: Vec<String> = wanted.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Err(TokenError::Audience(self.audiences.clone(), wanted.to_vec()).to_string());
        }
        if claims.sub != format!("system:serviceaccount:{}:{}", claims.namespace, claims.account) {
            return Err("sub claim is invalid".into());
        }
        self.check_bound(token, &claims)?;
        let mut user = service_account_user(&claims.namespace, &claims.account);
        user.uid.clone_from(&claims.account_uid);
        Ok(Some(TokenUser { user, audiences }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use xebec_pki::{BoundObject, DEFAULT_ISSUER};

    use super::*;
    use crate::test_reader::FakeReader;

    #[test]
    fn a_token_is_good_while_its_secret_has_it() {
        let keys = Arc::new(ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap());
        let reader = FakeReader::new();
        let tokens = SecretTokens::new(keys.clone(), reader.clone(), vec!["api".into()]);
        let account = BoundObject { name: "builder".into(), uid: "builder-uid".into() };
        let token = keys.sign_for_secret(&SecretClaims::new("default", &account, "robot")).unwrap();
        let check = || tokens.check(&token, &[]);
        let put = |token: &str, labels: Value| {
            let metadata = json!({"name": "robot", "namespace": "default", "labels": labels});
            reader.put("", "secrets", json!({"metadata": metadata, "data": {"token": STANDARD.encode(token)}}));
        };
        assert_eq!(check().unwrap_err(), "service account token has been invalidated");
        put(&token, json!({}));
        assert_eq!(check().unwrap_err(), "service account token has been invalidated", "the account is missing");
        reader.put("", "serviceaccounts", json!({"metadata": {"name": "builder", "namespace": "default"}}));
        let found = check().unwrap().unwrap();
        assert_eq!(found.user.name, "system:serviceaccount:default:builder");
        assert_eq!((found.user.uid.as_str(), &found.audiences[..]), ("builder-uid", &["api".to_owned()][..]));
        assert!(tokens.check(&token, &["vault".to_owned()]).is_err(), "it is for the API server alone");
        put(&token, json!({INVALID_SINCE: "2026-01-01"}));
        assert!(check().unwrap_err().contains("has been marked invalid"));
        put("another", json!({}));
        assert_eq!(check().unwrap_err(), "service account token does not match server's copy");
        let elsewhere = ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap();
        let forged = elsewhere.sign_for_secret(&SecretClaims::new("default", &account, "robot")).unwrap();
        assert!(tokens.check(&forged, &[]).is_err());
        assert_eq!(tokens.check("x.y.z", &[]), Ok(None));
    }
}
