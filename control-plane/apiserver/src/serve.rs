//! The server on the network: TLS, HTTP/1.1 and HTTP/2, upgrades.

mod lend;
mod linger;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authn::Peer;
use crate::body::BoxError;
use crate::server::ApiServer;

/// More connections than this wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be idle, or take to send a request's head.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// An HTTP/2 client that is silent for this long is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Requests of one HTTP/2 connection at a time (upstream's `http2-max-streams-per-connection`).
const MAX_STREAMS: u32 = 250;
/// How long requests may go on after the end has been announced.
const DRAIN: Duration = Duration::from_secs(10);

impl ApiServer {
    /// Serves HTTPS until `stop`, then lets what is under way end, for ten seconds at most. `tls` says which client
    /// certificates are accepted (those that are have been verified, and are taken for proof), and which protocols are
    /// offered (`xebec_pki::tls::server_config`).
    ///
    /// # Errors
    ///
    /// The listener fails for good.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = accept(&listener, &slots) => accepted,
            };
            let (socket, address, slot) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly there are too many open files; it passes.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (server, acceptor, stop) = (self.clone(), acceptor.clone(), stop.clone());
            connections.spawn(async move {
                if let Err(error) = connection(server, acceptor, socket, address, stop).await {
                    tracing::debug!(%address, %error, "a connection ended");
                }
                drop(slot);
            });
        }
        connections.close();
        // What is left after that is cut off.
        let _ = tokio::time::timeout(DRAIN + Duration::from_secs(1), connections.wait()).await;
        Ok(())
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (socket, address) = listener.accept().await?;
    Ok((socket, address, slot))
}

async fn connection(
    server: ApiServer,
    acceptor: TlsAcceptor,
    socket: TcpStream,
    address: SocketAddr,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    // Answers are small, and clients wait for them.
    socket.set_nodelay(true)?;
    let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await??;
    let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer =
        Peer { address: Some(address), certificate: certificate.map(|c| Arc::new(c.clone().into_owned().into())) };
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        async move {
            let (mut head, body) = request.into_parts();
            head.extensions.insert(peer);
            let version = head.version;
            let (body, rest) = lend::lend(body);
            let mut response = server.handle(Request::from_parts(head, body)).await;
            if let Some(rest) = rest.filter(|_| version < Version::HTTP_2)
                && !rest.drain().await
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).max_concurrent_streams(MAX_STREAMS);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(linger::Lingering::new(tls)), service);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        result = connection.as_mut() => return result,
    }
    tokio::time::timeout(DRAIN, connection).await?
}
