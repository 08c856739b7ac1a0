//! Follows the objects under a path: list, then watch from there; again from the list when the server has forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use http::Request;
use kube::core::WatchEvent;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use xebec_clock::Random;

use super::{ApiError, Object, Rest};

/// What happened to the objects under a path. Objects are known by `namespace/name`.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// All there is. Whatever was known and is not among these is gone.
    All(Vec<Arc<T>>),
    /// New or changed.
    Put(Arc<T>),
    /// Gone; its last state.
    Gone(Arc<T>),
}

/// How long a watch lasts before it is made anew, in seconds: the server may hang up earlier.
const WATCH_TIMEOUT_SECONDS: u64 = 290;
/// How long to wait after a failure, at most.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Something that can be followed.
pub trait Followed {
    /// Its `metadata.resourceVersion`.
    fn version(&self) -> &str;
}

impl<T: Object> Followed for T {
    fn version(&self) -> &str {
        &self.meta().resource_version
    }
}

/// Objects asked for at once: a bound on the text that is held while it is read.
const PAGE: usize = 500;

#[derive(Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    r#continue: String,
}

/// Follows `path` (with `query`, as in `fieldSelector=...`) until the receiver is dropped. Sends [`Change::All`] first,
/// and again whenever the watch had to start over.
pub async fn follow<T>(rest: Rest, path: String, query: String, random: Random, out: mpsc::Sender<Change<T>>)
where
    T: Followed + Clone + DeserializeOwned + Send + Sync + 'static,
{
    let mut delay = Duration::from_millis(50);
    let mut version: Option<String> = None;
    loop {
        let result = match version.take() {
            None => list(&rest, &path, &query, &out).await,
            Some(from) => watch(&rest, &path, &query, from, &out).await,
        };
        match result {
            Ok(Some(next)) => {
                version = Some(next);
                delay = Duration::from_millis(50);
                continue;
            }
            Ok(None) => {}
            Err(Stopped::Receiver) => return,
            Err(Stopped::Failed(from, error)) => {
                tracing::debug!(%path, %error, "watch interrupted");
                version = from;
            }
        }
        tokio::select! {
            biased;
            () = out.closed() => return,
            () = tokio::time::sleep(delay + Duration::from_millis(random.below(50))) => {}
        }
        delay = (delay * 2).min(RETRY_MAX);
    }
}

enum Stopped {
    Receiver,
    /// Where to go on, if anywhere but at the list.
    Failed(Option<String>, ApiError),
}

async fn list<T>(rest: &Rest, path: &str, query: &str, out: &mpsc::Sender<Change<T>>) -> Result<Option<String>, Stopped>
where
    T: DeserializeOwned,
{
    let failed = |error| Stopped::Failed(None, error);
    let mut items = Vec::new();
    let mut next = String::new();
    loop {
        let mut parameters = format!("limit={PAGE}");
        if !query.is_empty() {
            parameters = format!("{query}&{parameters}");
        }
        if !next.is_empty() {
            parameters = format!("{parameters}&continue={next}");
        }
        let list: List<T> = match rest.get(&join(path, &parameters)).await {
            Ok(list) => list,
            // A kind that is not served (any more) has no objects. It may be served later.
            Err(error @ ApiError::Status { code: 404, .. }) => {
                out.send(Change::All(Vec::new())).await.map_err(|_| Stopped::Receiver)?;
                return Err(failed(error));
            }
            Err(error) => return Err(failed(error)),
        };
        items.extend(list.items.unwrap_or_default().into_iter().map(Arc::new));
        next = list.metadata.r#continue;
        if next.is_empty() {
            out.send(Change::All(items)).await.map_err(|_| Stopped::Receiver)?;
            return Ok(Some(list.metadata.resource_version));
        }
    }
}

/// Watches from `version` until the server hangs up; gives the version to go on from, or none to list again.
async fn watch<T>(
    rest: &Rest,
    path: &str,
    query: &str,
    mut version: String,
    out: &mpsc::Sender<Change<T>>,
) -> Result<Option<String>, Stopped>
where
    T: Followed + Clone + DeserializeOwned,
{
    let mut parameters =
        format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_TIMEOUT_SECONDS}&resourceVersion={version}");
    if !query.is_empty() {
        parameters = format!("{query}&{parameters}");
    }
    let request = Request::get(join(path, &parameters))
        .header("accept", "application/json")
        .body(Vec::new())
        .map_err(|e| Stopped::Failed(None, ApiError::Request(e.to_string())))?;
    let mut events = std::pin::pin!(
        rest.client()
            .request_events::<T>(request)
            .await
            .map_err(|e| Stopped::Failed(Some(version.clone()), e.into()))?
    );
    let mut seen = false;
    loop {
        let event = tokio::select! {
            biased;
            () = out.closed() => return Err(Stopped::Receiver),
            event = events.try_next() => event,
        };
        let change = match event {
            Ok(Some(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                object.version().clone_into(&mut version);
                Change::Put(Arc::new(object))
            }
            Ok(Some(WatchEvent::Deleted(object))) => {
                object.version().clone_into(&mut version);
                Change::Gone(Arc::new(object))
            }
            Ok(Some(WatchEvent::Bookmark(bookmark))) => {
                version = bookmark.metadata.resource_version;
                seen = true;
                continue;
            }
            Ok(Some(WatchEvent::Error(status))) => {
                let from = if status.code == 410 { None } else { Some(version) };
                return Err(Stopped::Failed(
                    from,
                    ApiError::Status { code: status.code, reason: status.reason, message: status.message },
                ));
            }
            // A server that hangs up at once would be asked without a pause if this counted as success.
            Ok(None) if seen => return Ok(Some(version)),
            Ok(None) => {
                return Err(Stopped::Failed(Some(version), ApiError::Transport("the watch was closed".to_owned())));
            }
            Err(error) => return Err(Stopped::Failed(Some(version), error.into())),
        };
        seen = true;
        out.send(change).await.map_err(|_| Stopped::Receiver)?;
    }
}

fn join(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// The objects under a path, kept by [`Change`]s: `namespace/name` to object.
#[derive(Debug)]
pub struct View<T>(BTreeMap<(String, String), Arc<T>>);

impl<T> Default for View<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Object> View<T> {
    /// Takes in what happened.
    pub fn apply(&mut self, change: Change<T>) {
        match change {
            Change::All(all) => self.0 = all.into_iter().map(|o| (key(&*o), o)).collect(),
            Change::Put(object) => drop(self.0.insert(key(&*object), object)),
            Change::Gone(object) => drop(self.0.remove(&key(&*object))),
        }
    }

    /// The objects of one namespace, by name.
    pub fn namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<T>> {
        self.0
            .range((namespace.to_owned(), String::new())..)
            .take_while(move |((ns, _), _)| ns == namespace)
            .map(|(_, object)| object)
    }

    /// The object of that name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.0.get(&(namespace.to_owned(), name.to_owned()))
    }
}

fn key<T: Object>(object: &T) -> (String, String) {
    (object.meta().namespace.clone(), object.meta().name.clone())
}
