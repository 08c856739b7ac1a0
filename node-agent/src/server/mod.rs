//! The kubelet API: HTTPS at the node's address, for the API server and administrators; and what agents ask each other.

mod authorize;
pub mod backend;
pub mod configz;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use xebec_clock::Clock;

use self::backend::RuntimeBackend;
use crate::drain::ledger::Ledger;
use crate::pods::manager::Pods;
use crate::sight::Sight;
use crate::stats::Stats;
use crate::streams;

/// How long a client may take to say hello.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// At most so many connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;

/// Binds the address that [`serve`] listens at.
///
/// # Errors
/// If it is taken or not this machine's; the message says which.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|e| std::io::Error::new(e.kind(), format!("cannot listen at {address} for the kubelet API: {e}")))
}

/// The kubelet API's paths.
pub fn router(
    backend: Arc<RuntimeBackend>,
    pods: Pods,
    ledger: Ledger,
    sight: Arc<Sight>,
    stats: Arc<Stats>,
    persistent_root: PathBuf,
    clock: Clock,
) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(list_pods))
        .with_state(pods)
        .merge(crate::drain::answer::router(ledger))
        .merge(crate::sight::router(sight))
        .merge(crate::stats::router(stats))
        .merge(crate::volumes::persistent::router(persistent_root))
        .merge(streams::router(backend, clock))
}

/// Serves until `cancel`. `tls` must ask for client certificates.
pub async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, router: Router, cancel: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let room = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, mostly: it passes.
                tracing::warn!(%error, "cannot accept a connection to the kubelet API");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, router, cancel) = (acceptor.clone(), router.clone(), cancel.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = connection(stream, acceptor, router) => {}
            }
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    drop(stream.set_nodelay(true));
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake at the kubelet API failed");
            return;
        }
        Err(_) => return,
    };
    let client = authorize::client(stream.get_ref().1.peer_certificates());
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let router = router.clone();
        let refusal = client.refusal(request.uri().path());
        async move {
            match refusal {
                Some(refusal) => Ok(refusal.into_response()),
                None => router.oneshot(request.map(axum::body::Body::new)).await,
            }
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the kubelet API broke");
    }
}

impl IntoResponse for authorize::Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
            Self::Forbidden => {
                (StatusCode::FORBIDDEN, "Forbidden: only the API server and administrators may do this").into_response()
            }
        }
    }
}

async fn list_pods(State(pods): State<Pods>) -> Response {
    let items: Vec<_> = pods.all();
    let list = serde_json::json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": {},
        "items": items.iter().map(|p| &**p).collect::<Vec<_>>(),
    });
    ([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}
