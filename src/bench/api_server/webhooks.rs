//! Webhooks of the bench's own: HTTPS servers on this machine that change every pod they are shown.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio_rustls::TlsAcceptor;
use xebec_clock::{Clock, Random};
use xebec_pki::{ClusterCa, ServerTls, server_config};

/// Running webhooks; they end when this is dropped. All of it happens in one thread.
pub struct Webhooks {
    /// Where each listens.
    addresses: Vec<SocketAddr>,
    ca_pem: String,
    calls: Rc<Cell<usize>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Webhooks {
    /// Starts `count` of them, each on a port of its own. To be called in a `LocalSet`.
    pub async fn start(count: usize) -> anyhow::Result<Self> {
        let (clock, random) = (Clock::system(), Random::system());
        let ca = ClusterCa::ephemeral(&clock, &random).context("no CA for the webhooks")?;
        let certified = ca.server_cert("webhook", &["127.0.0.1"], SignedDuration::from_hours(1))?;
        let tls = server_config(&ServerTls { certified: &certified, client_ca_pem: ca.certificate_pem() }, &clock)?;
        let ca_pem = ca.certificate_pem().to_owned();
        let mut webhooks = Self { addresses: Vec::new(), ca_pem, calls: Rc::default(), tasks: Vec::new() };
        for number in 0..count {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            webhooks.addresses.push(listener.local_addr()?);
            let task = spawn_local(serve(listener, TlsAcceptor::from(tls.clone()), number, webhooks.calls.clone()));
            webhooks.tasks.push(task.abort_handle());
        }
        Ok(webhooks)
    }

    /// How often one of them was asked.
    pub fn calls(&self) -> usize {
        self.calls.get()
    }

    /// The configuration that has each of them called for new pods.
    pub fn configuration(&self) -> Value {
        let bundle = STANDARD.encode(&self.ca_pem);
        let hooks = self.addresses.iter().enumerate().map(|(number, address)| {
            json!({
                "name": format!("hook-{number}.bench.xebec.io"),
                "clientConfig": {"url": format!("https://{address}/mutate"), "caBundle": bundle},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            })
        });
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "bench"},
            "webhooks": hooks.collect::<Vec<_>>(),
        })
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, number: usize, calls: Rc<Cell<usize>>) {
    // Whatever is open ends with this.
    let mut open = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        open.spawn_local(connection(socket, tls.clone(), number, calls.clone()));
        while open.try_join_next().is_some() {}
    }
}

async fn connection(socket: TcpStream, tls: TlsAcceptor, number: usize, calls: Rc<Cell<usize>>) {
    if let Err(error) = try_connection(socket, tls, number, calls).await {
        tracing::debug!("a connection to webhook {number} ended: {error:#}");
    }
}

async fn try_connection(
    socket: TcpStream,
    tls: TlsAcceptor,
    number: usize,
    calls: Rc<Cell<usize>>,
) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let stream = tls.accept(socket).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let calls = calls.clone();
        async move {
            calls.set(calls.get() + 1);
            let response = match answer(request, number).await {
                Ok(answer) => Response::new(Full::<Bytes>::from(answer)),
                Err(error) => {
                    let mut response = Response::new(Full::from(error.to_string()));
                    *response.status_mut() = http::StatusCode::BAD_REQUEST;
                    response
                }
            };
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(stream);
    if http2 {
        hyper::server::conn::http2::Builder::new(Local).serve_connection(io, service).await?;
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await?;
    }
    Ok(())
}

/// Tasks that stay in their thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

#[derive(Deserialize)]
struct Review {
    request: Asked,
}

#[derive(Deserialize)]
struct Asked {
    uid: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: Option<Value>,
}

/// Yes, and an annotation that says who was asked.
async fn answer(request: Request<Incoming>, number: usize) -> anyhow::Result<Bytes> {
    let body = request.into_body().collect().await.context("the review does not come")?.to_bytes();
    let review: Review = serde_json::from_slice(&body).context("no AdmissionReview")?;
    let mut patch = Vec::new();
    if review.request.object.metadata.annotations.is_none() {
        patch.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    patch.push(
        json!({"op": "add", "path": format!("/metadata/annotations/bench.xebec.io~1hook-{number}"), "value": "seen"}),
    );
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {
            "uid": review.request.uid, "allowed": true, "patchType": "JSONPatch",
            "patch": STANDARD.encode(serde_json::to_vec(&patch)?),
        },
    });
    Ok(serde_json::to_vec(&answer)?.into())
}
