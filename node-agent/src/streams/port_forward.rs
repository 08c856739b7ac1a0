//! Port-forward: pairs of SPDY streams (`portforward.k8s.io`), over SPDY itself or tunnelled in a WebSocket (KEP-4006).

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::remote_command::{is_spdy, is_websocket, spdy_upgrade, websocket_upgrade};
use super::{Backend, StreamError, spdy, websocket};

const PROTOCOL: &str = "portforward.k8s.io";
const TUNNEL_PROTOCOLS: [&str; 1] = ["SPDY/3.1+portforward.k8s.io"];
/// Streams that wait for the other one of their pair.
const MAX_UNPAIRED: usize = 256;

/// Answers a request for port-forward.
pub(super) async fn serve(
    backend: Arc<dyn Backend>,
    namespace: String,
    pod: String,
    mut request: Request,
) -> Result<Response, StreamError> {
    if is_websocket(&request) {
        let upgrade = websocket_upgrade(request, &TUNNEL_PROTOCOLS).await?;
        return Ok(upgrade.on_upgrade(|socket| forward(backend, namespace, pod, websocket::tunnel(socket))));
    }
    if !is_spdy(&request) {
        return Err(StreamError::BadRequest("Upgrade request required".into()));
    }
    let response = spdy_upgrade(&request, PROTOCOL)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            forward(backend, namespace, pod, TokioIo::new(upgraded)).await;
        }
    });
    Ok(response)
}

/// Serves each connection that the client makes, until it goes away.
async fn forward<IO>(backend: Arc<dyn Backend>, namespace: String, pod: String, io: IO)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut streams = spdy::serve(io);
    let mut unpaired: HashMap<String, spdy::Stream> = HashMap::new();
    let mut connections = tokio::task::JoinSet::new();
    while let Some(stream) = streams.recv().await {
        while connections.try_join_next().is_some() {}
        let Some(id) = stream.header("requestid").map(str::to_owned) else { continue };
        let Some(other) = unpaired.remove(&id) else {
            if unpaired.len() < MAX_UNPAIRED {
                unpaired.insert(id, stream);
            }
            continue;
        };
        let (data, error) = if stream.header("streamtype") == Some("data") { (stream, other) } else { (other, stream) };
        let (backend, namespace, pod) = (backend.clone(), namespace.clone(), pod.clone());
        connections.spawn(async move { connect(&*backend, &namespace, &pod, data, error).await });
    }
    // The client is gone: its connections go with it, as the set is dropped.
}

/// One connection: the data stream and the pod's port, until both directions are done.
async fn connect(backend: &dyn Backend, namespace: &str, pod: &str, data: spdy::Stream, mut error: spdy::Stream) {
    let port = data.header("port").unwrap_or_default();
    let port: Result<u16, _> = port.parse().map_err(|_| StreamError::BadRequest(format!("{port:?} is not a port")));
    let result = async {
        let port = port?;
        let target = backend.connect(namespace, pod, port).await;
        target.map_err(|e| StreamError::Internal(format!("error forwarding port {port} to pod {pod}: {e}")))
    };
    match result.await {
        Ok(target) => {
            let mut client = tokio::io::join(data.input, data.output);
            let mut target = target;
            // However it ends, both sides see the end of the stream.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut target).await;
            let _ = client.shutdown().await;
        }
        Err(failure) => {
            let _ = error.output.write_all(failure.to_string().as_bytes()).await;
            let mut output = data.output;
            let _ = output.shutdown().await;
        }
    }
    let _ = error.output.shutdown().await;
}
