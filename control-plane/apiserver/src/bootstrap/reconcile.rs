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

/// Why the objects could not be brought about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request failed.
    #[error("cannot {action} {path}: {source}")]
    Request {
        /// `list`, `create`, `update`.
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

/// Everything there is in the lists that hold the desired objects.
async fn read(client: &kube::Client, desired: &[Value]) -> Result<BTreeMap<Key, Value>, Error> {
    let mut lists = BTreeMap::new();
    for object in desired {
        lists.insert(list_path(object)?, (text(object, "/kind"), text(object, "/apiVersion")));
    }
    let mut out = BTreeMap::new();
    for (path, (kind, api_version)) in lists {
        let found: Value = send(client, "list", Method::GET, &path, None).await?;
        for item in list(&found, "/items") {
            let mut item = item.clone();
            // The items of a list carry neither.
            item["kind"] = kind.into();
            item["apiVersion"] = api_version.into();
            out.insert(key(&item), item);
        }
    }
    Ok(out)
}

async fn write(client: &kube::Client, change: Change) -> Result<(), Error> {
    let (action, method, path, object) = match change {
        Change::Create(object) => ("create", Method::POST, list_path(&object)?, object),
        Change::Update(object) => {
            let path = format!("{}/{}", list_path(&object)?, text(&object, "/metadata/name"));
            ("update", Method::PUT, path, object)
        }
    };
    match send(client, action, method, &path, Some(&object)).await {
        Ok(_) => Ok(()),
        Err(Error::Request { source, .. }) if matches!(&*source, kube::Error::Api(s) if s.code == 409) => Ok(()),
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
