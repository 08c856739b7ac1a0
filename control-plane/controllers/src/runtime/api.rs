//! Requests to the API, as bytes: the caller decides what to decode.

use std::time::Duration;

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;

use super::kind::Kind;

/// The longest object or watch event that is read, in bytes: what the API server accepts, and room for the frame.
const MAX_LINE_BYTES: usize = 8 << 20;

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server refused it.
    #[error("{message}")]
    Refused {
        /// HTTP status code.
        code: u16,
        /// `metav1.Status.reason`.
        reason: String,
        /// `metav1.Status.message`.
        message: String,
        /// Reasons of `metav1.Status.details.causes`.
        causes: Vec<String>,
    },
    /// The request or its answer did not get through.
    #[error("cannot reach the API server: {0}")]
    Transport(String),
    /// The answer is not what it should be.
    #[error("the API server's answer cannot be read: {0}")]
    Decode(String),
}

impl ApiError {
    /// The HTTP status code, 0 if there was no answer.
    pub fn code(&self) -> u16 {
        match self {
            Self::Refused { code, .. } => *code,
            _ => 0,
        }
    }

    /// The status' reason; empty if there was no answer.
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused { reason, .. } => reason,
            _ => "",
        }
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// The object changed since it was looked at.
    pub fn is_conflict(&self) -> bool {
        self.code() == 409 && self.reason() != "AlreadyExists"
    }

    /// The object is there already.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    /// The resource version is too old to watch or page from.
    pub fn is_expired(&self) -> bool {
        self.code() == 410
    }

    /// The kind is not served.
    pub fn is_not_served(&self) -> bool {
        self.code() == 404
    }

    /// The object's namespace is being deleted: creating in it is of no use.
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Refused { causes, .. } if causes.iter().any(|c| c == "NamespaceTerminating"))
    }

    fn from_status(code: u16, body: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Status {
            code: u16,
            reason: String,
            message: String,
            details: Option<Details>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Details {
            causes: Vec<Cause>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Cause {
            reason: String,
        }
        match serde_json::from_slice::<Status>(body) {
            Ok(s) => Self::Refused {
                code: if s.code == 0 { code } else { s.code },
                reason: s.reason,
                message: s.message,
                causes: s.details.unwrap_or_default().causes.into_iter().map(|c| c.reason).collect(),
            },
            Err(_) => Self::Refused {
                code,
                reason: String::new(),
                message: String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned(),
                causes: Vec::new(),
            },
        }
    }
}

/// What to ask of a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Delete only the object that has this uid.
    pub uid: Option<String>,
    /// Delete only the object at this revision.
    pub resource_version: Option<u64>,
    /// How long the deletion may take, in seconds; the object's own if `None`.
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground`, `Orphan`; the kind's own if `None`.
    pub propagation_policy: Option<&'static str>,
}

impl DeleteOptions {
    fn body(&self) -> Value {
        let mut body = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        let mut preconditions = serde_json::Map::new();
        if let Some(uid) = &self.uid {
            preconditions.insert("uid".into(), uid.as_str().into());
        }
        if let Some(revision) = self.resource_version {
            preconditions.insert("resourceVersion".into(), revision.to_string().into());
        }
        if !preconditions.is_empty() {
            body["preconditions"] = Value::Object(preconditions);
        }
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = self.propagation_policy {
            body["propagationPolicy"] = policy.into();
        }
        body
    }
}

/// Which objects of a kind a list or watch is about.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Empty: all namespaces.
    pub namespace: String,
    /// Empty: no restriction.
    pub field_selector: String,
    /// Empty: no restriction.
    pub label_selector: String,
    /// Ask for metadata alone.
    pub metadata_only: bool,
}

/// How an object is changed by a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Upstream's, with merge keys.
    Strategic,
}

/// The API server, in process or across the network.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// Requests go through `client`, as its user.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// The client.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    async fn send(
        &self,
        method: Method,
        uri: String,
        accept: &str,
        content: Option<(&str, Vec<u8>)>,
    ) -> Result<http::Response<Body>, ApiError> {
        let mut request = Request::builder().method(method).uri(uri).header(http::header::ACCEPT, accept);
        let body = match content {
            Some((content_type, body)) => {
                request = request.header(http::header::CONTENT_TYPE, content_type);
                Body::from(body)
            }
            None => Body::empty(),
        };
        let request = request.body(body).map_err(|e| ApiError::Transport(e.to_string()))?;
        let response = self.client.send(request).await.map_err(|e| match e {
            kube::Error::Api(status) => ApiError::Refused {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
                causes: Vec::new(),
            },
            other => ApiError::Transport(other.to_string()),
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = collect(response).await?;
        Err(ApiError::from_status(code, &body))
    }

    /// Sends a request without a body and gives back the answer's bytes.
    pub async fn get_raw(&self, uri: String, accept: &str) -> Result<Bytes, ApiError> {
        collect(self.send(Method::GET, uri, accept, None).await?).await
    }

    /// The object, decoded.
    pub async fn get<T: serde::de::DeserializeOwned>(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<T, ApiError> {
        let body = self.get_raw(kind.object_path(namespace, name, ""), "application/json").await?;
        serde_json::from_slice(&body).map_err(|e| ApiError::Decode(e.to_string()))
    }

    /// Creates an object and gives back what was stored.
    pub async fn create(&self, kind: &Kind, namespace: &str, body: &Value) -> Result<Bytes, ApiError> {
        self.create_at(kind.path(namespace), body).await
    }

    /// Posts to a path, such as a pod's binding.
    pub async fn create_at(&self, path: String, body: &Value) -> Result<Bytes, ApiError> {
        let bytes = serde_json::to_vec(body).map_err(|e| ApiError::Decode(e.to_string()))?;
        let content = Some(("application/json", bytes));
        collect(self.send(Method::POST, path, "application/json", content).await?).await
    }

    /// Replaces an object, or what is served below it.
    pub async fn replace(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Bytes, ApiError> {
        let bytes = serde_json::to_vec(body).map_err(|e| ApiError::Decode(e.to_string()))?;
        let path = kind.object_path(namespace, name, subresource);
        collect(self.send(Method::PUT, path, "application/json", Some(("application/json", bytes))).await?).await
    }

    /// Changes an object, or what is served below it.
    pub async fn patch(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        subresource: &str,
        how: PatchKind,
        patch: &Value,
    ) -> Result<Bytes, ApiError> {
        let bytes = serde_json::to_vec(patch).map_err(|e| ApiError::Decode(e.to_string()))?;
        let content_type = match how {
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
        };
        let path = kind.object_path(namespace, name, subresource);
        collect(self.send(Method::PATCH, path, "application/json", Some((content_type, bytes))).await?).await
    }

    /// Deletes an object; the answer is the object or a status.
    pub async fn delete(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Bytes, ApiError> {
        let bytes = serde_json::to_vec(&options.body()).map_err(|e| ApiError::Decode(e.to_string()))?;
        let path = kind.object_path(namespace, name, "");
        collect(self.send(Method::DELETE, path, "application/json", Some(("application/json", bytes))).await?).await
    }

    /// Deletes all objects of a collection.
    pub async fn delete_collection(
        &self,
        kind: &Kind,
        namespace: &str,
        options: &DeleteOptions,
    ) -> Result<Bytes, ApiError> {
        let bytes = serde_json::to_vec(&options.body()).map_err(|e| ApiError::Decode(e.to_string()))?;
        let content = Some(("application/json", bytes));
        collect(self.send(Method::DELETE, kind.path(namespace), "application/json", content).await?).await
    }

    /// A page of a list, undecoded.
    pub async fn list_page(
        &self,
        kind: &Kind,
        scope: &Scope,
        limit: u32,
        resume: Option<&str>,
    ) -> Result<Bytes, ApiError> {
        let mut query = scope.query();
        query.push(("limit", limit.to_string()));
        if let Some(token) = resume {
            query.push(("continue", token.to_owned()));
        }
        let accept = if scope.metadata_only {
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        } else {
            "application/json"
        };
        let uri = with_query(kind.path(&scope.namespace), &query);
        collect(self.send(Method::GET, uri, accept, None).await?).await
    }

    /// Watches from `revision`; a stream of lines, each an event.
    pub async fn watch(
        &self,
        kind: &Kind,
        scope: &Scope,
        revision: u64,
        timeout: Duration,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let mut query = scope.query();
        query.push(("watch", "1".to_owned()));
        query.push(("allowWatchBookmarks", "true".to_owned()));
        query.push(("resourceVersion", revision.to_string()));
        query.push(("timeoutSeconds", timeout.as_secs().to_string()));
        let accept = if scope.metadata_only {
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
        } else {
            "application/json"
        };
        let uri = with_query(kind.path(&scope.namespace), &query);
        let response = self.send(Method::GET, uri, accept, None).await?;
        Ok(lines(response))
    }
}

impl Scope {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        if !self.field_selector.is_empty() {
            query.push(("fieldSelector", self.field_selector.clone()));
        }
        if !self.label_selector.is_empty() {
            query.push(("labelSelector", self.label_selector.clone()));
        }
        query
    }
}

/// A path with a query.
pub(crate) fn with_query(mut path: String, query: &[(&'static str, String)]) -> String {
    for (i, (key, value)) in query.iter().enumerate() {
        path.push(if i == 0 { '?' } else { '&' });
        path.push_str(key);
        path.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    path
}

async fn collect(response: http::Response<Body>) -> Result<Bytes, ApiError> {
    let collected = response.into_body().collect().await.map_err(|e| ApiError::Transport(e.to_string()))?;
    Ok(collected.to_bytes())
}

/// Cuts a body into lines.
fn lines(response: http::Response<Body>) -> BoxStream<'static, Result<Bytes, ApiError>> {
    struct State {
        body: Option<http_body_util::BodyDataStream<Body>>,
        buffer: BytesMut,
        searched: usize,
    }
    let state = State { body: Some(response.into_body().into_data_stream()), buffer: BytesMut::new(), searched: 0 };
    futures::stream::unfold(state, |mut state| async move {
        loop {
            if let Some(at) = state.buffer[state.searched..].iter().position(|b| *b == b'\n') {
                let line = state.buffer.split_to(state.searched + at + 1).freeze();
                state.searched = 0;
                if line.len() > 1 {
                    return Some((Ok(line), state));
                }
                continue;
            }
            state.searched = state.buffer.len();
            if state.buffer.len() > MAX_LINE_BYTES {
                state.body = None;
                state.buffer.clear();
                state.searched = 0;
                let error = ApiError::Decode(format!("a watch event is longer than {MAX_LINE_BYTES} bytes"));
                return Some((Err(error), state));
            }
            match state.body.as_mut()?.next().await {
                Some(Ok(chunk)) if state.buffer.is_empty() && chunk.ends_with(b"\n") && one_line(&chunk) => {
                    state.searched = 0;
                    return Some((Ok(chunk), state));
                }
                Some(Ok(chunk)) => state.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => {
                    state.body = None;
                    return Some((Err(ApiError::Transport(error.to_string())), state));
                }
                None => return None,
            }
        }
    })
    .boxed()
}

fn one_line(chunk: &[u8]) -> bool {
    chunk.len() > 1 && !chunk[..chunk.len() - 1].contains(&b'\n')
}

/// Decodes base64 as it stands in `[]byte` fields.
pub fn decode_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    base64::engine::general_purpose::STANDARD.decode(text)
}

/// Encodes a `[]byte` field.
pub fn encode_base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        assert_eq!(with_query("/p".into(), &[("a", "x=y,z".into()), ("b", "1".into())]), "/p?a=x%3Dy%2Cz&b=1");
    }

    #[tokio::test]
    async fn lines_are_cut_wherever_chunks_end() {
        let text = b"{\"a\":1}\n{\"b\":2}\n\n{\"c\":3}\n".to_vec();
        let response = http::Response::new(Body::from(text));
        let got: Vec<_> = lines(response).map(|l| String::from_utf8(l.unwrap().to_vec()).unwrap()).collect().await;
        assert_eq!(got, ["{\"a\":1}\n", "{\"b\":2}\n", "{\"c\":3}\n"]);
    }

    #[test]
    fn a_status_is_understood() {
        let error = ApiError::from_status(
            403,
            br#"{"kind":"Status","code":403,"reason":"Forbidden","message":"no","details":{"causes":[{"reason":"NamespaceTerminating"}]}}"#,
        );
        assert!(error.is_namespace_terminating());
        assert_eq!(error.to_string(), "no");
        assert_eq!(ApiError::from_status(502, b"bad gateway").code(), 502);
    }
}
