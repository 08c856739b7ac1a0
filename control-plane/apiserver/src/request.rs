//! What a request's method and path ask for (apiserver `endpoints/request/requestinfo.go`).

use std::sync::Arc;

use http::Method;
use xebec_schema::registry::Registry;
use xebec_schema::resource::Resource;

use crate::authn::UserInfo;
use crate::authz::Attributes;
use crate::query::{self, Query};

/// A request for a resource, or for a path that is none.
#[derive(Clone, Debug)]
pub enum Target {
    /// `/healthz`, `/apis/apps/v1`...
    Path,
    /// An object, a collection or a subresource.
    Resource(Box<ResourcePath>),
}

/// Which objects.
#[derive(Clone, Debug)]
pub struct ResourcePath {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource name, as in the path.
    pub plural: String,
    /// What is below the object: `status`, `exec`...; may be empty.
    pub subresource: String,
    /// What follows the subresource, without a slash: the path to proxy to.
    pub rest: String,
    /// Empty for all namespaces, and for what has none.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// The query's `fieldSelector`, for authorizers.
    pub field_selector: String,
    /// The row of the table, if the resource is served.
    pub resource: Option<Arc<Resource>>,
}

/// Reads method and path. `query` says whether a GET watches.
pub fn parse(registry: &Registry, method: &Method, path: &str, query: &Query) -> Target {
    let mut parts = path.split('/').filter(|part| !part.is_empty()).map(|part| query::decode(part, false));
    let group = match parts.next().as_deref() {
        Some("api") => String::new(),
        Some("apis") => match parts.next() {
            Some(group) => group.into_owned(),
            None => return Target::Path,
        },
        _ => return Target::Path,
    };
    let Some(version) = parts.next() else { return Target::Path };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return Target::Path;
    }
    // The deprecated form, /api/v1/watch/namespaces/default/pods.
    let old_watch = parts.next_if(|part| part == "watch").is_some();
    let mut namespace = String::new();
    let mut rest: Vec<_> = parts.collect();
    if rest.first().is_some_and(|part| part == "namespaces") && rest.len() > 1 {
        namespace = rest[1].to_string();
        // What follows a namespace is a resource in it, but for the namespace's own subresources.
        if rest.len() > 2 && !matches!(rest[2].as_ref(), "status" | "finalize") {
            rest.drain(..2);
        }
    }
    let mut rest = rest.into_iter();
    let Some(plural) = rest.next() else { return Target::Path };
    let mut name = rest.next().unwrap_or_default().into_owned();
    let subresource = rest.next().unwrap_or_default().into_owned();
    let rest = rest.collect::<Vec<_>>().join("/");

    let watch = old_watch || query.flag("watch");
    let verb = match (method, name.is_empty()) {
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "deletecollection",
        (&Method::DELETE, false) => "delete",
        _ if watch && subresource.is_empty() => "watch",
        (_, true) => "list",
        (_, false) => "get",
    };
    if name.is_empty() && matches!(verb, "list" | "watch" | "deletecollection") {
        // A collection of one, so that rules about names apply.
        if let Some(one) = selected_name(query.get("fieldSelector")) {
            name = one;
        }
    }
    let resource = registry.get(&group, &version, &plural).cloned();
    Target::Resource(Box::new(ResourcePath {
        verb,
        group,
        version: version.into_owned(),
        plural: plural.into_owned(),
        subresource,
        rest,
        namespace,
        name,
        field_selector: query.get("fieldSelector").to_owned(),
        resource,
    }))
}

/// The name that a field selector asks for, if it asks for exactly one.
fn selected_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty()).then(|| value.to_owned())
    })
}

impl Target {
    /// What authorizers decide upon.
    pub fn attributes(&self, user: &UserInfo, method: &Method, path: &str) -> Attributes {
        match self {
            Self::Path => Attributes {
                user: user.clone(),
                verb: method.as_str().to_ascii_lowercase(),
                path: path.to_owned(),
                ..Attributes::default()
            },
            Self::Resource(r) => Attributes {
                user: user.clone(),
                verb: r.verb.to_owned(),
                group: r.group.clone(),
                version: r.version.clone(),
                resource: r.plural.clone(),
                subresource: r.subresource.clone(),
                namespace: r.namespace.clone(),
                name: r.name.clone(),
                path: path.to_owned(),
                is_resource: true,
                field_selector: r.field_selector.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(method: Method, uri: &str) -> ResourcePath {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        match parse(&Registry::builtin(), &method, path, &Query::parse(Some(query))) {
            Target::Resource(resource) => *resource,
            Target::Path => panic!("{uri} is a resource"),
        }
    }

    fn shape(r: &ResourcePath) -> [&str; 6] {
        [r.verb, &r.group, &r.plural, &r.subresource, &r.namespace, &r.name]
    }

    #[test]
    fn paths_are_upstreams() {
        for (method, uri, expected) in [
            (Method::GET, "/api/v1/pods", ["list", "", "pods", "", "", ""]),
            (Method::GET, "/api/v1/namespaces/ns/pods?watch=1", ["watch", "", "pods", "", "ns", ""]),
            (Method::GET, "/api/v1/watch/namespaces/ns/pods", ["watch", "", "pods", "", "ns", ""]),
            (Method::GET, "/apis/apps/v1/namespaces/ns/deployments/d", ["get", "apps", "deployments", "", "ns", "d"]),
            (Method::PUT, "/api/v1/namespaces/ns/pods/p/status", ["update", "", "pods", "status", "ns", "p"]),
            (Method::GET, "/api/v1/namespaces/ns", ["get", "", "namespaces", "", "ns", "ns"]),
            (Method::PUT, "/api/v1/namespaces/ns/finalize", ["update", "", "namespaces", "finalize", "ns", "ns"]),
            (Method::DELETE, "/api/v1/namespaces/ns/pods", ["deletecollection", "", "pods", "", "ns", ""]),
            (Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Dn", ["list", "", "nodes", "", "", "n"]),
            (Method::POST, "/api/v1/namespaces/ns/pods", ["create", "", "pods", "", "ns", ""]),
        ] {
            assert_eq!(shape(&resource(method, uri)), expected, "{uri}");
        }
    }

    #[test]
    fn discovery_paths_are_no_resources() {
        for path in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v3/api/v1"] {
            let target = parse(&Registry::builtin(), &Method::GET, path, &Query::default());
            assert!(matches!(target, Target::Path), "{path}");
        }
    }
}
