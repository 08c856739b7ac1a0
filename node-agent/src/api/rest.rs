//! Requests by path, with views as bodies.

use http::{Method, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server answered with a status of failure.
    #[error("{message}")]
    Status {
        /// The HTTP status.
        code: u16,
        /// `NotFound`, `Conflict`.
        reason: String,
        /// What the server said.
        message: String,
    },
    /// The server could not be reached, or answered with something else.
    #[error("request to the API server failed: {0}")]
    Transport(String),
    /// What was to be sent cannot be.
    #[error("cannot build the request: {0}")]
    Request(String),
}

impl ApiError {
    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// Whether the object is another one than was thought, or changed meanwhile, or is there already.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { code: 409, .. })
    }

    /// Whether asking again can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { code, .. } => *code >= 500 || *code == 429 || *code == 401,
            Self::Transport(_) => true,
            Self::Request(_) => false,
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                Self::Status { code: status.code, reason: status.reason.clone(), message: status.message.clone() }
            }
            other => {
                let mut message = other.to_string();
                let mut source = std::error::Error::source(&other);
                while let Some(cause) = source {
                    message = format!("{message}: {cause}");
                    source = cause.source();
                }
                Self::Transport(message)
            }
        }
    }
}

/// A client that speaks in paths.
#[derive(Clone)]
pub struct Rest(kube::Client);

impl Rest {
    /// Over `client`, whatever carries it.
    pub fn new(client: kube::Client) -> Self {
        Self(client)
    }

    /// The client below.
    pub fn client(&self) -> &kube::Client {
        &self.0
    }

    /// Reads an object (or a list) as a view.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.send(Method::GET, path, None, None).await
    }

    /// Creates, or posts to a subresource.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.send(Method::POST, path, Some("application/json"), Some(encode(body)?)).await
    }

    /// A strategic merge patch.
    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.send(Method::PATCH, path, Some("application/strategic-merge-patch+json"), Some(encode(body)?)).await
    }

    /// Replaces an object.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.send(Method::PUT, path, Some("application/json"), Some(encode(body)?)).await
    }

    /// Deletes at once the object that has `uid`, and no other of its name.
    pub async fn delete_now(&self, path: &str, uid: &str) -> Result<(), ApiError> {
        let body = json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "gracePeriodSeconds": 0, "preconditions": { "uid": uid },
        });
        self.send::<Value>(Method::DELETE, path, Some("application/json"), Some(encode(&body)?)).await.map(drop)
    }

    /// Deletes all that a path with selectors stands for.
    pub async fn delete_all(&self, path: &str) -> Result<(), ApiError> {
        self.send::<Value>(Method::DELETE, path, None, None).await.map(drop)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Result<T, ApiError> {
        let mut request = Request::builder().method(method).uri(path).header("accept", "application/json");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let request = request.body(body.unwrap_or_default()).map_err(|e| ApiError::Request(e.to_string()))?;
        Ok(self.0.request(request).await?)
    }
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(body).map_err(|e| ApiError::Request(e.to_string()))
}
