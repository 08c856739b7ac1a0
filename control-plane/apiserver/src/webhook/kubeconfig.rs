//! Webhooks that are configured by a kubeconfig: those for tokens and for authorization.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Uri};
use http_body_util::Full;
use rustls::ClientConfig;
use serde_json::Value;

use super::client::{Http, direct, exchange};
use super::{CallError, tls};
use crate::json::{list, text};
use crate::reader::Reader;

/// The first pause before a call is tried again, and how often it is tried (apiserver `util/webhook`).
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const TRIES: u32 = 5;

/// A webhook, and who we are to it.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    url: String,
    tls: Arc<ClientConfig>,
    authorization: Option<HeaderValue>,
}

/// What is wrong with a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct KubeconfigError {
    /// The file.
    pub path: PathBuf,
    /// What, with the field.
    pub why: String,
}

impl Kubeconfig {
    /// Reads the file, and those that it refers to.
    ///
    /// # Errors
    ///
    /// One of the files cannot be read, or does not say what it has to.
    pub fn read(path: &Path) -> Result<Self, KubeconfigError> {
        let wrong = |why: String| KubeconfigError { path: path.to_owned(), why };
        let content = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let file: Value = serde_saphyr::from_str(&content).map_err(|e| wrong(e.to_string()))?;
        Self::parse(&file, path.parent().unwrap_or(Path::new("/"))).map_err(wrong)
    }

    fn parse(file: &Value, dir: &Path) -> Result<Self, String> {
        let named = |kind: &str, name: &str| {
            let found = list(file, &format!("/{kind}s")).iter().find(|entry| entry["name"] == name);
            found.map(|entry| &entry[kind]).ok_or_else(|| format!("{kind} {name:?} does not exist"))
        };
        let context = match text(file, "/current-context") {
            "" => return Err("current-context is required".into()),
            name => named("context", name)?,
        };
        let cluster = named("cluster", text(context, "/cluster"))?;
        let user = match text(context, "/user") {
            "" => &Value::Null,
            name => named("user", name)?,
        };
        let unsupported = |of: &Value, fields: &[&str]| {
            let found = fields.iter().find(|field| of.get(**field).is_some_and(|value| !value.is_null()));
            found.map_or(Ok(()), |field| Err(format!("{field} is not supported for webhooks")))
        };
        unsupported(cluster, &["proxy-url", "tls-server-name"])?;
        unsupported(user, &["exec", "auth-provider", "tokenFile", "as", "as-groups"])?;
        let url = text(cluster, "/server").to_owned();
        if !url.starts_with("https://") || url.parse::<Uri>().is_err() {
            return Err(format!("server: {url:?} must be a URL with the scheme https"));
        }
        let mut tls = tls::config(pem(cluster, "certificate-authority", dir)?.unwrap_or_default().as_bytes())?;
        if cluster["insecure-skip-tls-verify"] == true {
            tls::believe(&mut tls);
        }
        match (pem(user, "client-certificate", dir)?, pem(user, "client-key", dir)?) {
            (Some(certificate), Some(key)) => tls::show(&mut tls, &certificate, &key)?,
            (None, None) => {}
            _ => return Err("client-certificate and client-key belong together".into()),
        }
        let authorization = match (text(user, "/token"), text(user, "/username")) {
            ("", "") => None,
            ("", name) => Some(format!("Basic {}", STANDARD.encode(format!("{name}:{}", text(user, "/password"))))),
            (token, _) => Some(format!("Bearer {token}")),
        };
        let header = authorization.map(|value| HeaderValue::from_str(&value)).transpose();
        let authorization = header.map_err(|_| "token: it can't be sent in a header".to_owned())?;
        Ok(Self { url, tls: Arc::new(tls), authorization })
    }

    /// A client of the webhook.
    pub fn client(&self, reader: Arc<dyn Reader>) -> KubeconfigClient {
        let Self { url, tls, authorization } = self.clone();
        KubeconfigClient { url, authorization, http: direct(reader, tls) }
    }
}

/// What `<field>-data` says, or the file that `field` names.
fn pem(of: &Value, field: &str, dir: &Path) -> Result<Option<String>, String> {
    let data = of[format!("{field}-data")].as_str().unwrap_or_default();
    if !data.is_empty() {
        let bytes = STANDARD.decode(data).map_err(|e| format!("{field}-data: {e}"))?;
        return String::from_utf8(bytes).map(Some).map_err(|e| format!("{field}-data: {e}"));
    }
    match of[field].as_str().unwrap_or_default() {
        "" => Ok(None),
        path => fs::read_to_string(dir.join(path)).map(Some).map_err(|e| format!("{field}: {path}: {e}")),
    }
}

/// Calls one webhook.
pub struct KubeconfigClient {
    url: String,
    http: Http,
    authorization: Option<HeaderValue>,
}

impl KubeconfigClient {
    /// POSTs a review, and answers the answer. What may go away by itself is tried again, all within `timeout`.
    ///
    /// # Errors
    ///
    /// In the words of Go's client.
    pub async fn review(&self, review: &Value, timeout: Duration) -> Result<Value, CallError> {
        let body = Bytes::from(review.to_string());
        let call = async {
            let mut pause = FIRST_PAUSE;
            for _ in 1..TRIES {
                match self.post(body.clone()).await {
                    Err(error) if passes(&error) => tokio::time::sleep(pause).await,
                    done => return done,
                }
                pause = pause * 3 / 2;
            }
            self.post(body.clone()).await
        };
        let late = || Err(CallError::Timeout { url: self.url.clone() });
        let answer = tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| late())?;
        serde_json::from_slice(&answer)
            .map_err(|e| CallError::Transport { url: self.url.clone(), why: format!("the answer is no JSON: {e}") })
    }

    async fn post(&self, body: Bytes) -> Result<Bytes, CallError> {
        let mut request = Request::post(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .body(Full::new(body))
            .map_err(|e| CallError::Target(e.to_string()))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        exchange(&self.http, request, &self.url).await
    }
}

/// Errors that may be gone the next time (upstream's `DefaultShouldRetry`).
fn passes(error: &CallError) -> bool {
    match error {
        CallError::Answer { code, .. } => matches!(code, 429 | 500 | 503 | 504),
        CallError::Transport { why, .. } => why == "EOF" || why.contains("reset"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(cluster: Value, user: Value) -> Result<Kubeconfig, String> {
        let file = json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "hook", "user": "us"}}],
            "clusters": [{"name": "hook", "cluster": cluster}], "users": [{"name": "us", "user": user}]});
        Kubeconfig::parse(&file, Path::new("/nowhere"))
    }

    #[test]
    fn files_are_checked() {
        let good = json!({"server": "https://localhost:1/x"});
        let client = read(good.clone(), json!({"token": "t"})).unwrap();
        assert_eq!(
            (client.url.as_str(), client.authorization.unwrap().to_str().unwrap()),
            ("https://localhost:1/x", "Bearer t")
        );
        let wrong = |cluster: Value, user: Value| read(cluster, user).unwrap_err();
        assert!(wrong(json!({"server": "http://x"}), json!({})).contains("scheme https"));
        assert_eq!(wrong(good.clone(), json!({"exec": {}})), "exec is not supported for webhooks");
        assert!(wrong(good.clone(), json!({"client-certificate": "c.pem"})).starts_with("client-certificate: c.pem: "));
        let authority = json!({"server": "https://x", "certificate-authority-data": "YWJj"});
        assert!(wrong(authority, json!({})).contains("unable to parse bytes as PEM block"));
        assert_eq!(Kubeconfig::parse(&json!({}), Path::new("/")).unwrap_err(), "current-context is required");
        let missing = json!({"current-context": "c"});
        assert_eq!(Kubeconfig::parse(&missing, Path::new("/")).unwrap_err(), "context \"c\" does not exist");
    }
}
