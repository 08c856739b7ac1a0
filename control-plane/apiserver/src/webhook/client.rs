//! Connections to webhooks, kept for as long as they are used.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error as LegacyError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service as TowerService;

use super::{CallError, MAX_ANSWER_BYTES, Service, Target, resolve, tls};
use crate::body::RequestBody;
use crate::reader::Reader;

/// The most targets whose connections are kept; the one that was not called for the longest time goes first.
const MAX_TARGETS: usize = 256;
/// How long a connection waits for the next call.
const IDLE: Duration = Duration::from_secs(90);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections over HTTP/2 are asked whether they live while nothing else goes over them.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What an error says of an answer's body.
const MAX_QUOTED_BYTES: usize = 1024;

pub(super) type Http = Client<Connector, Full<Bytes>>;

/// Connections to a service, over which bodies of any length go.
pub(crate) type Streaming = Client<Connector, RequestBody>;

/// Connections to a service.
pub(crate) fn streaming(reader: Arc<dyn Reader>, service: Service, tls: ClientConfig) -> Streaming {
    pool(Connector { reader, service: Some(service), tls: Arc::new(tls), turn: Arc::default() })
}

/// Connections to whatever the URL's host is.
pub(super) fn direct(reader: Arc<dyn Reader>, tls: Arc<ClientConfig>) -> Http {
    pool(Connector { reader, service: None, tls, turn: Arc::default() })
}

fn pool<B>(connector: Connector) -> Client<Connector, B>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
    builder.http2_keep_alive_interval(KEEP_ALIVE).http2_keep_alive_timeout(KEEP_ALIVE);
    builder.build(connector)
}

/// Calls webhooks. Clones share their connections.
#[derive(Clone)]
pub struct WebhookClient {
    reader: Arc<dyn Reader>,
    kept: Arc<Mutex<VecDeque<(Target, Http)>>>,
    turn: Arc<AtomicUsize>,
}

impl WebhookClient {
    /// A client that finds services in what is stored.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, kept: Arc::default(), turn: Arc::default() }
    }

    /// POSTs JSON, and answers the answer's body. `timeout` bounds all of it; the webhook is told in the query.
    ///
    /// # Errors
    ///
    /// In the words of Go's client.
    pub async fn post(&self, target: &Target, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        let url = with_timeout(&target.url, timeout);
        let call = self.call(target, Method::POST, &url, body);
        tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(CallError::Timeout { url: url.clone() }))
    }

    /// GETs a document, with the same checks of who answers.
    ///
    /// # Errors
    ///
    /// In the words of Go's client.
    pub async fn get(&self, target: &Target, timeout: Duration) -> Result<Bytes, CallError> {
        let call = self.call(target, Method::GET, &target.url, Bytes::new());
        let late = || Err(CallError::Timeout { url: target.url.clone() });
        tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| late())
    }

    async fn call(&self, target: &Target, method: Method, url: &str, body: Bytes) -> Result<Bytes, CallError> {
        let uri: Uri = url.parse().map_err(|e| CallError::Target(format!("parse {url:?}: {e}")))?;
        let http = self.http(target)?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body))
            .map_err(|e| CallError::Target(e.to_string()))?;
        exchange(&http, request, url).await
    }

    /// The connections to a target.
    fn http(&self, target: &Target) -> Result<Http, CallError> {
        let mut kept = self.kept.lock();
        if let Some(at) = kept.iter().position(|(known, _)| known == target) {
            let found = kept.remove(at).ok_or_else(|| CallError::Target("lost".into()))?;
            let http = found.1.clone();
            kept.push_back(found);
            return Ok(http);
        }
        let config = tls::config(&target.authorities).map_err(CallError::Target)?;
        let connector = Connector {
            reader: self.reader.clone(),
            service: target.service.clone(),
            tls: Arc::new(config),
            turn: self.turn.clone(),
        };
        let http: Http = pool(connector);
        kept.push_back((target.clone(), http.clone()));
        if kept.len() > MAX_TARGETS {
            kept.pop_front();
        }
        Ok(http)
    }
}

/// Sends a request, and answers the body of a successful answer.
pub(super) async fn exchange(http: &Http, request: Request<Full<Bytes>>, url: &str) -> Result<Bytes, CallError> {
    let response = http.request(request).await.map_err(|e| transport(url, &e))?;
    let code = response.status().as_u16();
    let answer = read(response.into_body(), url).await?;
    if (200..300).contains(&code) {
        return Ok(answer);
    }
    let quoted = &answer[..answer.len().min(MAX_QUOTED_BYTES)];
    Err(CallError::Answer { code, body: String::from_utf8_lossy(quoted).into_owned() })
}

fn with_timeout(url: &str, timeout: Duration) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    let seconds = timeout.as_secs_f64();
    format!("{url}{separator}timeout={seconds}s")
}

async fn read(mut body: hyper::body::Incoming, url: &str) -> Result<Bytes, CallError> {
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| CallError::Transport { url: url.to_owned(), why: e.to_string() })?;
        if let Ok(data) = frame.into_data() {
            if out.len() + data.len() > MAX_ANSWER_BYTES {
                return Err(CallError::TooLarge);
            }
            out.extend_from_slice(&data);
        }
    }
    Ok(out.freeze())
}

/// What a broken connection is called: what the connector said, if it did.
fn transport(url: &str, error: &LegacyError) -> CallError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut why = error.to_string();
    while let Some(inner) = cause {
        if let Some(connect) = inner.downcast_ref::<ConnectError>() {
            return match connect {
                ConnectError::Resolve(error) => error.clone(),
                ConnectError::Failed(why) => CallError::Transport { url: url.to_owned(), why: why.clone() },
            };
        }
        why = inner.to_string();
        cause = inner.source();
    }
    let why = if why.contains("connection closed before message completed") { "EOF".into() } else { why };
    CallError::Transport { url: url.to_owned(), why }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Resolve(CallError),
    #[error("{0}")]
    Failed(String),
}

/// Connects to a target, however the URL's host is called.
#[derive(Clone)]
pub(crate) struct Connector {
    reader: Arc<dyn Reader>,
    service: Option<Service>,
    tls: Arc<ClientConfig>,
    turn: Arc<AtomicUsize>,
}

impl TowerService<Uri> for Connector {
    type Response = TlsIo;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TlsIo, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(&uri));
            connecting.await.unwrap_or_else(|_| Err(ConnectError::Failed("net/http: TLS handshake timeout".into())))
        })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> Result<TlsIo, ConnectError> {
        let host = uri.host().unwrap_or_default();
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match &self.service {
            Some(service) => resolve::resolve(&*self.reader, service).map_err(ConnectError::Resolve)?,
            None => vec![format!("{host}:{}", uri.port_u16().unwrap_or(443))],
        };
        let stream = self.dial(&addresses).await?;
        let server = ServerName::try_from(name.to_owned())
            .map_err(|_| ConnectError::Failed(format!("invalid server name {name:?}")))?;
        match TlsConnector::from(self.tls.clone()).connect(server, stream).await {
            Ok(stream) => Ok(TlsIo(TokioIo::new(stream))),
            Err(error) => {
                let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
                Err(ConnectError::Failed(inner.map_or_else(|| error.to_string(), |e| tls::words(e, name))))
            }
        }
    }

    /// A connection to one of the addresses, each in its turn.
    async fn dial(&self, addresses: &[String]) -> Result<TcpStream, ConnectError> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failed = String::new();
        for at in 0..addresses.len() {
            let address = &addresses[(start.wrapping_add(at)) % addresses.len()];
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => failed = format!("dial tcp {address}: connect: {}", words(&error)),
            }
        }
        Err(ConnectError::Failed(failed))
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::HostUnreachable => "no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => error.to_string(),
    }
}

/// A connection that says which protocol was agreed on.
pub(crate) struct TlsIo(TokioIo<TlsStream<TcpStream>>);

impl Connection for TlsIo {
    fn connected(&self) -> Connected {
        let (_, session) = self.0.inner().get_ref();
        let connected = Connected::new();
        if session.alpn_protocol() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

impl Read for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
