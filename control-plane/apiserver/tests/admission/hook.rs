//! A webhook on loopback, over TLS.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a webhook says to a review: the code and the body of its answer.
pub type Say = dyn Fn(&Value) -> (u16, Vec<u8>) + Send + Sync;

/// A webhook that runs until it is dropped.
pub struct Hook {
    pub address: SocketAddr,
    /// Its certificate, which it has signed itself.
    pub authority: String,
    pub connections: Arc<AtomicUsize>,
    pub reviews: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hook {
    /// One whose certificate is for `names`.
    pub async fn start(names: &[&str], say: impl Fn(&Value) -> (u16, Vec<u8>) + Send + Sync + 'static) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let chain: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, reviews) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let say: Arc<Say> = Arc::new(say);
        let task = tokio::spawn(serve(listener, Arc::new(config), connections.clone(), reviews.clone(), say));
        Self { address, authority: made.cert.pem(), connections, reviews, task }
    }

    /// One for `localhost`.
    pub async fn local(say: impl Fn(&Value) -> (u16, Vec<u8>) + Send + Sync + 'static) -> Self {
        Self::start(&["localhost"], say).await
    }

    /// The `clientConfig` that reaches it by URL.
    pub fn config(&self) -> Value {
        json!({"url": format!("https://localhost:{}/hook", self.address.port()), "caBundle": self.bundle()})
    }

    pub fn bundle(&self) -> String {
        STANDARD.encode(&self.authority)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn reviews(&self) -> Vec<Value> {
        self.reviews.lock().unwrap().clone()
    }
}

async fn serve(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    connections: Arc<AtomicUsize>,
    reviews: Arc<Mutex<Vec<Value>>>,
    say: Arc<Say>,
) {
    // Connections end with the webhook.
    let mut open = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, reviews, say) = (TlsAcceptor::from(config.clone()), reviews.clone(), say.clone());
        let connections = connections.clone();
        open.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            connections.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(move |request: Request<Incoming>| {
                let (reviews, say) = (reviews.clone(), say.clone());
                async move {
                    // What has no body is known by its path.
                    let asked = json!({"path": request.uri().path()});
                    let body = request.into_body().collect().await?.to_bytes();
                    let review: Value = serde_json::from_slice(&body).unwrap_or(asked);
                    reviews.lock().unwrap().push(review.clone());
                    let (code, body) = say(&review);
                    if code == 0 {
                        std::future::pending::<()>().await;
                    }
                    let response = Response::builder().status(code).body(Full::new(Bytes::from(body)));
                    Ok::<_, hyper::Error>(response.unwrap())
                }
            });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The answer to a review.
pub fn answer(review: &Value, mut response: Value) -> (u16, Vec<u8>) {
    response["uid"] = review["request"]["uid"].clone();
    let answer = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
    (200, answer.to_string().into_bytes())
}

/// The answer that lets a request through.
pub fn allow(review: &Value) -> (u16, Vec<u8>) {
    answer(review, json!({"allowed": true}))
}

/// The answer that changes the object.
pub fn patch(review: &Value, operations: &Value) -> (u16, Vec<u8>) {
    let patch = STANDARD.encode(operations.to_string());
    answer(review, json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"}))
}
