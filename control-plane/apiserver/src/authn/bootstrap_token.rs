//! Bootstrap tokens: what a node joins with (upstream `plugin/pkg/auth/authenticator/token/bootstrap`).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use xebec_clock::Clock;
use xebec_pki::{BootstrapToken, hash_secret, verify_secret};

use super::UserInfo;
use super::token::{TokenMethod, TokenUser};
use crate::json::{decode, text};
use crate::reader::Reader;

const GROUP: &str = "system:bootstrappers";

/// Checks bootstrap tokens against the Secrets `bootstrap-token-<id>` of `kube-system`.
pub struct BootstrapTokens {
    reader: Arc<dyn Reader>,
    clock: Clock,
}

impl BootstrapTokens {
    /// Secrets are read from `reader`; `clock` says whether a token has expired.
    pub fn new(reader: Arc<dyn Reader>, clock: &Clock) -> Self {
        Self { reader, clock: clock.clone() }
    }

    fn check_secret(&self, secret: &Value, token: &BootstrapToken) -> Result<UserInfo, String> {
        if text(secret, "/type") != "bootstrap.kubernetes.io/token" || data(secret, "token-id") != token.id() {
            return Err("the secret of this id is no bootstrap token".into());
        }
        // We keep a hash; a Secret made by kubeadm or by hand has the secret itself.
        let hash = match data(secret, "token-secret-hash") {
            hash if hash.is_empty() => hash_secret(&data(secret, "token-secret")),
            hash => hash,
        };
        if !verify_secret(&hash, token.secret()) {
            return Err("the token's secret is wrong".into());
        }
        let expiration = data(secret, "expiration");
        if !expiration.is_empty() {
            let at: Timestamp = expiration.parse().map_err(|e| format!("the token's expiration is unreadable: {e}"))?;
            if self.clock.now() >= at {
                return Err("the token has expired".into());
            }
        }
        if data(secret, "usage-bootstrap-authentication") != "true" {
            return Err("the token is not for authentication".into());
        }
        let mut groups = vec![GROUP.to_owned()];
        for group in data(secret, "auth-extra-groups").split(',').filter(|g| !g.is_empty()) {
            if !is_extra_group(group) {
                return Err(format!("the token's group {group:?} is not one of {GROUP}:*"));
            }
            groups.push(group.to_owned());
        }
        Ok(UserInfo { name: format!("system:bootstrap:{}", token.id()), groups, ..UserInfo::default() })
    }
}

impl TokenMethod for BootstrapTokens {
    fn check(&self, token: &str, _audiences: &[String]) -> Result<Option<TokenUser>, String> {
        let Ok(token) = token.parse::<BootstrapToken>() else { return Ok(None) };
        let name = format!("bootstrap-token-{}", token.id());
        let Some(entry) = self.reader.get("", "secrets", "kube-system", &name) else {
            return Err("there is no bootstrap token of this id".into());
        };
        let secret = decode(&entry.bytes);
        if !text(&secret, "/metadata/deletionTimestamp").is_empty() {
            return Err("the token is being deleted".into());
        }
        let user = self.check_secret(&secret, &token)?;
        Ok(Some(TokenUser { user, audiences: Vec::new() }))
    }
}

fn data(secret: &Value, key: &str) -> String {
    let encoded = secret.get("data").and_then(|d| d.get(key)).and_then(Value::as_str).unwrap_or_default();
    STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`.
fn is_extra_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=256).contains(&rest.len())
        && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::json;
    use xebec_clock::Random;

    use super::*;
    use crate::test_reader::FakeReader;

    #[test]
    fn a_stored_token_authenticates_until_it_expires() {
        let (clock, reader) = (Clock::system(), FakeReader::new());
        let tokens = BootstrapTokens::new(reader.clone(), &clock);
        let token = BootstrapToken::generate(&Random::seeded(1));
        let check = |token: &BootstrapToken| tokens.check(&token.to_string(), &[]).map(|found| found.unwrap().user);
        assert!(check(&token).is_err());
        let later = clock.now() + SignedDuration::from_hours(1);
        reader.put("", "secrets", token.to_secret(Some(later), &["system:bootstrappers:xebec:nodes"], ""));
        let user = check(&token).unwrap();
        assert_eq!(user.name, format!("system:bootstrap:{}", token.id()));
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:xebec:nodes"]);

        let wrong = format!("{}.0123456789abcdef", token.id()).parse().unwrap();
        assert!(check(&wrong).is_err());
        reader.put("", "secrets", token.to_secret(Some(clock.now() - SignedDuration::from_secs(1)), &[], ""));
        assert_eq!(check(&token).unwrap_err(), "the token has expired");
        reader.put("", "secrets", token.to_secret(None, &["system:masters"], ""));
        assert!(check(&token).unwrap_err().contains("system:masters"));
        assert_eq!(tokens.check("a.b.c", &[]).unwrap(), None);
    }

    #[test]
    fn a_token_made_by_kubeadm_works() {
        let (clock, reader) = (Clock::system(), FakeReader::new());
        let encode = |text: &str| STANDARD.encode(text);
        reader.put(
            "",
            "secrets",
            json!({
                "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
                "type": "bootstrap.kubernetes.io/token",
                "data": {"token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
                    "usage-bootstrap-authentication": encode("true")},
            }),
        );
        let tokens = BootstrapTokens::new(reader, &clock);
        assert!(tokens.check("abcdef.0123456789abcdef", &[]).unwrap().is_some());
        assert!(tokens.check("abcdef.0123456789abcdee", &[]).is_err());
    }
}
