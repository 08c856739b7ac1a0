//! Paths that are no resources: discovery, OpenAPI, version, health, metrics.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xebec_schema::registry::Registry;
use xebec_schema::status::Status;
use xebec_schema::{convert, discovery, openapi};

use crate::aggregation::{Remote, Remotes, merge};
use crate::body::Body;
use crate::metrics::Objects;
use crate::query::Query;
use crate::respond::{self, Wanted};
use crate::server::Shared;
use crate::{chain, health, profiling};

/// The API level, as `/version` says it.
const MINOR: &str = "37";
const GIT_VERSION: &str = "v1.37.0+xebec";

/// What others may do with the documents by which they check our tokens.
const DOCUMENT_CACHING: &str = "public, max-age=3600";

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The same as clients can parse it: an `@` is no part of a media type (kube-openapi `handler`).
const OPENAPI_V2_PROTOBUF_ANSWERED: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Documents made from the table, kept for as long as it stays the same.
#[derive(Default)]
pub struct Documents(Mutex<Cached>);

#[derive(Default)]
struct Cached {
    /// The table, and what other servers serve.
    made_from: Option<(Arc<Registry>, Arc<Remotes>)>,
    /// By path: body and ETag.
    documents: BTreeMap<String, (Bytes, HeaderValue)>,
}

impl Documents {
    /// The document under a name, made by `make` if it is not there yet.
    fn get(
        &self,
        registry: &Arc<Registry>,
        remotes: &Arc<Remotes>,
        name: &str,
        make: impl FnOnce(&Registry) -> Option<Value>,
    ) -> Option<(Bytes, HeaderValue)> {
        let mut cached = self.0.lock();
        let made_from = cached.made_from.as_ref();
        if !made_from.is_some_and(|(old, others)| Arc::ptr_eq(old, registry) && Arc::ptr_eq(others, remotes)) {
            let made_from = Some((registry.clone(), remotes.clone()));
            *cached = Cached { made_from, documents: BTreeMap::new() };
        }
        if let Some(document) = cached.documents.get(name) {
            return Some(document.clone());
        }
        let bytes = Bytes::from(make(registry)?.to_string());
        let mut tag = String::from("\"");
        for byte in Sha256::digest(&bytes) {
            let _ = write!(tag, "{byte:02X}");
        }
        tag.push('"');
        let tag = HeaderValue::from_str(&tag).ok()?;
        cached.documents.insert(name.to_owned(), (bytes.clone(), tag.clone()));
        Some((bytes, tag))
    }
}

/// Serves them.
///
/// # Errors
///
/// 404 for any other path, 405 for methods that do not read.
pub async fn serve(
    server: &Shared,
    parts: &Parts,
    query: &Query,
    wanted: Result<Wanted, Status>,
) -> Result<Response<Body>, Status> {
    let path = parts.uri.path().trim_end_matches('/');
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    if !chain::reads(&parts.method) {
        return Err(Status::method_not_allowed());
    }
    let wanted = wanted.unwrap_or_else(|_| Wanted::plain());
    let aggregated = wants(parts, "g=apidiscovery.k8s.io") && wants(parts, "v=v2");
    let registry = server.registry.load_full();
    let served_by_others = server.aggregated.remotes();
    let remotes = server.aggregated.available(&served_by_others);
    let document = |name: &str, make: &dyn Fn(&Registry) -> Option<Value>| {
        server.documents.get(&registry, &served_by_others, name, make).ok_or_else(Status::no_such_path)
    };
    match segments.as_slice() {
        [] | [""] => Ok(respond::encoded(200, &paths(server, &registry), wanted)),
        [root @ ("api" | "apis")] if aggregated => {
            let core = *root == "api";
            let name = format!("{path} aggregated");
            let (bytes, tag) = document(&name, &|registry| {
                let mut list = discovery::aggregated_v2(registry, core);
                if !core {
                    merge::aggregated(&remotes, &mut list);
                }
                Some(list)
            })?;
            Ok(tagged(parts, bytes, tag, AGGREGATED))
        }
        ["api"] => Ok(respond::json(200, &discovery::api_versions(host(parts)))),
        ["apis"] => {
            let list = document(path, &|registry| {
                let mut list = discovery::group_list(registry);
                merge::group_list(&remotes, &mut list);
                Some(list)
            })?;
            discovered(parts, list)
        }
        ["apis", group] => {
            let of = |registry: &Registry| discovery::group(registry, group).or_else(|| merge::group(&remotes, group));
            discovered(parts, document(path, &of)?)
        }
        ["api", version] => discovered(parts, document(path, &|r| discovery::resource_list(r, "", version))?),
        ["apis", group, version] => {
            let computed = || server.aggregated.built_in(group, version).map(|own| own.resources.clone());
            let of = |registry: &Registry| discovery::resource_list(registry, group, version).or_else(computed);
            discovered(parts, document(path, &of)?)
        }
        ["openapi", "v2"] => openapi_v2(parts, &remotes, &document),
        ["openapi", "v3"] => {
            let (bytes, tag) = document(path, &|registry| {
                let mut index = openapi::v3_index(registry);
                merge::openapi_v3(&remotes, &mut index);
                Some(index)
            })?;
            Ok(tagged(parts, bytes, tag, "application/json"))
        }
        ["openapi", "v3", "api", version] => {
            openapi_v3(parts, document(path, &|r| openapi::v3_document(r, "", version))?)
        }
        ["openapi", "v3", "apis", group, version] if server.aggregated.remote(group, version).is_some() => {
            aggregated_openapi(server, group, version).await
        }
        ["openapi", "v3", "apis", group, version] => {
            let computed = || server.aggregated.built_in(group, version).map(|own| Value::clone(&own.document));
            let of = |registry: &Registry| openapi::v3_document(registry, group, version).or_else(computed);
            openapi_v3(parts, document(path, &of)?)
        }
        ["debug", "pprof"] => profiling::serve("", query).await,
        ["debug", "pprof", name] => profiling::serve(name, query).await,
        ["version"] => Ok(respond::encoded(200, &version(), wanted)),
        [endpoint @ ("healthz" | "livez" | "readyz"), check @ ..] => {
            Ok(health::serve(server, endpoint, &check.join("/"), query).await?)
        }
        ["metrics"] => Ok(respond::raw(200, "text/plain; version=0.0.4", metrics(server, &registry).into_bytes())),
        _ => match server.extensions.documents.get(path) {
            Some((media_type, document)) => {
                let mut response = respond::raw(200, media_type, document.to_string().into_bytes());
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(DOCUMENT_CACHING));
                Ok(response)
            }
            None => Err(Status::no_such_path()),
        },
    }
}

/// How the client reaches this server.
fn host(parts: &Parts) -> &str {
    let header = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    header.or_else(|| parts.uri.authority().map(|authority| authority.as_str())).unwrap_or_default()
}

fn wants(parts: &Parts, what: &str) -> bool {
    parts.headers.get_all(ACCEPT).iter().any(|header| header.to_str().is_ok_and(|text| text.contains(what)))
}

fn discovered(parts: &Parts, (bytes, tag): (Bytes, HeaderValue)) -> Result<Response<Body>, Status> {
    Ok(tagged(parts, bytes, tag, "application/json"))
}

fn openapi_v3(parts: &Parts, (bytes, tag): (Bytes, HeaderValue)) -> Result<Response<Body>, Status> {
    Ok(tagged(parts, bytes, tag, "application/json"))
}

type Make<'a> = &'a dyn Fn(&Registry) -> Option<Value>;
type Document<'a> = &'a dyn Fn(&str, Make<'_>) -> Result<(Bytes, HeaderValue), Status>;

/// The document of another server.
async fn aggregated_openapi(server: &Shared, group: &str, version: &str) -> Result<Response<Body>, Status> {
    let remote = server.aggregated.remote(group, version).ok_or_else(Status::no_such_path)?;
    if remote.openapi_v3.is_empty() {
        return Err(Status::no_such_path());
    }
    match remote.get(&remote.openapi_v3).await {
        Ok((code, bytes)) => Ok(respond::raw(code, "application/json", bytes)),
        Err(why) => Err(Status::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))),
    }
}

fn openapi_v2(parts: &Parts, remotes: &[Arc<Remote>], document: Document<'_>) -> Result<Response<Body>, Status> {
    let make = |registry: &Registry| {
        let mut whole = openapi::v2(registry);
        merge::openapi_v2(remotes, &mut whole);
        Some(whole)
    };
    if wants(parts, OPENAPI_V2_PROTOBUF) && !wants(parts, "application/json") {
        let (json, tag) = document("/openapi/v2", &make)?;
        let document = serde_json::from_slice(&json).map_err(Status::internal)?;
        let bytes = openapi::protobuf::encode(&document).into();
        return Ok(tagged(parts, bytes, tag, OPENAPI_V2_PROTOBUF_ANSWERED));
    }
    let (bytes, tag) = document("/openapi/v2", &make)?;
    Ok(tagged(parts, bytes, tag, "application/json"))
}

/// A document, or 304 for a client that has it.
fn tagged(parts: &Parts, bytes: Bytes, tag: HeaderValue, content_type: &'static str) -> Response<Body> {
    let known = parts.headers.get_all(IF_NONE_MATCH).iter().any(|have| have == tag);
    let mut response = Response::new(if known { Body::Empty } else { bytes.into() });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(ETAG, tag);
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The index of paths.
fn paths(server: &Shared, registry: &Registry) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for group in registry.groups().into_iter().filter(|group| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(registry.versions(group).into_iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.extend(
        ["/debug/pprof", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(Into::into),
    );
    for endpoint in health::ENDPOINTS {
        paths.extend(health::names(server, endpoint).map(|check| format!("/{endpoint}/{check}")));
    }
    paths.sort();
    json!({"paths": paths})
}

fn version() -> Value {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    json!({
        "major": "1", "minor": MINOR,
        "emulationMajor": "1", "emulationMinor": MINOR,
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{arch}"),
    })
}

fn metrics(server: &Shared, registry: &Registry) -> String {
    let mut objects = Vec::new();
    for row in registry.iter().filter(|row| !row.virtual_kind && !convert::is_converted(row)) {
        if let Some(cache) = server.cache.resource(&row.group, &row.plural) {
            objects.push(Objects { group: row.group.to_string(), plural: row.plural.to_string(), count: cache.len() });
        }
    }
    let mut out = server.metrics.render(&objects);
    if let Some(fairness) = &server.extensions.fairness {
        fairness.render(&mut out);
    }
    server.extensions.metrics.iter().for_each(|count| count(&mut out));
    out
}
