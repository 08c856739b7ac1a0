//! Tokens of an OpenID Connect issuer, from its description to the user.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};
use jiff::SignedDuration;
use serde_json::json;
use xebec_apiserver::authn::oidc::config::AuthenticationConfig;
use xebec_clock::Clock;
use xebec_pki::{BoundObject, ServiceAccountKeys, TokenRequest};

use super::harness::{Cluster, standard, who};
use super::hook::Hook;

/// An issuer, which signs as service accounts do elsewhere.
struct Issuer {
    hook: Hook,
    url: String,
    keys: Arc<OnceLock<ServiceAccountKeys>>,
}

impl Issuer {
    async fn start() -> Self {
        let keys: Arc<OnceLock<ServiceAccountKeys>> = Arc::default();
        let served = keys.clone();
        let hook = Hook::local(move |asked| {
            let keys = served.get().expect("asked after the start");
            let jwks = format!("{}/keys", keys.issuer());
            match asked["path"].as_str() {
                Some("/.well-known/openid-configuration") => (200, keys.openid_configuration(&jwks).to_string().into()),
                Some("/keys") => (200, keys.jwks().to_string().into()),
                _ => (404, Vec::new()),
            }
        })
        .await;
        let url = format!("https://localhost:{}", hook.address.port());
        assert!(keys.set(ServiceAccountKeys::ephemeral(&url).unwrap()).is_ok());
        Self { hook, url, keys }
    }

    fn config(&self) -> AuthenticationConfig {
        let jwt = json!({
            "issuer": {"url": self.url, "audiences": ["cluster"], "certificateAuthority": self.hook.authority},
            "claimMappings": {
                "username": {"expression": "'oidc:' + claims.sub.split(':')[3]"},
                "groups": {"expression": "[claims['kubernetes.io'].namespace]"}},
            "userValidationRules": [{"expression": "user.username != 'oidc:mallory'", "message": "not you"}]});
        let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [jwt], "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]}});
        AuthenticationConfig::read(&config).unwrap()
    }

    fn token(&self, name: &str, audience: &str, lifetime: SignedDuration) -> String {
        let audiences = [audience.to_owned()];
        let now = Clock::system().now();
        let request = TokenRequest {
            namespace: "people",
            service_account: BoundObject { name: name.to_owned(), uid: "u".into() },
            pod: None,
            secret: None,
            node: None,
            audiences: &audiences,
            issued: now,
            expires: now.checked_add(lifetime).unwrap(),
            warn_after: None,
            id: "i",
        };
        self.keys.get().unwrap().sign(&request).unwrap()
    }
}

async fn anonymous(cluster: &Cluster, path: &str) -> u16 {
    let body = Full::new(bytes::Bytes::new()).map_err(|e| match e {}).boxed_unsync();
    cluster.server.handle(Request::get(path).body(body).unwrap()).await.status().as_u16()
}

#[tokio::test]
async fn an_issuers_tokens_make_users() {
    let issuer = Issuer::start().await;
    let mut standard = standard();
    standard.options.authentication = issuer.config();
    let cluster = Cluster::with(standard).await;
    let hour = SignedDuration::from_hours(1);
    let token = issuer.token("jane", "cluster", hour);
    // The keys are fetched in the background.
    let fetched = async {
        while who(&cluster, &token).await.0 == 401 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), fetched).await.expect("the keys are fetched");
    let (code, review) = who(&cluster, &token).await;
    assert_eq!(code, 201, "{review}");
    assert_eq!(review["status"]["userInfo"]["username"], "oidc:jane");
    assert_eq!(review["status"]["userInfo"]["groups"], json!(["people", "system:authenticated"]));
    assert_eq!(who(&cluster, &issuer.token("jane", "others", hour)).await.0, 401, "for somebody else");
    assert_eq!(who(&cluster, &issuer.token("jane", "cluster", -hour)).await.0, 401, "out of date");
    assert_eq!(who(&cluster, &issuer.token("mallory", "cluster", hour)).await.0, 401, "against a rule");
    let forged = Issuer { keys: Arc::default(), ..Issuer::start().await };
    assert!(forged.keys.set(ServiceAccountKeys::ephemeral(&issuer.url).unwrap()).is_ok());
    assert_eq!(who(&cluster, &forged.token("jane", "cluster", hour)).await.0, 401, "not signed by the issuer");
    assert_eq!((anonymous(&cluster, "/livez").await, anonymous(&cluster, "/version").await), (200, 401));
}
