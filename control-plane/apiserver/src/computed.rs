//! Versions of groups that this process serves without storing anything: what is computed is listed and read, and in
//! discovery it stands as if another API server served it. An APIService that names such a server takes its place.

use std::sync::Arc;

use http::Response;
use serde_json::{Value, json};
use xebec_schema::selector::{FieldSelector, LabelSelector};
use xebec_schema::status::Status;

use crate::body::Body;
use crate::json::text;
use crate::query::Query;
use crate::request::ResourcePath;
use crate::respond::{self, Wanted};

/// A kind that is computed.
#[derive(Clone, Debug)]
pub struct ComputedKind {
    /// `pods`.
    pub plural: &'static str,
    /// `PodMetrics`.
    pub kind: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

/// A version of a group whose objects are computed when they are asked for.
pub trait ComputedApi: Send + Sync + 'static {
    /// `metrics.k8s.io`.
    fn group(&self) -> &'static str;

    /// `v1beta1`.
    fn version(&self) -> &'static str;

    /// Its kinds.
    fn kinds(&self) -> &'static [ComputedKind];

    /// All objects of a kind in a namespace (empty: in all), without `kind` and `apiVersion`.
    fn list(&self, plural: &str, namespace: &str) -> Vec<Value>;

    /// One object.
    fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.list(plural, namespace).into_iter().find(|object| text(object, "/metadata/name") == name)
    }
}

/// `APIResourceList`.
pub(crate) fn resources(api: &dyn ComputedApi) -> Value {
    let resource = |kind: &ComputedKind| {
        json!({"name": kind.plural, "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": ["get", "list"]})
    };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("{}/{}", api.group(), api.version()),
        "resources": api.kinds().iter().map(resource).collect::<Vec<_>>(),
    })
}

/// Answers a request.
///
/// # Errors
///
/// 404 for what is not there, 405 for anything but reading, 400 for selectors that are none.
pub(crate) fn serve(
    api: &Arc<dyn ComputedApi>,
    path: &ResourcePath,
    query: &Query,
    wanted: Wanted,
) -> Result<Response<Body>, Status> {
    let kind = api.kinds().iter().find(|kind| kind.plural == path.plural).ok_or_else(Status::no_such_path)?;
    let api_version = format!("{}/{}", api.group(), api.version());
    let single = path.verb == "get";
    if !path.subresource.is_empty() || (single && kind.namespaced && path.namespace.is_empty()) {
        return Err(Status::no_such_path());
    }
    let mut answer = match path.verb {
        "get" => api
            .get(&path.plural, &path.namespace, &path.name)
            .ok_or_else(|| Status::not_found(api.group(), &path.plural, &path.name))?,
        "list" => {
            let items = selected(api.list(&path.plural, &path.namespace), kind, &api_version, query)?;
            json!({"metadata": {}, "items": items})
        }
        _ => return Err(Status::method_not_allowed()),
    };
    answer["kind"] = if single { kind.kind.into() } else { format!("{}List", kind.kind).into() };
    answer["apiVersion"] = api_version.into();
    Ok(respond::encoded(200, &answer, wanted.as_json()))
}

/// What the query's selectors select.
fn selected(objects: Vec<Value>, kind: &ComputedKind, api_version: &str, query: &Query) -> Result<Vec<Value>, Status> {
    let labels = LabelSelector::parse(query.get("labelSelector")).map_err(Status::bad_request)?;
    let fields = FieldSelector::parse(query.get("fieldSelector")).map_err(Status::bad_request)?;
    let known = ["metadata.name", "metadata.namespace"];
    if let Some(other) = fields.requirements().iter().find(|r| !known.contains(&r.field.as_str())) {
        let why = format!("field label not supported: {}", other.field);
        return Err(Status::bad_request(why));
    }
    let field = |object: &Value, name: &str| Some(text(object, &format!("/{}", name.replace('.', "/"))).to_owned());
    let mut out: Vec<Value> = objects
        .into_iter()
        .filter(|object| labels.matches(&object["metadata"]["labels"]) && fields.matches(|name| field(object, name)))
        .collect();
    for object in &mut out {
        object["kind"] = kind.kind.into();
        object["apiVersion"] = api_version.into();
    }
    Ok(out)
}
