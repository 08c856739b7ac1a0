//! Requests of clients (apiserver `endpoints/metrics`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::request::Parts;
use xebec_metrics::{Counters, Histograms, Labels, WithCode, label};

use crate::query::Query;
use crate::request::Target;
use crate::server::Shared;

/// The ends of the buckets of latencies, in seconds.
const BOUNDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// Paths that are told apart; of others there may be any number.
const PATHS: [&str; 10] =
    ["/", "/api", "/apis", "/healthz", "/livez", "/readyz", "/metrics", "/openapi/v2", "/openapi/v3", "/version"];

/// What is counted of requests.
#[derive(Debug)]
pub(crate) struct Requests {
    total: Counters<WithCode<Asked>>,
    took: Histograms<Asked>,
    running: Counters<Kind>,
    long_running: Counters<Asked>,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            total: Counters::new("apiserver_request_total"),
            took: Histograms::new("apiserver_request_duration_seconds", &BOUNDS),
            running: Counters::gauges("apiserver_current_inflight_requests"),
            long_running: Counters::gauges("apiserver_longrunning_requests"),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    group: Cow<'static, str>,
    version: Cow<'static, str>,
    resource: Cow<'static, str>,
    subresource: Cow<'static, str>,
    verb: &'static str,
    scope: &'static str,
    dry_run: bool,
}

/// Whether a request changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Mutating,
    ReadOnly,
}

impl Asked {
    /// What a request asks for, as far as that is told apart.
    pub(crate) fn of(target: &Target, parts: &Parts, query: &Query) -> Self {
        let path = match target {
            Target::Path => return Self::path(parts),
            Target::Resource(path) => path,
        };
        // What is not served is anything that somebody may think of.
        let row = path.resource.as_deref();
        let of_row = |part: fn(&xebec_schema::resource::Resource) -> &Cow<'static, str>| row.map(part).cloned();
        let known = row.and_then(|row| row.subresource(&path.subresource)).map(|known| known.name.clone());
        let scope = match (path.name.is_empty() && path.verb != "create", path.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        let applies = || {
            let content = parts.headers.get(http::header::CONTENT_TYPE);
            content.is_some_and(|content| content.as_bytes().starts_with(b"application/apply-patch"))
        };
        let verb = match (path.verb, path.subresource.as_str()) {
            (_, "exec" | "attach" | "portforward" | "proxy") => "CONNECT",
            ("create", _) => "POST",
            ("update", _) => "PUT",
            ("patch", _) if applies() => "APPLY",
            ("patch", _) => "PATCH",
            ("delete", _) => "DELETE",
            ("deletecollection", _) => "DELETECOLLECTION",
            ("list", _) => "LIST",
            ("watch", _) => "WATCH",
            _ => "GET",
        };
        Self {
            group: of_row(|row| &row.group).unwrap_or_default(),
            version: of_row(|row| &row.version).unwrap_or_default(),
            resource: of_row(|row| &row.plural).unwrap_or_default(),
            subresource: known.unwrap_or_default(),
            verb,
            scope,
            dry_run: query.has("dryRun"),
        }
    }

    fn path(parts: &Parts) -> Self {
        let path = parts.uri.path();
        let known = PATHS.into_iter().find(|known| *known == path);
        Self {
            subresource: known.unwrap_or_default().into(),
            verb: match parts.method {
                Method::GET => "GET",
                Method::HEAD => "HEAD",
                Method::POST => "POST",
                Method::PUT => "PUT",
                Method::PATCH => "PATCH",
                Method::DELETE => "DELETE",
                _ => "other",
            },
            ..Self::unknown()
        }
    }

    /// Before anything is known.
    pub(crate) fn unknown() -> Self {
        let none = || Cow::Borrowed("");
        Self {
            group: none(),
            version: none(),
            resource: none(),
            subresource: none(),
            verb: "other",
            scope: "",
            dry_run: false,
        }
    }

    fn reads(&self) -> bool {
        matches!(self.verb, "GET" | "LIST" | "WATCH" | "HEAD")
    }
}

impl Labels for Asked {
    fn write(&self, out: &mut String) {
        label(out, "component", "apiserver");
        label(out, "dry_run", if self.dry_run { "All" } else { "" });
        label(out, "group", &self.group);
        label(out, "resource", &self.resource);
        label(out, "scope", self.scope);
        label(out, "subresource", &self.subresource);
        label(out, "verb", self.verb);
        label(out, "version", &self.version);
    }
}

impl Labels for Kind {
    fn write(&self, out: &mut String) {
        let kind = match self {
            Self::Mutating => "mutating",
            Self::ReadOnly => "readOnly",
        };
        label(out, "request_kind", kind);
    }
}

impl Requests {
    /// A request has been answered, or its answer begins.
    pub(crate) fn answered(&self, asked: Asked, code: u16, took: Option<Duration>) {
        if let Some(took) = took {
            self.took.observe(asked.clone(), took);
        }
        self.total.add(WithCode(code, asked), 1);
    }

    pub(super) fn render(&self, out: &mut String) {
        self.total.render(out);
        self.took.render(out);
        self.running.render(out);
        self.long_running.render(out);
    }
}

/// A request that is under way, until it is dropped.
pub(crate) struct UnderWay {
    server: Arc<Shared>,
    asked: Asked,
    long: bool,
}

impl UnderWay {
    /// `long`: it goes on for as long as the client wants.
    pub(crate) fn new(server: &Arc<Shared>, asked: &Asked, long: bool) -> Self {
        let under_way = Self { server: server.clone(), asked: asked.clone(), long };
        under_way.count(1);
        under_way
    }

    fn count(&self, number: i64) {
        let requests = &self.server.metrics.requests;
        if self.long {
            requests.long_running.add(self.asked.clone(), number);
        } else {
            let kind = if self.asked.reads() { Kind::ReadOnly } else { Kind::Mutating };
            requests.running.add(kind, number);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.count(-1);
    }
}
