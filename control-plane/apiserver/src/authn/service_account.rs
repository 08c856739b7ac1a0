//! Service-account tokens: good while the account, and what the token is bound to, exist.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use xebec_clock::Clock;
use xebec_pki::{BoundObject, Claims, ServiceAccountKeys, TokenError};

use super::UserInfo;
use super::token::{TokenMethod, TokenUser};
use crate::reader::Reader;

/// How many tokens whose signature was good are remembered; all are forgotten when there are more.
const REMEMBERED: usize = 4096;
/// For how long a token outlives the deletion of what it is bound to, so that a pod can finish its work (upstream).
const DELETION_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// A token's SHA-256, and the audiences it was checked for.
type Checked = ([u8; 32], Vec<String>);

/// Checks service-account tokens.
pub struct ServiceAccountTokens {
    keys: Arc<ServiceAccountKeys>,
    reader: Arc<dyn Reader>,
    clock: Clock,
    audiences: Vec<String>,
    /// The tokens whose signature was good: checking a signature takes longer than all the
    /// rest of a request.
    verified: Mutex<HashMap<Checked, Arc<Claims>>>,
}

impl ServiceAccountTokens {
    /// `audiences` are the API server's own; the first is the default of new tokens.
    pub fn new(keys: Arc<ServiceAccountKeys>, reader: Arc<dyn Reader>, clock: &Clock, audiences: Vec<String>) -> Self {
        Self { keys, reader, clock: clock.clone(), audiences, verified: Mutex::default() }
    }

    fn claims(&self, token: &str, audiences: &[String]) -> Result<Option<Arc<Claims>>, String> {
        let now = self.clock.now();
        let key = (Sha256::digest(token.as_bytes()).into(), audiences.to_vec());
        if let Some(claims) = self.verified.lock().get(&key) {
            // The signature does not change, the time does.
            return if now.as_second() < claims.exp {
                Ok(Some(claims.clone()))
            } else {
                Err(TokenError::Expired.to_string())
            };
        }
        let claims = match self.keys.verify(token, audiences, now) {
            Ok(claims) => Arc::new(claims),
            Err(TokenError::Foreign) => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(key, claims.clone());
        Ok(Some(claims))
    }

    /// Whether the object that the token names is there, is the same, and is not long deleted.
    fn check_bound(&self, plural: &str, what: &str, namespace: &str, object: &BoundObject) -> Result<(), String> {
        let Some(entry) = self.reader.get("", plural, namespace, &object.name) else {
            return Err(format!("{what} {:?} not found: the service account token has been invalidated", object.name));
        };
        if *entry.uid != *object.uid {
            return Err(format!("{what} UID ({}) does not match claim ({})", entry.uid, object.uid));
        }
        match deleted_at(&entry.bytes) {
            Some(at) if self.clock.now().duration_since(at) > DELETION_LEEWAY => {
                Err(format!("{what} {:?} has been deleted", object.name))
            }
            _ => Ok(()),
        }
    }
}

/// When the object was deleted, if it was. This is asked at every request: nothing else of the object is decoded.
fn deleted_at(bytes: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default, rename = "deletionTimestamp")]
        deleted: Option<Timestamp>,
    }
    serde_json::from_slice::<Object>(bytes).ok()?.metadata.deleted
}

impl TokenMethod for ServiceAccountTokens {
    fn check(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, String> {
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let Some(claims) = self.claims(token, wanted)? else { return Ok(None) };
        let bound = &claims.kubernetes;
        let account = &bound.serviceaccount;
        if claims.sub != format!("system:serviceaccount:{}:{}", bound.namespace, account.name) {
            return Err("the token's subject is not its service account".into());
        }
        self.check_bound("serviceaccounts", "service account", &bound.namespace, account)?;
        if let Some(pod) = &bound.pod {
            self.check_bound("pods", "pod", &bound.namespace, pod)?;
        } else if let Some(node) = &bound.node {
            self.check_bound("nodes", "node", "", node)?;
        }
        if let Some(secret) = &bound.secret {
            self.check_bound("secrets", "secret", &bound.namespace, secret)?;
        }
        let audiences = wanted.iter().filter(|a| claims.aud.0.contains(a)).cloned().collect();
        Ok(Some(TokenUser { user: user_of(&claims), audiences }))
    }
}

/// The user that a service account is.
pub fn service_account_user(namespace: &str, name: &str) -> UserInfo {
    UserInfo {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        uid: String::new(),
        groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
        extra: BTreeMap::new(),
    }
}

fn user_of(claims: &Claims) -> UserInfo {
    let bound = &claims.kubernetes;
    let mut user = service_account_user(&bound.namespace, &bound.serviceaccount.name);
    user.uid = bound.serviceaccount.uid.clone();
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        extra("credential-id", &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &bound.pod {
        extra("pod-name", &pod.name);
        extra("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        extra("node-name", &node.name);
        extra("node-uid", &node.uid);
    }
    user
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use xebec_pki::{DEFAULT_ISSUER, TokenRequest};

    use super::*;
    use crate::test_reader::FakeReader;

    fn object(name: &str) -> BoundObject {
        BoundObject { name: name.into(), uid: format!("{name}-uid") }
    }

    fn token(keys: &ServiceAccountKeys, clock: &Clock, audience: &str) -> String {
        keys.sign(&TokenRequest {
            namespace: "default",
            service_account: object("builder"),
            pod: Some(object("web")),
            secret: None,
            node: Some(object("n1")),
            audiences: &[audience.to_owned()],
            issued: clock.now(),
            expires: clock.now() + SignedDuration::from_hours(1),
            warn_after: None,
            id: "j1",
        })
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_while_what_it_names_exists() {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let keys = Arc::new(ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap());
        let reader = FakeReader::new();
        let methods = ServiceAccountTokens::new(keys.clone(), reader.clone(), &clock, vec!["api".into()]);
        let token = token(&keys, &clock, "api");
        let check = || methods.check(&token, &[]);
        assert!(check().unwrap_err().contains("\"builder\" not found"));
        reader.put("", "serviceaccounts", json!({"metadata": {"name": "builder", "namespace": "default"}}));
        assert!(check().unwrap_err().contains("pod \"web\" not found"));
        reader.put("", "pods", json!({"metadata": {"name": "web", "namespace": "default"}}));
        let found = check().unwrap().unwrap();
        assert_eq!(found.user.name, "system:serviceaccount:default:builder");
        assert_eq!(found.user.groups, ["system:serviceaccounts", "system:serviceaccounts:default"]);
        assert_eq!(found.user.extra["authentication.kubernetes.io/pod-name"], ["web"]);
        assert_eq!(found.user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j1"]);
        assert_eq!(found.audiences, ["api"]);

        reader.put("", "pods", json!({"metadata": {"name": "web", "namespace": "default", "uid": "another"}}));
        assert_eq!(check().unwrap_err(), "pod UID (another) does not match claim (web-uid)");
        let deleted = json!({"metadata": {"name": "web", "namespace": "default",
            "deletionTimestamp": "2026-01-01T00:00:30Z"}});
        reader.put("", "pods", deleted);
        assert!(check().unwrap().is_some(), "a deleted pod may still finish its work");
        tokio::time::sleep(std::time::Duration::from_secs(100)).await;
        assert_eq!(check().unwrap_err(), "pod \"web\" has been deleted");
        reader.put("", "pods", json!({"metadata": {"name": "web", "namespace": "default"}}));
        tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
        assert_eq!(check().unwrap_err(), "service account token has expired");
    }

    #[test]
    fn a_token_for_somebody_else_is_not_for_us() {
        let clock = Clock::system();
        let keys = Arc::new(ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap());
        let reader = FakeReader::new();
        reader.put("", "serviceaccounts", json!({"metadata": {"name": "builder", "namespace": "default"}}));
        reader.put("", "pods", json!({"metadata": {"name": "web", "namespace": "default"}}));
        let methods = ServiceAccountTokens::new(keys.clone(), reader, &clock, vec!["api".into()]);
        let token = token(&keys, &clock, "vault");
        assert!(methods.check(&token, &[]).is_err());
        let found = methods.check(&token, &["vault".to_owned(), "x".to_owned()]).unwrap().unwrap();
        assert_eq!(found.audiences, ["vault"]);
        assert_eq!(methods.check("abcdef.0123456789abcdef", &[]).unwrap(), None);
    }
}
