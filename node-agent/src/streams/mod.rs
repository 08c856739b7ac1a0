//! Streams into pods: exec, attach, port-forward and logs, as the kubelet serves them.
//!
//! The API server forwards a client's upgrade byte for byte; what the client speaks ends here. That is WebSocket
//! (`v5.channel.k8s.io` and `v4.channel.k8s.io`, and for port-forward SPDY inside of WebSocket) or, from clients before
//! 1.31, SPDY/3.1. The container side is behind [`Backend`].

mod container_log;
mod logs;
pub mod netns;
mod packets;
mod port_forward;
mod remote_command;
mod spdy;
mod status;
mod websocket;
pub mod written;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{any, get};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

/// A container of a pod on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Bytes from the client.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes to the client.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// What a process is connected to. `None` is not connected.
pub struct ProcessIo {
    /// Ends when the client closes it.
    pub stdin: Option<Input>,
    /// Standard output; a terminal's whole output.
    pub stdout: Option<Output>,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<Output>,
    /// New sizes of the client's terminal. Ends with the client.
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// A connection into a pod.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Where a container's log is.
#[derive(Clone, Debug)]
pub struct LogSource {
    /// A file in the CRI log format. It may not exist yet, and may be replaced when it is rotated.
    pub path: PathBuf,
    /// True for as long as the container may write more.
    pub running: watch::Receiver<bool>,
}

/// Why a stream cannot be had. The message goes to the client.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// There is no such pod or container.
    #[error("{0}")]
    NotFound(String),
    /// It is there, but not in a state for that.
    #[error("{0}")]
    BadRequest(String),
    /// The runtime failed.
    #[error("{0}")]
    Internal(String),
}

/// The containers, as streams need them.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Runs a command in a container, until it ends; its exit code. If the client goes away (the outputs fail), the
    /// process is left to notice by itself, as upstream does.
    async fn exec(
        &self,
        target: &ContainerRef,
        command: Vec<String>,
        tty: bool,
        io: ProcessIo,
    ) -> Result<i32, StreamError>;

    /// Connects to a container's main process until it ends or the client goes away.
    async fn attach(&self, target: &ContainerRef, tty: bool, io: ProcessIo) -> Result<(), StreamError>;

    /// Opens a TCP connection to a port on the pod's loopback.
    async fn connect(&self, namespace: &str, pod: &str, port: u16) -> Result<Box<dyn Duplex>, StreamError>;

    /// A container's log, or the log of its previous run.
    async fn log(&self, target: &ContainerRef, previous: bool) -> Result<LogSource, StreamError>;
}

type Shared = Arc<dyn Backend>;

/// The kubelet's paths for streams.
pub fn router(backend: Shared, clock: xebec_clock::Clock) -> Router {
    let logs = move |State(backend): State<Shared>, Path(target): Path<(String, String, String)>, request: Request| {
        let clock = clock.clone();
        async move { answer(logs::serve(&*backend, &container(target), request.uri().query(), &clock).await) }
    };
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route("/portForward/{namespace}/{pod}", any(forward))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
        .with_state(backend)
}

fn container((namespace, pod, container): (String, String, String)) -> ContainerRef {
    ContainerRef { namespace, pod, container }
}

async fn exec(State(backend): State<Shared>, Path(path): Path<(String, String, String)>, request: Request) -> Response {
    answer(remote_command::serve(backend, container(path), request, remote_command::Kind::Exec).await)
}

async fn attach(
    State(backend): State<Shared>,
    Path(path): Path<(String, String, String)>,
    request: Request,
) -> Response {
    answer(remote_command::serve(backend, container(path), request, remote_command::Kind::Attach).await)
}

async fn forward(
    State(backend): State<Shared>,
    Path((namespace, pod)): Path<(String, String)>,
    request: Request,
) -> Response {
    answer(port_forward::serve(backend, namespace, pod, request).await)
}

fn answer(result: Result<Response, StreamError>) -> Response {
    result.unwrap_or_else(|error| {
        let code = match error {
            StreamError::NotFound(_) => http::StatusCode::NOT_FOUND,
            StreamError::BadRequest(_) => http::StatusCode::BAD_REQUEST,
            StreamError::Internal(_) => http::StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = Response::new(Body::from(error.to_string()));
        *response.status_mut() = code;
        response
    })
}

/// Percent-decoded query parameters, in order.
pub(crate) fn query(query: Option<&str>) -> Vec<(String, String)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

/// `application/x-www-form-urlencoded` decoding of one name or value.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            (other, ..) => {
                out.push(other);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a parameter is set to what Go's `strconv.ParseBool` takes for true.
fn flag(query: &[(String, String)], names: &[&str]) -> bool {
    let truth = |value: &str| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True");
    query.iter().any(|(key, value)| names.contains(&key.as_str()) && truth(value))
}
