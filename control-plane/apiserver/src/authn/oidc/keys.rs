//! An issuer's keys: fetched in the background, kept, and fetched anew when a token is signed by one that is not known.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::JwkSet;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::config::Jwt;
use crate::webhook::{Target, WebhookClient};

/// How long after a failure, and after a look for keys that tokens want, the next look is.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys are fetched at least this often.
const REFRESH: Duration = Duration::from_secs(3600);
const TIMEOUT: Duration = Duration::from_secs(30);

/// The keys that are known.
pub(super) struct Keys {
    known: ArcSwapOption<JwkSet>,
    wanted: Notify,
}

impl Keys {
    /// Fetches an issuer's keys from now on, for as long as somebody holds them.
    pub fn follow(client: WebhookClient, jwt: &Jwt) -> Arc<Self> {
        let keys = Arc::new(Self { known: ArcSwapOption::empty(), wanted: Notify::new() });
        let held = Arc::downgrade(&keys);
        let (url, discovery, authorities) = (jwt.url.clone(), jwt.discovery_url.clone(), jwt.authorities.clone());
        tokio::spawn(async move {
            loop {
                let fetched = fetch(&client, &url, &discovery, &authorities).await;
                let Some(keys) = held.upgrade() else { return };
                match fetched {
                    Ok(set) => keys.known.store(Some(Arc::new(set))),
                    Err(why) => tracing::warn!("oidc authenticator: initializing plugin: {url}: {why}"),
                }
                sleep(PAUSE).await;
                if keys.known.load().is_some() {
                    let _ = tokio::time::timeout(REFRESH, keys.wanted.notified()).await;
                }
            }
        });
        keys
    }

    /// What is known; `None` before the first success.
    pub fn load(&self) -> Option<Arc<JwkSet>> {
        self.known.load_full()
    }

    /// Somebody has a token by a key that is not known.
    pub fn refresh(&self) {
        self.wanted.notify_one();
    }
}

async fn fetch(client: &WebhookClient, url: &str, discovery: &str, authorities: &[u8]) -> Result<JwkSet, String> {
    let get = async |url: &str| {
        let target = Target { url: url.to_owned(), service: None, authorities: authorities.to_vec() };
        client.get(&target, TIMEOUT).await.map_err(|e| e.to_string())
    };
    let description = get(discovery).await?;
    let description: Value =
        serde_json::from_slice(&description).map_err(|e| format!("no JSON at {discovery}: {e}"))?;
    let issuer = description["issuer"].as_str().unwrap_or_default();
    if issuer != url {
        return Err(format!(
            "oidc: issuer URL provided to client ({url:?}) did not match the issuer URL returned by provider ({issuer:?})"
        ));
    }
    let at = description["jwks_uri"].as_str().ok_or("the issuer's description has no jwks_uri")?;
    let set: Value = serde_json::from_slice(&get(at).await?).map_err(|e| format!("no JSON at {at}: {e}"))?;
    // Keys of types that are not known are left out, not fatal.
    let keys = set["keys"].as_array().into_iter().flatten();
    let keys = keys.filter_map(|key| serde_json::from_value(key.clone()).ok()).collect();
    Ok(JwkSet { keys })
}
