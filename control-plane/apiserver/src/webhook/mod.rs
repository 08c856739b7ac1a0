//! Calls from the server to webhooks: admission, conversion of custom kinds, token review.
//!
//! A [`Target`] is a URL or a service, with the authorities that its certificate is checked by. Services are resolved
//! to their ready endpoints ([`resolve`]), since the server is on no node and has no service addresses; the certificate
//! is that of `<service>.<namespace>.svc` all the same. Connections are kept, by target ([`client`]).

pub mod cache;
mod client;
pub mod kubeconfig;
mod resolve;
mod tls;

use std::fmt;
use std::hash::{Hash, Hasher};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub use client::WebhookClient;
pub(crate) use client::{Streaming, streaming};
pub(crate) use resolve::ready_addresses;
pub(crate) use tls::{any_certificate, believe, config as tls_config, show};

/// The longest answer that is read.
pub const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Where a webhook is, and whom it has to prove to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Scheme, host, port, path and query: for a service, `https://<name>.<namespace>.svc:<port><path>`.
    pub url: String,
    /// The service behind it.
    pub service: Option<Service>,
    /// The certificates of the authorities, PEM; empty for those of the system.
    pub authorities: Vec<u8>,
}

/// A service that a webhook is reached through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
}

impl Hash for Target {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.url.hash(state);
        self.authorities.hash(state);
    }
}

impl Target {
    /// Reads a `WebhookClientConfig` of admission webhooks and of CustomResourceDefinitions.
    ///
    /// # Errors
    ///
    /// In upstream's words, if it says neither a URL nor a service.
    pub fn from_client_config(config: &Value) -> Result<Self, String> {
        let authorities = config["caBundle"].as_str().unwrap_or_default();
        let authorities = STANDARD.decode(authorities).map_err(|e| format!("unable to load root certificates: {e}"))?;
        if let Some(url) = config["url"].as_str() {
            return Ok(Self { url: url.to_owned(), service: None, authorities });
        }
        let service = &config["service"];
        if !service.is_object() {
            return Err("webhook configuration must have either service or URL".into());
        }
        let text = |key: &str| service[key].as_str().unwrap_or_default().to_owned();
        let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        let (name, namespace, path) = (text("name"), text("namespace"), text("path"));
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let url = format!("https://{name}.{namespace}.svc:{port}{path}");
        Ok(Self { url, service: Some(Service { namespace, name, port }), authorities })
    }
}

/// Why a call of a webhook failed. The text is what Go's client says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The target makes no sense: its URL, its authorities.
    #[error("could not get REST client: {0}")]
    Target(String),
    /// The service does not exist, or has no ready endpoint on the port.
    #[error("{0}")]
    Resolve(String),
    /// No connection, or a broken one.
    #[error("Post {url:?}: {why}")]
    Transport {
        /// Where to.
        url: String,
        /// What happened.
        why: String,
    },
    /// It took too long.
    #[error("Post {url:?}: context deadline exceeded")]
    Timeout {
        /// Where to.
        url: String,
    },
    /// An answer that is no success.
    #[error("{}", http_error(*code, body))]
    Answer {
        /// The HTTP code.
        code: u16,
        /// The beginning of its body.
        body: String,
    },
    /// An answer longer than [`MAX_ANSWER_BYTES`].
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
}

impl CallError {
    /// The HTTP code that stands for it where calls are counted.
    pub fn code(&self) -> u16 {
        match self {
            Self::Target(_) => 400,
            Self::Answer { code, .. } => *code,
            Self::Resolve(_) | Self::Transport { .. } | Self::Timeout { .. } | Self::TooLarge => 503,
        }
    }
}

/// What client-go makes of an HTTP error.
fn http_error(code: u16, body: &str) -> String {
    match code {
        400 => "the server rejected our request for an unknown reason".into(),
        401 => "Unauthorized".into(),
        403 => "forbidden".into(),
        404 => "the server could not find the requested resource".into(),
        405 => "the server does not allow this method on the requested resource".into(),
        415 => "the body of the request was in an unknown format - accepted media types include: ".into(),
        422 => "the server rejected our request due to an error in our request".into(),
        429 => "the server has received too many requests and has asked us to try again later".into(),
        503 => "the server is currently unable to handle the request".into(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .into()
        }
        500..=599 => format!("an error on the server ({body:?}) has prevented the request from succeeding"),
        _ => format!("the server responded with the status code {code} but did not return more information"),
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn targets_are_read() {
        let config = json!({"service": {"name": "hook", "namespace": "ns", "path": "/a"}, "caBundle": "YWJj"});
        let target = Target::from_client_config(&config).expect("a target");
        assert_eq!(target.url, "https://hook.ns.svc:443/a");
        assert_eq!(target.service.map(|s| s.port), Some(443));
        assert_eq!(target.authorities, b"abc");
        let url = Target::from_client_config(&json!({"url": "https://example.com/x"})).expect("a target");
        assert_eq!((url.url.as_str(), url.service), ("https://example.com/x", None));
        assert!(Target::from_client_config(&json!({})).is_err());
    }
}
