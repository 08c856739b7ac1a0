//! A driver for tests: makes itself known by a socket, and prepares what it is asked to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::rpc::{
    ClaimsRequest, Device, PluginInfo, PrepareResponse, PreparedClaim, RegistrationStatus, RegistrationStatusResponse,
    UnprepareResponse, UnpreparedClaim,
};

/// The length of what stands before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// What a driver has been asked, and is to answer.
#[derive(Clone, Debug, Default)]
pub struct FakeDriver(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    driver: String,
    kind: String,
    services: Vec<String>,
    cdi: Vec<String>,
    error: String,
    registered: Option<Result<(), String>>,
    calls: Vec<String>,
}

/// A driver that listens. Dropped, it is gone, and so is its socket.
#[derive(Debug)]
pub struct Listening {
    socket: PathBuf,
    _task: JoinSet<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may have been taken away already.
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl FakeDriver {
    /// A driver whose devices CDI calls so.
    pub fn new(driver: &str, services: &[&str], cdi: &[&str]) -> Self {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let inner = Inner {
            driver: driver.to_owned(),
            kind: "DRAPlugin".to_owned(),
            services: own(services),
            cdi: own(cdi),
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// It says that it is another kind of plugin.
    pub fn is_a(&self, kind: &str) {
        self.0.lock().kind = kind.to_owned();
    }

    /// It answers that it cannot, until told otherwise by nothing.
    pub fn fails_with(&self, error: &str) {
        self.0.lock().error = error.to_owned();
    }

    /// What it was told of its registration, if it was.
    pub fn registered(&self) -> Option<Result<(), String>> {
        self.0.lock().registered.clone()
    }

    /// What it has been asked: `v1 prepare name`.
    pub fn calls(&self) -> Vec<String> {
        self.0.lock().calls.clone()
    }

    /// Listens at a socket, where it makes itself known, too.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn listen(&self, socket: &Path) -> std::io::Result<Listening> {
        let listener = UnixListener::bind(socket)?;
        let driver = self.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let driver = driver.clone();
                let service = hyper::service::service_fn(move |request| {
                    let driver = driver.clone();
                    async move { Ok::<_, Infallible>(driver.answer(request).await) }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(async move {
                    // A connection that breaks is made again.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Listening { socket: socket.to_owned(), _task: task })
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let message = body.slice(PREFIX_BYTES.min(body.len())..);
        let method = path.rsplit('/').next().unwrap_or_default();
        match method {
            "GetInfo" => {
                let inner = self.0.lock();
                encode(&PluginInfo {
                    kind: inner.kind.clone(),
                    name: inner.driver.clone(),
                    endpoint: String::new(),
                    supported_versions: inner.services.clone(),
                })
            }
            "NotifyRegistrationStatus" => {
                let status = RegistrationStatus::decode(message).unwrap_or_default();
                let outcome = if status.plugin_registered { Ok(()) } else { Err(status.error) };
                self.0.lock().registered = Some(outcome);
                encode(&RegistrationStatusResponse {})
            }
            "NodePrepareResources" => {
                let asked = self.note(&path, "prepare", message);
                let inner = self.0.lock();
                let devices = |name: &str| {
                    vec![Device {
                        pool_name: "pool".into(),
                        device_name: name.into(),
                        cdi_device_ids: inner.cdi.clone(),
                        ..Device::default()
                    }]
                };
                let claims = asked.claims.into_iter().map(|claim| {
                    (claim.uid, PreparedClaim { devices: devices(&claim.name), error: inner.error.clone() })
                });
                encode(&PrepareResponse { claims: claims.collect::<BTreeMap<_, _>>() })
            }
            _ => {
                let asked = self.note(&path, "unprepare", message);
                let error = &self.0.lock().error;
                let claims = asked.claims.into_iter().map(|c| (c.uid, UnpreparedClaim { error: error.clone() }));
                encode(&UnprepareResponse { claims: claims.collect::<BTreeMap<_, _>>() })
            }
        }
    }

    fn note(&self, path: &str, what: &str, message: Bytes) -> ClaimsRequest {
        let asked = ClaimsRequest::decode(message).unwrap_or_default();
        let version = if path.contains(".v1beta1.") { "v1beta1" } else { "v1" };
        let calls = asked.claims.iter().map(|claim| format!("{version} {what} {}", claim.name));
        self.0.lock().calls.extend(calls);
        asked
    }
}

type Answer = StreamBody<futures::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>;

/// A message, and that all went well.
fn encode(message: &impl Message) -> Response<Answer> {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.extend_from_slice(&message.encode_to_vec());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(out.freeze())), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
