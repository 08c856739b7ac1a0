//! Requests for what another server serves (kube-aggregator `apiserver/handler_proxy.go`).

use futures::StreamExt;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::Error as ClientError;
use tokio_util::sync::CancellationToken;
use xebec_schema::status::Status;

use super::Remote;
use crate::authn::UserInfo;
use crate::body::{Body, BoxError, RequestBody};
use crate::respond::{self, Wanted};
use crate::subresource::relay;

/// Headers that are about a connection, not about what goes over it (RFC 9110 section 7.6.1).
const OF_CONNECTIONS: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Lets the other server answer; an upgraded connection becomes one of the client with it.
pub(crate) async fn serve(
    remote: &Remote,
    user: &UserInfo,
    mut parts: Parts,
    body: RequestBody,
    stop: &CancellationToken,
) -> Response<Body> {
    let unavailable = |why: &str| {
        let text = format!("{why}\n");
        respond::raw(503, "text/plain; charset=utf-8", text.into_bytes())
    };
    let Some(clients) = remote.clients.as_ref().filter(|_| remote.available) else {
        return unavailable("service unavailable");
    };
    let protocol = parts.headers.get(UPGRADE).cloned();
    let client = parts.extensions.remove::<OnUpgrade>();
    if protocol.is_some() && client.is_none() {
        return respond::status(
            &Status::bad_request("this connection cannot be upgraded; use HTTP/1.1"),
            Wanted::plain(),
        );
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder().method(parts.method.clone()).uri(format!("{}{path}", remote.base)).body(body);
    let Ok(mut request) = request else { return unavailable("error trying to reach service") };
    let headers = request.headers_mut();
    headers.extend(parts.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    strip(headers);
    headers.remove(HOST);
    headers.remove(AUTHORIZATION);
    set_user(headers, user);
    let http = if protocol.is_some() { &clients.upgrading } else { &clients.plain };
    if let Some(protocol) = protocol {
        upgrade_to(headers, protocol);
    }
    match (http.request(request).await, client) {
        (Ok(response), Some(client)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            switched(client, response, stop.clone())
        }
        (Ok(response), _) => passed_on(response),
        (Err(error), _) => unavailable(&format!("error trying to reach service: {}", why(&error))),
    }
}

fn upgrade_to(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Joins the two connections.
fn switched(
    client: OnUpgrade,
    mut response: Response<hyper::body::Incoming>,
    stop: CancellationToken,
) -> Response<Body> {
    tokio::spawn(relay(client, hyper::upgrade::on(&mut response), stop));
    let (mut parts, _) = response.into_parts();
    let protocol = parts.headers.get(UPGRADE).cloned();
    strip(&mut parts.headers);
    if let Some(protocol) = protocol {
        upgrade_to(&mut parts.headers, protocol);
    }
    Response::from_parts(parts, Body::Empty)
}

fn passed_on(response: Response<hyper::body::Incoming>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    strip(&mut parts.headers);
    let stream = body.into_data_stream().map(|piece| piece.map_err(BoxError::from));
    Response::from_parts(parts, Body::stream(stream))
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in OF_CONNECTIONS.into_iter().chain(named.iter().map(String::as_str)) {
        headers.remove(name);
    }
}

/// Says for whom the request is made. What the client said of that is gone.
pub(super) fn set_user(headers: &mut HeaderMap, user: &UserInfo) {
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        let pair = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value));
        if let (Ok(name), Ok(value)) = pair {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| add("x-remote-group", group));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escape(key));
        values.iter().for_each(|value| add(&name, value));
    }
}

/// A key as a header's name can hold it: what no token may have is percent-encoded, in lower case.
fn escape(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.to_ascii_lowercase().bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

/// What broke a connection, innermost first.
pub(super) fn why(error: &ClientError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_claims_to_be_somebody_else() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("root"));
        headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
        let extra = [("example.com/Scope".to_owned(), vec!["a".to_owned()])].into();
        let user = UserInfo { name: "jane".into(), groups: vec!["a".into(), "b".into()], extra, ..UserInfo::default() };
        set_user(&mut headers, &user);
        assert_eq!(headers["x-remote-user"], "jane");
        let groups: Vec<_> = headers.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["a", "b"]);
        assert_eq!(headers["x-remote-extra-example.com%2fscope"], "a");
    }
}
