//! `proxy` of pods, services and nodes: the request goes to what they serve by HTTP, and the answer comes back as it is
//! (`registry/core/{pod,service,node}/rest/subresources.go`, apimachinery `util/proxy`).
//!
//! The name in the path is `[scheme:]name[:port]`. By `https`, whatever certificate is shown is taken, as upstream does:
//! who serves what in a pod has no name that a certificate could prove.

use http::header::{ACCEPT_ENCODING, HeaderValue, LOCATION};
use http::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use xebec_schema::status::Status;

use super::connect::{agent, exchange, host, to_agent, unavailable};
use super::links::Links;
use crate::admission::Operation;
use crate::body::{Body, RequestBody};
use crate::chain::Call;
use crate::json::{decode, list, text};
use crate::reader::Reader;
use crate::verbs::admit::{self, Admission};
use crate::webhook::{any_certificate, ready_addresses};

/// Serves it.
///
/// # Errors
///
/// 404 for what does not exist, 400 for what has no address or port, 502 and 503 if nothing answers there.
pub async fn serve(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    let Some(path) = below_proxy(call.parts.uri.path(), &call.resource.plural) else {
        return Err(Status::no_such_path());
    };
    let query = call.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    if path.is_empty() && matches!(call.parts.method, Method::GET | Method::HEAD) {
        return redirect(&format!("{}/{query}", call.parts.uri.path()));
    }
    let path = format!("{}{query}", if path.is_empty() { "/" } else { path });
    let Named { tls, name, port } = split(&call.path.name)?;
    call.path.name = name;
    let object = super::parent(call).await?;
    let admission = Admission { operation: Operation::Connect, old: Some(&object), dry_run: false };
    admit::mutate(call, admission, None).await?;
    admit::validate(call, admission, None).await?;
    if call.resource.plural == "nodes" {
        return to_node(call, body, tls, &port, &path).await;
    }
    let address = match call.resource.plural.as_ref() {
        "pods" => of_pod(&object, &port)?,
        _ => of_service(call, &object, &port)?,
    };
    // Compressed pages cannot be read on their way.
    call.parts.headers.remove(ACCEPT_ENCODING);
    let whole = call.parts.uri.path();
    let own = path.split('?').next().unwrap_or_default();
    let links = Links { host: address.clone(), prefix: whole.strip_suffix(own).unwrap_or(whole).to_owned() };
    to_address(call, body, tls, &address, &path).await.map(|answer| links.in_answer(answer))
}

/// What follows `/{plural}/{name}/proxy` in the path as it was sent.
pub(crate) fn below_proxy<'a>(path: &'a str, plural: &str) -> Option<&'a str> {
    let marker = format!("/{plural}/");
    let after = &path[path.find(&marker)? + marker.len()..];
    after[after.find('/')?..].strip_prefix("/proxy")
}

/// Relative links in what is served work below a slash only.
fn redirect(to: &str) -> Result<Response<Body>, Status> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(to).map_err(Status::internal)?);
    Ok(response)
}

/// Whom a path names.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    tls: bool,
    name: String,
    /// A name or a number; the default one if empty.
    port: String,
}

/// Reads `[scheme:]name[:port]` (apimachinery `SplitSchemeNamePort`).
fn split(id: &str) -> Result<Named, Status> {
    let named = |tls, name: &str, port: &str| Named { tls, name: name.to_owned(), port: port.to_owned() };
    let parts: Vec<&str> = id.split(':').collect();
    let found = match parts[..] {
        [name] => named(false, name, ""),
        [name, port] => named(false, name, port),
        ["http" | "", name, port] => named(false, name, port),
        ["https", name, port] => named(true, name, port),
        _ => return Err(Status::bad_request(format!("invalid service request {id:?}"))),
    };
    if found.name.is_empty() {
        return Err(Status::bad_request(format!("invalid service request {id:?}")));
    }
    Ok(found)
}

fn of_pod(pod: &Value, port: &str) -> Result<String, Status> {
    let name = text(pod, "/metadata/name");
    let address = text(pod, "/status/podIP");
    if address.is_empty() {
        return Err(Status::bad_request(format!("pod {name} has no address yet")));
    }
    // The first port that a container declares, if none is asked for.
    let declared =
        list(pod, "/spec/containers").iter().flat_map(|c| list(c, "/ports")).find_map(|p| p["containerPort"].as_u64());
    let port = match port {
        "" => declared.unwrap_or(80).to_string(),
        port => port.to_owned(),
    };
    port.parse::<u16>().map_err(|_| Status::bad_request(format!("invalid port {port:?} of pod {name}")))?;
    Ok(if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
}

/// One of the ready endpoints behind a port, which is named or numbered.
fn of_service(call: &Call, service: &Value, port: &str) -> Result<String, Status> {
    let name = text(service, "/metadata/name");
    let ports = list(service, "/spec/ports");
    let found = match port {
        "" if ports.len() == 1 => ports.first(),
        // Without a name it is the one without a name.
        _ => ports.iter().find(|p| text(p, "/name") == port || port.parse() == Ok(p["port"].as_u64().unwrap_or(0))),
    };
    let Some(found) = found else {
        return Err(unavailable(format!("no service port {port:?} found for service {name:?}")));
    };
    let mut addresses = Vec::new();
    for slice in call.server.cache.list("discovery.k8s.io", "endpointslices", text(service, "/metadata/namespace")) {
        let of_service = slice
            .labels
            .iter()
            .any(|(key, value)| key.as_ref() == "kubernetes.io/service-name" && value.as_ref() == name);
        if of_service {
            ready_addresses(&decode(&slice.bytes), text(found, "/name"), &mut addresses);
        }
    }
    if addresses.is_empty() {
        return Err(unavailable(format!("no endpoints available for service {name:?}")));
    }
    let at = call.server.random.below(addresses.len() as u64);
    Ok(addresses.swap_remove(usize::try_from(at).unwrap_or_default()))
}

async fn to_address(
    call: &mut Call,
    body: RequestBody,
    tls: bool,
    address: &str,
    path: &str,
) -> Result<Response<Body>, Status> {
    let failed = |error: &dyn std::fmt::Display| {
        unavailable(format!("error trying to reach service: dial tcp {address}: {error}"))
    };
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let host = HeaderValue::from_str(address).map_err(Status::internal)?;
    if !tls {
        return exchange(call, body, stream, &host, path, failed, |_| {}).await;
    }
    let ip = stream.peer_addr().map_err(|error| failed(&error))?.ip();
    let stream = TlsConnector::from(any_certificate().map_err(Status::internal)?).connect(ip.into(), stream).await;
    let stream = stream.map_err(|error| failed(&error))?;
    exchange(call, body, stream, &host, path, failed, |_| {}).await
}

async fn to_node(
    call: &mut Call,
    body: RequestBody,
    tls: bool,
    port: &str,
    path: &str,
) -> Result<Response<Body>, Status> {
    let node = call.path.name.clone();
    let (address, agents) = agent(call, &node)?;
    if port.is_empty() || port == agents.to_string() {
        let stream = to_agent(call, &node, &address, agents).await?;
        let failed = |error: &dyn std::fmt::Display| unavailable(format!("agent of node {node}: {error}"));
        return exchange(call, body, stream, &host(&address, agents)?, path, failed, |_| {}).await;
    }
    let port: u16 = port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?} of node {node}")))?;
    let address = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    to_address(call, body, tls, &address, path).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_have_schemes_and_ports() {
        let split = |id| split(id).map_err(|status| status.code);
        let named = |tls, name: &str, port: &str| Ok(Named { tls, name: name.into(), port: port.into() });
        assert_eq!(split("web"), named(false, "web", ""));
        assert_eq!(split("web:80"), named(false, "web", "80"));
        assert_eq!(split("http:web:http"), named(false, "web", "http"));
        assert_eq!(split("http:web:"), named(false, "web", ""));
        assert_eq!(split("https:web:443"), named(true, "web", "443"));
        for wrong in ["a:b:c:d", "ftp:web:21", ":80"] {
            assert_eq!(split(wrong), Err(400), "{wrong}");
        }
    }

    #[test]
    fn paths_are_passed_on_as_they_are() {
        let below = |path| below_proxy(path, "pods");
        assert_eq!(below("/api/v1/namespaces/a/pods/web:80/proxy/x%20y/"), Some("/x%20y/"));
        assert_eq!(below("/api/v1/namespaces/a/pods/web/proxy"), Some(""));
        assert_eq!(below("/api/v1/namespaces/a/pods/web/log"), None);
    }

    #[test]
    fn pods_have_a_default_port() {
        let pod = json!({"metadata": {"name": "p"}, "status": {"podIP": "10.0.0.1"},
            "spec": {"containers": [{}, {"ports": [{"containerPort": 8080}]}]}});
        assert_eq!(of_pod(&pod, "").ok().as_deref(), Some("10.0.0.1:8080"));
        assert_eq!(of_pod(&pod, "81").ok().as_deref(), Some("10.0.0.1:81"));
        assert!(of_pod(&pod, "x").is_err());
        assert!(of_pod(&json!({"metadata": {"name": "p"}}), "").is_err());
    }
}
