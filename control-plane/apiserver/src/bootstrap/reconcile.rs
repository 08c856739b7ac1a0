//! Carries the plan out, through the API.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream;
use http::{Method, Request};
use jiff::Timestamp;
use serde_json::Value;

use super::{Change, group_and_plural, plan};
use crate::fairness::bootstrap::dangling;
use crate::json::{list, text};

/// How many writes are under way at a time: enough that a store which commits in groups commits few times.
const CONCURRENT: usize = 64;
/// So many objects of a list are read one by one: the list may hold thousands of others.
const FEW: usize = 2;

/// Why the objects could not be brought about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request failed.
    #[error("cannot {action} {path}: {source}")]
    Request {
        /// `list`, `get`, `create`, `update`.
        action: &'static str,
        /// The request's path.
        path: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// An object of a kind that is not in the list of kinds.
    #[error("there is no path known for kind {0:?}")]
    Kind(String),
}

/// Creates what is missing and adds what is lacking, as [`plan`] says. What somebody else creates or changes meanwhile
/// is left as it is.
///
/// # Errors
///
/// The first request that fails.
pub async fn reconcile(client: &kube::Client, desired: Vec<Value>) -> Result<(), Error> {
    let stored = read(client, &desired).await?;
    let changes = plan(desired, |object| stored.get(&key(object)).cloned());
    let (namespaces, rest): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_namespace);
    for phase in [namespaces, rest] {
        let mut writes = stream::iter(phase.into_iter().map(|change| write(client, change))).buffered(CONCURRENT);
        while let Some(done) = writes.next().await {
            done?;
        }
    }
    Ok(())
}

fn is_namespace(change: &Change) -> bool {
    let (Change::Create(object) | Change::Update(object)) = change;
    text(object, "/kind") == "Namespace"
}

/// Kind, namespace, name.
type Key = (String, String, String);

fn key(object: &Value) -> Key {
    let part = |pointer| text(object, pointer).to_owned();
    (part("/kind"), part("/metadata/namespace"), part("/metadata/name"))
}

/// What there is of the desired objects, and perhaps others beside them.
async fn read(client: &kube::Client, desired: &[Value]) -> Result<BTreeMap<Key, Value>, Error> {
    let mut lists: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for object in desired {
        lists.entry(list_path(object)?).or_default().push(object);
    }
    let mut out = BTreeMap::new();
    for (path, wanted) in lists {
        let found = if wanted.len() > FEW { whole(client, &path).await? } else { each(client, &wanted).await? };
        for mut item in found {
            // The items of a list carry neither.
            for field in ["kind", "apiVersion"] {
                item[field] = wanted[0][field].clone();
            }
            out.insert(key(&item), item);
        }
    }
    Ok(out)
}

async fn whole(client: &kube::Client, path: &str) -> Result<Vec<Value>, Error> {
    let mut found = send(client, "list", Method::GET, path, None).await?;
    Ok(match found["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    })
}

async fn each(client: &kube::Client, wanted: &[&Value]) -> Result<Vec<Value>, Error> {
    let mut out = Vec::new();
    for object in wanted {
        match send(client, "get", Method::GET, &object_path(object)?, None).await {
            Ok(found) => out.push(found),
            Err(Error::Request { source, .. }) if has_code(&source, 404) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(out)
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

async fn write(client: &kube::Client, change: Change) -> Result<(), Error> {
    let (action, method, path, object) = match change {
        Change::Create(object) => ("create", Method::POST, list_path(&object)?, object),
        Change::Update(object) => ("update", Method::PUT, object_path(&object)?, object),
    };
    match send(client, action, method, &path, Some(&object)).await {
        Ok(_) => Ok(()),
        Err(Error::Request { source, .. }) if has_code(&source, 409) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Brings the conditions `Dangling` of flow schemas up to date.
///
/// # Errors
///
/// The first request that fails.
pub(super) async fn tell_dangling(client: &kube::Client, now: Timestamp) -> Result<(), Error> {
    const ROOT: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let all = async |plural: &str| -> Result<Vec<Value>, Error> {
        let found: Value = send(client, "list", Method::GET, &format!("{ROOT}/{plural}"), None).await?;
        Ok(list(&found, "/items").to_vec())
    };
    let (schemas, levels) = (all("flowschemas").await?, all("prioritylevelconfigurations").await?);
    for (name, patch) in dangling(&schemas, &levels, now) {
        let path = format!("{ROOT}/flowschemas/{name}/status");
        send(client, "update", Method::PATCH, &path, Some(&patch)).await?;
    }
    Ok(())
}

fn list_path(object: &Value) -> Result<String, Error> {
    let kind = text(object, "/kind");
    let (_, plural) = group_and_plural(kind).ok_or_else(|| Error::Kind(kind.to_owned()))?;
    let api_version = text(object, "/apiVersion");
    let root = if api_version.contains('/') { "/apis" } else { "/api" };
    Ok(match text(object, "/metadata/namespace") {
        "" => format!("{root}/{api_version}/{plural}"),
        namespace => format!("{root}/{api_version}/namespaces/{namespace}/{plural}"),
    })
}

fn object_path(object: &Value) -> Result<String, Error> {
    Ok(format!("{}/{}", list_path(object)?, text(object, "/metadata/name")))
}

async fn send(
    client: &kube::Client,
    action: &'static str,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Error> {
    let error = |source| Error::Request { action, path: path.to_owned(), source: Box::new(source) };
    let body = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
    let content_type = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", content_type);
    let request = request.body(body).map_err(|e| error(kube::Error::HttpError(e)))?;
    client.request(request).await.map_err(error)
}
