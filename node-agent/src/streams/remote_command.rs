//! Exec and attach.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts as _, Request, WebSocketUpgrade};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::websocket::Encoding;
use super::{Backend, ContainerRef, Output, ProcessIo, StreamError, flag, query, spdy, status, websocket};

/// The header that names the protocol within SPDY.
pub(super) const PROTOCOL: &str = "x-stream-protocol-version";
const WEBSOCKET_PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// v4: the error stream is a JSON status; with the streams of v3, which adds resize.
const SPDY_PROTOCOL: &str = "v4.channel.k8s.io";
/// How long a client may take to open the streams it has announced.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest message that is taken from a client.
const MESSAGE_BYTES: usize = 4 << 20;

/// What is done in the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Exec,
    Attach,
}

/// What the client asks for.
#[derive(Clone, Debug)]
struct Options {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Options {
    fn parse(kind: Kind, text: Option<&str>) -> Result<Self, StreamError> {
        let query = query(text);
        let tty = flag(&query, &["tty"]);
        let options = Self {
            command: query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect(),
            stdin: flag(&query, &["input", "stdin"]),
            stdout: flag(&query, &["output", "stdout"]),
            // A terminal has one output.
            stderr: flag(&query, &["error", "stderr"]) && !tty,
            tty,
        };
        if !(options.stdin || options.stdout || options.stderr) {
            return Err(StreamError::BadRequest("you must specify at least 1 of stdin, stdout, stderr".into()));
        }
        if kind == Kind::Exec && options.command.is_empty() {
            return Err(StreamError::BadRequest("you must specify at least 1 command for the container".into()));
        }
        Ok(options)
    }

    /// Leaves what was not asked for unconnected.
    fn connect(&self, mut io: ProcessIo) -> ProcessIo {
        io.stdin = io.stdin.filter(|_| self.stdin);
        io.stdout = io.stdout.filter(|_| self.stdout);
        io.stderr = io.stderr.filter(|_| self.stderr);
        io
    }
}

/// Whether a request wants to go on as a WebSocket.
pub(super) fn is_websocket(request: &Request) -> bool {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// Whether a request wants to go on as SPDY/3.1.
pub(super) fn is_spdy(request: &Request) -> bool {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.eq_ignore_ascii_case("spdy/3.1"))
}

/// The upgrade of a request to a WebSocket that speaks one of `protocols`.
pub(super) async fn websocket_upgrade(
    request: Request,
    protocols: &'static [&'static str],
) -> Result<WebSocketUpgrade, StreamError> {
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|e| StreamError::BadRequest(e.to_string()))?;
    let upgrade = upgrade.protocols(protocols.iter().copied()).max_message_size(MESSAGE_BYTES);
    if !protocols.is_empty() && upgrade.selected_protocol().is_none() {
        return Err(StreamError::BadRequest(format!("no WebSocket protocol in common; supported: {protocols:?}")));
    }
    Ok(upgrade)
}

/// The answer to an upgrade to SPDY, if the client knows `protocol`; an error in upstream's words if not.
pub(super) fn spdy_upgrade(request: &Request, protocol: &'static str) -> Result<Response, StreamError> {
    let offered = request.headers().get_all(PROTOCOL);
    let mut offered = offered.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim);
    if !offered.any(|offer| offer == protocol) {
        let message = format!("unable to upgrade: unable to negotiate protocol: server supports [{protocol}]");
        return Err(StreamError::BadRequest(message));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(PROTOCOL, HeaderValue::from_static(protocol));
    Ok(response)
}

/// Answers a request for exec or attach.
pub(super) async fn serve(
    backend: Arc<dyn Backend>,
    target: ContainerRef,
    mut request: Request,
    kind: Kind,
) -> Result<Response, StreamError> {
    let options = Options::parse(kind, request.uri().query())?;
    if is_websocket(&request) {
        // Who names no protocol speaks the first one.
        let silent = !request.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
        let upgrade = websocket_upgrade(request, if silent { &[] } else { &WEBSOCKET_PROTOCOLS }).await?;
        let protocol = upgrade.selected_protocol().and_then(|p| p.to_str().ok()).unwrap_or_default().to_owned();
        return Ok(upgrade.on_upgrade(move |socket| async move {
            let encoding = if protocol.contains("base64") { Encoding::Base64 } else { Encoding::Binary };
            let (io, error) = websocket::process_io(socket, options.tty, encoding);
            let ending = if protocol.starts_with('v') { Ending::Status } else { Ending::Message };
            run(&*backend, &target, kind, options, io, (error, ending)).await;
        }));
    }
    if !is_spdy(&request) {
        return Err(StreamError::BadRequest("Upgrade request required".into()));
    }
    let response = spdy_upgrade(&request, SPDY_PROTOCOL)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut streams = spdy::serve(TokioIo::new(upgraded));
        match timeout(STREAMS_TIMEOUT, spdy_io(&mut streams, &options)).await {
            Ok(Some(Opened { io, error, unused })) => {
                // The queue of further streams is kept: dropping it would end the connection.
                run(&*backend, &target, kind, options, io, (error, Ending::Status)).await;
                drop(unused);
                // The client closes when it has read how the command ended.
                let _ = timeout(STREAMS_TIMEOUT, streams.recv()).await;
            }
            Ok(None) | Err(_) => tracing::debug!(?target, "the client did not open its streams"),
        }
    });
    Ok(response)
}

/// What the error channel says when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// A `metav1.Status`, of success too: from the fourth version of the protocols on.
    Status,
    /// What went wrong, in words; nothing, if nothing did.
    Message,
}

impl Ending {
    fn of(self, result: &Result<i32, StreamError>) -> String {
        let status = status::of(result);
        match self {
            Self::Status => status.to_string(),
            Self::Message => status["message"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

async fn run(
    backend: &dyn Backend,
    target: &ContainerRef,
    kind: Kind,
    options: Options,
    io: ProcessIo,
    (mut error, ending): (Output, Ending),
) {
    let io = options.connect(io);
    let result = match kind {
        Kind::Exec => backend.exec(target, options.command, options.tty, io).await,
        Kind::Attach => backend.attach(target, options.tty, io).await.map(|()| 0),
    };
    // A client that has gone does not ask how it ended.
    let _ = error.write_all(ending.of(&result).as_bytes()).await;
    let _ = error.shutdown().await;
}

/// The streams that a client has opened.
struct Opened {
    io: ProcessIo,
    error: Output,
    /// The way back of streams that only the client writes to. To close it would tell the client to stop.
    unused: Vec<Output>,
}

/// Collects the streams that the client opens, by their type. `None`: the client went away.
async fn spdy_io(streams: &mut mpsc::Receiver<spdy::Stream>, options: &Options) -> Option<Opened> {
    let (sizes, resize) = mpsc::channel(8);
    let mut unused = Vec::new();
    let mut io = ProcessIo { stdin: None, stdout: None, stderr: None, resize };
    let mut error = None;
    let mut resized = !options.tty;
    let complete = |io: &ProcessIo| {
        (io.stdin.is_some() || !options.stdin)
            && (io.stdout.is_some() || !options.stdout)
            && (io.stderr.is_some() || !options.stderr)
    };
    while error.is_none() || !resized || !complete(&io) {
        let stream = streams.recv().await?;
        match stream.header("streamtype") {
            Some("error") => error = Some(stream.output),
            Some("stdin") => {
                io.stdin = Some(stream.input);
                unused.push(stream.output);
            }
            Some("stdout") => io.stdout = Some(stream.output),
            Some("stderr") => io.stderr = Some(stream.output),
            Some("resize") => {
                resized = true;
                unused.push(stream.output);
                tokio::spawn(read_sizes(stream.input, sizes.clone()));
            }
            _ => {}
        }
    }
    error.map(|error| Opened { io, error, unused })
}

/// Sizes come as JSON objects one after the other.
async fn read_sizes(mut input: super::Input, sizes: mpsc::Sender<super::TerminalSize>) {
    let mut pending = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(length) = input.read(&mut buffer).await {
        if length == 0 || pending.len() > 4096 {
            return;
        }
        pending.extend_from_slice(&buffer[..length]);
        let mut parsed = serde_json::Deserializer::from_slice(&pending).into_iter::<super::TerminalSize>();
        let mut used = 0;
        while let Some(Ok(size)) = parsed.next() {
            used = parsed.byte_offset();
            // Of sizes that nobody waits for, the next one is as good.
            let _ = sizes.try_send(size);
        }
        pending.drain(..used);
    }
}
