//! Bearer tokens: where a request carries one, and who understands it.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use xebec_schema::status::Status;

use super::webhook::TokenWebhook;
use super::{Authenticator, UserInfo};

/// A token's user, and the audiences it is good for among those that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUser {
    /// The user.
    pub user: UserInfo,
    /// Never empty for a method that knows audiences; empty for one that does not.
    pub audiences: Vec<String>,
}

/// A kind of bearer token.
pub trait TokenMethod: Send + Sync + 'static {
    /// The token's user, `None` if the token is of another kind, or why (for people, and for TokenReview) it is of
    /// this kind and not good. `audiences` are those of whom the token is presented to; empty means the API server.
    fn check(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, String>;
}

/// All kinds of bearer tokens that the server accepts.
#[derive(Clone)]
pub struct Tokens {
    methods: Arc<[Arc<dyn TokenMethod>]>,
    webhook: Option<Arc<TokenWebhook>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tokens").field(&self.methods.len()).finish()
    }
}

impl Tokens {
    /// Asks `methods` in this order.
    pub fn new(methods: Vec<Arc<dyn TokenMethod>>) -> Self {
        Self { methods: methods.into(), webhook: None }
    }

    /// Asks `webhook` about what no other method accepts.
    #[must_use]
    pub fn and_webhook(self, webhook: Option<Arc<TokenWebhook>>) -> Self {
        Self { webhook, ..self }
    }

    /// The token's user; `None` if no method knows it; an error if one knows it and it is not good.
    ///
    /// # Errors
    ///
    /// The reason, for people.
    pub async fn check(&self, token: &str, audiences: &[String]) -> Result<Option<TokenUser>, String> {
        let mut refused = None;
        for method in self.methods.iter() {
            match method.check(token, audiences) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.check(token, audiences).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        refused.map_or(Ok(None), Err)
    }
}

#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, request: &http::request::Parts) -> Result<Option<UserInfo>, Status> {
        let Some(token) = bearer(&request.headers) else { return Ok(None) };
        match self.check(&token, &[]).await {
            Ok(Some(found)) => Ok(Some(found.user)),
            // A token that nobody knows is a bad credential, not an absent one.
            Ok(None) => Err(Status::unauthorized()),
            Err(why) => {
                tracing::debug!(why, "bearer token refused");
                Err(Status::unauthorized())
            }
        }
    }
}

/// What a browser, which cannot set headers on a WebSocket, sends the token in (upstream
/// `authentication/request/websocket`).
const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = headers.get_all("sec-websocket-protocol").iter().filter_map(|v| v.to_str().ok());
    let encoded = protocols.flat_map(|v| v.split(',')).find_map(|p| p.trim().strip_prefix(PROTOCOL_PREFIX))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok().filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_where_clients_put_them() {
        let find = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            bearer(&headers)
        };
        assert_eq!(find("authorization", "Bearer abc").as_deref(), Some("abc"));
        assert_eq!(find("authorization", "bearer  abc ").as_deref(), Some("abc"));
        assert_eq!(find("authorization", "Basic abc"), None);
        assert_eq!(find("authorization", "Bearer "), None);
        let protocols = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        assert_eq!(find("sec-websocket-protocol", protocols).as_deref(), Some("abc"));
    }
}
