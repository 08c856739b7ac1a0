//! `log`, `exec`, `attach`, `portforward`: the server finds the pod's node, and passes the request on to its agent.
//! What the client and the agent then say to each other (WebSocket or SPDY frames, a log) goes through as it is.

use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use xebec_schema::status::Status;

use super::parent;
use crate::admission::Operation;
use crate::authn::UserInfo;
use crate::body::{Body, BoxError, RequestBody};
use crate::chain::Call;
use crate::extension::NodeStream;
use crate::query::{self, Query};
use crate::reader::Reader;
use crate::verbs::admit::{self, Admission};
use crate::websocket::{self, Wish};

/// The agent's port, where the node does not say another.
const AGENT_PORT: u16 = 10250;
/// Headers that are between two ends of one connection (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] =
    [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING];

/// Parameters of `log` that the agent takes as they are.
const LOG_PARAMETERS: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
/// Switches of `exec` and `attach`: the API's name, the agent's.
const STREAM_SWITCHES: [(&str, &str); 4] =
    [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

/// Serves it.
///
/// # Errors
///
/// 404 for what does not exist, 400 for a request that makes no sense, 502 and 503 for agents that do not answer.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let pod = parent(call).await?;
    let subresource = call.path.subresource.clone();
    if subresource != "log" {
        let admission = Admission { operation: Operation::Connect, old: Some(&pod), dry_run: false };
        admit::mutate(call, admission, None).await?;
        admit::validate(call, admission, None).await?;
    }
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let path = location(&call.query, &subresource, &pod)?;
    if node.is_empty() {
        if subresource == "log" {
            // Nothing has run, so nothing has been said.
            return Ok(crate::respond::raw(200, "text/plain", Vec::new()));
        }
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", call.path.name)));
    }
    let (address, port) = agent(call, &node)?;
    if subresource == "log" && websocket::is_wanted(&call.parts.headers) {
        let wish = Wish::take(&mut call.parts)?;
        let (framing, protocol) = wish.bytes()?;
        let answer = forward(call, body, &node, &address, port, &path).await?;
        return wish.grant(answer, framing, protocol, call.server.stop.clone());
    }
    forward(call, body, &node, &address, port, &path).await
}

/// Path and query of the agent's API.
fn location(query: &Query, subresource: &str, pod: &Value) -> Result<String, Status> {
    let name = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
    let object = format!("{}/{}", name("namespace"), name("name"));
    let mut parameters: Vec<(String, String)> = Vec::new();
    let path = match subresource {
        "portforward" => {
            let ports = query.all("ports").flat_map(|ports| ports.split(','));
            parameters.extend(ports.map(|port| ("port".to_owned(), port.to_owned())));
            format!("/portForward/{object}")
        }
        "log" => {
            let given = LOG_PARAMETERS.iter().filter(|key| query.has(key));
            parameters.extend(given.map(|key| ((*key).to_owned(), query.get(key).to_owned())));
            format!("/containerLogs/{object}/{}", container(query.get("container"), pod)?)
        }
        _ => {
            for (ours, agents) in STREAM_SWITCHES.iter().filter(|(ours, _)| query.flag(ours)) {
                let _ = ours;
                parameters.push(((*agents).to_owned(), "1".to_owned()));
            }
            parameters.extend(query.all("command").map(|word| ("command".to_owned(), word.to_owned())));
            let path = if subresource == "exec" { "exec" } else { "attach" };
            format!("/{path}/{object}/{}", container(query.get("container"), pod)?)
        }
    };
    let query: Vec<_> = parameters.iter().map(|(key, value)| format!("{key}={}", query::encode(value))).collect();
    Ok(if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) })
}

/// The container that is meant.
fn container(asked: &str, pod: &Value) -> Result<String, Status> {
    let names = |of: &str| -> Vec<&str> {
        pod["spec"][of].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let (containers, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if !asked.is_empty() {
        let known = containers.iter().chain(&init).chain(&ephemeral).any(|name| *name == asked);
        let unknown = || Status::bad_request(format!("container {asked} is not valid for pod {pod_name}"));
        return if known { Ok(asked.to_owned()) } else { Err(unknown()) };
    }
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (default.filter(|name| containers.contains(name)), containers.as_slice()) {
        (Some(name), _) => Ok(name.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => {
            let all = containers.join(" ");
            let mut message = format!("a container name must be specified for pod {pod_name}, choose one of: [{all}]");
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

/// Where the node's agent listens.
pub(super) fn agent(call: &Call, node: &str) -> Result<(String, u16), Status> {
    let entry = call.server.cache.get("", "nodes", "", node).ok_or_else(|| Status::not_found("", "nodes", node))?;
    let node_object: Value = serde_json::from_slice(&entry.bytes).map_err(Status::internal)?;
    let status = &node_object["status"];
    let address = |kind: &str| {
        let addresses = status["addresses"].as_array().into_iter().flatten();
        addresses.filter(|a| a["type"] == kind).find_map(|a| a["address"].as_str())
    };
    let found = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"].iter().find_map(|k| address(k));
    let found = found.ok_or_else(|| unavailable(format!("no address for node {node} is known")))?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(AGENT_PORT);
    Ok((found.to_owned(), port))
}

pub(super) fn unavailable(message: String) -> Status {
    Status::new(503, "ServiceUnavailable", message)
}

async fn forward(
    call: &mut Call,
    body: RequestBody,
    node: &str,
    address: &str,
    port: u16,
    path: &str,
) -> Result<Response<Body>, Status> {
    let stream = to_agent(call, node, address, port).await?;
    let failed = |error: &dyn std::fmt::Display| agent_failed(node, address, port, error);
    let user = call.user.clone();
    exchange(call, body, stream, &host(address, port)?, path, failed, |headers| name_user(headers, &user)).await
}

fn agent_failed(node: &str, address: &str, port: u16, error: &dyn std::fmt::Display) -> Status {
    Status::new(502, "", format!("error dialing backend: agent of node {node} at {address}:{port}: {error}"))
}

/// A connection to a node's agent, as the server.
pub(super) async fn to_agent(call: &Call, node: &str, address: &str, port: u16) -> Result<Box<dyn NodeStream>, Status> {
    let nodes = call.server.extensions.nodes.clone();
    let nodes = nodes.ok_or_else(|| unavailable("this server has no way to the nodes".to_owned()))?;
    nodes.connect(node, address, port).await.map_err(|error| agent_failed(node, address, port, &error))
}

/// Passes the request on over a connection, and the answer back; an upgrade, too.
pub(super) async fn exchange<S>(
    call: &mut Call,
    body: RequestBody,
    stream: S,
    host: &HeaderValue,
    path: &str,
    failed: impl Fn(&dyn std::fmt::Display) -> Status,
    headers_for: impl FnOnce(&mut HeaderMap),
) -> Result<Response<Body>, Status>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });

    let upgrade = call.parts.headers.contains_key(UPGRADE);
    let client = call.parts.extensions.remove::<OnUpgrade>();
    if upgrade && client.is_none() {
        return Err(Status::bad_request("this connection cannot be upgraded; use HTTP/1.1"));
    }
    let mut request = Request::builder().method(call.parts.method.clone()).uri(path);
    if let Some(headers) = request.headers_mut() {
        *headers = passed_on(&call.parts.headers, upgrade);
        headers.insert(HOST, host.clone());
        headers_for(headers);
    }
    let request = request.body(body).map_err(Status::internal)?;
    let mut answer = sender.send_request(request).await.map_err(|e| failed(&e))?;

    let mut response = Response::builder().status(answer.status());
    let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let Some(headers) = response.headers_mut() {
        *headers = passed_on(answer.headers(), switched);
    }
    if let (true, Some(client)) = (switched, client) {
        let agent = hyper::upgrade::on(&mut answer);
        tokio::spawn(relay(client, agent, call.server.stop.clone()));
        return response.body(Body::Empty).map_err(Status::internal);
    }
    let stream = answer.into_body().into_data_stream();
    let stream = futures::StreamExt::map(stream, |piece| piece.map_err(BoxError::from));
    response.body(Body::stream(stream)).map_err(Status::internal)
}

pub(super) fn host(address: &str, port: u16) -> Result<HeaderValue, Status> {
    let host = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    HeaderValue::from_str(&host).map_err(Status::internal)
}

/// The headers that concern the other end. Credentials are for this server.
fn passed_on(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut out = headers.clone();
    out.remove(AUTHORIZATION);
    for name in &HOP_BY_HOP {
        out.remove(name);
    }
    if upgrade {
        out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        out.remove(UPGRADE);
    }
    out
}

/// For the agent's log.
fn name_user(headers: &mut HeaderMap, user: &UserInfo) {
    if let Ok(value) = HeaderValue::from_str(&user.name) {
        headers.insert(HeaderName::from_static("x-remote-user"), value);
    }
}

/// Carries bytes both ways until one end is done.
pub(crate) async fn relay(client: OnUpgrade, agent: OnUpgrade, stop: tokio_util::sync::CancellationToken) {
    let (client, agent) = match tokio::try_join!(client, agent) {
        Ok(ends) => ends,
        Err(error) => {
            tracing::debug!(%error, "an upgrade did not come about");
            return;
        }
    };
    let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        result = tokio::io::copy_bidirectional(&mut client, &mut agent) => {
            if let Err(error) = result {
                tracing::debug!(%error, "an upgraded connection ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_the_kubelets() {
        let pod = json!({"metadata": {"namespace": "ns", "name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let at = |subresource: &str, query: &str| location(&Query::parse(Some(query)), subresource, &pod);
        assert_eq!(
            at("exec", "container=b&stdin=true&stdout=1&tty=false&command=sh&command=-c&command=a+b").unwrap(),
            "/exec/ns/p/b?input=1&output=1&command=sh&command=-c&command=a%20b"
        );
        assert_eq!(at("log", "container=a&tailLines=5&pretty=1").unwrap(), "/containerLogs/ns/p/a?tailLines=5");
        assert_eq!(at("portforward", "ports=80,81").unwrap(), "/portForward/ns/p?port=80&port=81");
        let message = at("attach", "").unwrap_err().message;
        assert_eq!(message, "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(at("log", "container=x").unwrap_err().message, "container x is not valid for pod p");
    }
}
