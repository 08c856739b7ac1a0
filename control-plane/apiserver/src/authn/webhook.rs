//! A webhook that knows bearer tokens (apiserver `plugin/pkg/authenticator/token/webhook`).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::UserInfo;
use super::token::TokenUser;
use crate::json::{strings, text};
use crate::reader::Reader;
use crate::webhook::cache::Cache;
use crate::webhook::kubeconfig::{Kubeconfig, KubeconfigClient};

/// How long a review may take (upstream's).
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many answers are kept.
const MAX_CACHED: usize = 8192;

/// Where the webhook is, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct TokenWebhookConfig {
    /// Where it is.
    pub kubeconfig: Kubeconfig,
    /// How long its answers are good for.
    pub cache_ttl: Duration,
    /// The version of the reviews: `v1` or `v1beta1`.
    pub version: String,
}

/// Asks the webhook.
pub struct TokenWebhook {
    client: KubeconfigClient,
    config: TokenWebhookConfig,
    /// The API server's own.
    audiences: Vec<String>,
    cache: Cache<Option<TokenUser>>,
}

impl TokenWebhook {
    /// Asks on behalf of an API server with these audiences.
    pub fn new(config: TokenWebhookConfig, reader: Arc<dyn Reader>, audiences: Vec<String>) -> Self {
        Self { client: config.kubeconfig.client(reader), config, audiences, cache: Cache::new(MAX_CACHED) }
    }

    /// The token's user; `None` if the webhook does not accept it.
    ///
    /// # Errors
    ///
    /// The webhook cannot be asked, or says why it does not accept it. Neither is remembered.
    pub async fn check(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, String> {
        let wanted = if audiences.is_empty() { &self.audiences[..] } else { audiences };
        let question = json!([token, wanted]).to_string();
        if let Some(known) = self.cache.get(question.as_bytes()) {
            return Ok(known);
        }
        let review = json!({
            "apiVersion": format!("authentication.k8s.io/{}", self.config.version),
            "kind": "TokenReview",
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token, "audiences": wanted},
            "status": {"user": {}},
        });
        let answer = self.client.review(&review, TIMEOUT).await.map_err(|e| {
            tracing::error!("Failed to make webhook authenticator request: {e}");
            e.to_string()
        })?;
        let user = user(&answer["status"], wanted)?;
        self.cache.put(question.as_bytes(), user.clone(), self.config.cache_ttl);
        Ok(user)
    }
}

/// What a status says, to whoever wants the token to be for one of `wanted`.
fn user(status: &Value, wanted: &[String]) -> Result<Option<TokenUser>, String> {
    // A webhook that says nothing of audiences knows none, and speaks of the API server's.
    let said = strings(status, "/audiences");
    let audiences: Vec<String> =
        wanted.iter().filter(|wanted| said.is_empty() || said.contains(wanted)).cloned().collect();
    if audiences.is_empty() && !wanted.is_empty() {
        return Ok(None);
    }
    if status["authenticated"] != true {
        return match text(status, "/error") {
            "" => Ok(None),
            why => Err(why.to_owned()),
        };
    }
    let user = &status["user"];
    let extra = user["extra"].as_object().into_iter().flatten();
    let user = UserInfo {
        name: text(user, "/username").to_owned(),
        uid: text(user, "/uid").to_owned(),
        groups: strings(user, "/groups"),
        extra: extra.map(|(key, values)| (key.clone(), strings(values, ""))).collect(),
    };
    Ok(Some(TokenUser { user, audiences }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_makes_a_user() {
        let wanted = ["api".to_owned(), "vault".to_owned()];
        let jane = json!({"username": "jane", "uid": "1", "groups": ["dev"], "extra": {"k": ["v"]}});
        let found = user(&json!({"authenticated": true, "user": jane}), &wanted).unwrap().unwrap();
        assert_eq!((found.user.name.as_str(), found.user.groups), ("jane", vec!["dev".to_owned()]));
        assert_eq!((found.user.extra["k"].clone(), found.audiences), (vec!["v".to_owned()], wanted.to_vec()));
        let one = json!({"authenticated": true, "user": jane, "audiences": ["vault", "x"]});
        assert_eq!(user(&one, &wanted).unwrap().unwrap().audiences, ["vault"]);
        let other = json!({"authenticated": true, "user": jane, "audiences": ["x"]});
        assert_eq!(user(&other, &wanted), Ok(None));
        assert_eq!(user(&json!({"authenticated": false}), &wanted), Ok(None));
        assert_eq!(user(&json!({"error": "expired"}), &wanted), Err("expired".into()));
    }
}
