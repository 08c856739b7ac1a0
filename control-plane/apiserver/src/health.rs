//! `/livez`, `/readyz` and `/healthz`: what is well, in upstream's names (apiserver `server/healthz`).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::{HeaderName, Response};
use xebec_schema::status::Status;

use crate::body::Body;
use crate::extension::Check;
use crate::query::Query;
use crate::respond;
use crate::server::Shared;

/// Where they are served.
pub(crate) const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];
const TEXT: &str = "text/plain; charset=utf-8";
const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// How long the store may take to answer (upstream's `--etcd-healthcheck-timeout` and `--etcd-readycheck-timeout`).
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a server does before it answers its first request: who asks for them, finds them done.
const AT_FIRST: [&str; 16] = [
    "start-apiserver-admission-initializer",
    "generic-apiserver-start-informers",
    "priority-and-fairness-config-consumer",
    "priority-and-fairness-filter",
    "storage-object-count-tracker-hook",
    "start-apiextensions-informers",
    "start-apiextensions-controllers",
    "crd-informer-synced",
    "aggregator-reload-proxy-client-cert",
    "start-kube-aggregator-informers",
    "apiservice-status-local-available-controller",
    "apiservice-status-remote-available-controller",
    "apiservice-registration-controller",
    "apiservice-discovery-controller",
    "apiservice-openapi-controller",
    "apiservice-openapiv3-controller",
];

/// What is done when the objects are there that every cluster has.
const BY_AND_BY: [&str; 10] = [
    "start-system-namespaces-controller",
    "start-cluster-authentication-info-controller",
    "start-kube-apiserver-identity-lease-controller",
    "start-kube-apiserver-identity-lease-garbage-collector",
    "rbac/bootstrap-roles",
    "scheduling/bootstrap-system-priority-classes",
    "priority-and-fairness-config-producer",
    "bootstrap-controller",
    "start-kubernetes-service-cidr-controller",
    "kube-apiserver-autoregistration",
];

/// A part of what is well, or not.
enum Part {
    /// The server answers, so it is. (Its log is written before anything goes on, so that this says that it is, too.)
    Answers,
    /// The store answers.
    Store,
    /// The cache follows the store.
    Follows,
    /// The server is not about to stop.
    Stays,
    /// Something that is looked up.
    Looked(Check),
}

impl Part {
    async fn check(&self, server: &Shared) -> Result<(), String> {
        match self {
            Self::Answers => Ok(()),
            Self::Store => match tokio::time::timeout(STORE_TIMEOUT, server.store.revision()).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the store does not answer".into()),
            },
            Self::Follows if server.cache.is_following() => Ok(()),
            Self::Follows => Err("what is stored is being read again".into()),
            Self::Stays if server.stop.is_cancelled() => Err("process is shutting down".into()),
            Self::Stays => Ok(()),
            Self::Looked(check) => check(),
        }
    }
}

/// Everything that an endpoint tells of.
fn parts(server: &Shared, endpoint: &str) -> Vec<(String, Part)> {
    let mut parts =
        vec![("ping".to_owned(), Part::Answers), ("log".into(), Part::Answers), ("etcd".into(), Part::Store)];
    if endpoint == "readyz" {
        parts.push(("etcd-readiness".into(), Part::Store));
        parts.push(("informer-sync".into(), Part::Follows));
    }
    for (name, check) in &server.extensions.health {
        parts.push((name.clone(), Part::Looked(check.clone())));
    }
    parts.extend(AT_FIRST.map(|hook| (format!("poststarthook/{hook}"), Part::Answers)));
    let started = server.extensions.started.clone().unwrap_or_else(|| Arc::new(|| Ok(())));
    parts.extend(BY_AND_BY.map(|hook| (format!("poststarthook/{hook}"), Part::Looked(started.clone()))));
    parts.push(("autoregister-completion".into(), Part::Looked(started)));
    if endpoint == "readyz" {
        parts.push(("shutdown".into(), Part::Stays));
    }
    parts
}

/// The names of everything that an endpoint tells of.
pub(crate) fn names(server: &Shared, endpoint: &str) -> impl Iterator<Item = String> + use<> {
    parts(server, endpoint).into_iter().map(|(name, _)| name)
}

/// Serves an endpoint, or one of its checks.
///
/// # Errors
///
/// 404 if there is no such check.
pub(crate) async fn serve(
    server: &Shared,
    endpoint: &str,
    only: &str,
    query: &Query,
) -> Result<Response<Body>, Status> {
    let parts = parts(server, endpoint);
    if only.is_empty() {
        return Ok(all(server, endpoint, &parts, query).await);
    }
    let (name, part) = parts.iter().find(|(name, _)| name == only).ok_or_else(Status::no_such_path)?;
    Ok(match part.check(server).await {
        Ok(()) => text(200, "ok".into()),
        Err(why) => {
            tracing::debug!("{name} check failed: {endpoint}: {why}");
            text(500, format!("internal server error: {why}\n"))
        }
    })
}

async fn all(server: &Shared, endpoint: &str, parts: &[(String, Part)], query: &Query) -> Response<Body> {
    let mut excluded: Vec<&str> = query.all("exclude").filter(|name| !name.is_empty()).collect();
    let (mut out, mut failed) = (String::new(), Vec::new());
    for (name, part) in parts {
        if excluded.contains(&name.as_str()) {
            excluded.retain(|excluded| excluded != name);
            let _ = writeln!(out, "[+]{name} excluded: ok");
            continue;
        }
        match part.check(server).await {
            Ok(()) => {
                let _ = writeln!(out, "[+]{name} ok");
            }
            // Anybody may ask; why it is so is for the log.
            Err(why) => {
                let _ = writeln!(out, "[-]{name} failed: reason withheld");
                failed.push(format!("{name}: {why}"));
            }
        }
    }
    if !excluded.is_empty() {
        excluded.sort_unstable();
        excluded.dedup();
        let unknown: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let unknown = unknown.join(",");
        let _ = writeln!(out, "warn: some health checks cannot be excluded: no matches for {unknown}");
    }
    if !failed.is_empty() {
        tracing::debug!("{endpoint} check failed: {}", failed.join(", "));
        return text(500, format!("{out}{endpoint} check failed\n"));
    }
    text(200, if query.has("verbose") { format!("{out}{endpoint} check passed\n") } else { "ok".into() })
}

fn text(code: u16, text: String) -> Response<Body> {
    let mut response = respond::raw(code, TEXT, text.into_bytes());
    response.headers_mut().insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    response
}
