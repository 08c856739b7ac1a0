//! Keeps a cache up to date: list, then watch, and again from where it stopped.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use xebec_clock::Random;

use super::api::{Api, ApiError, Scope};
use super::cache::{Cache, View};
use super::kind::Kind;
use super::meta::null_default;

/// Objects in a page of a list: a page is held whole, as text, while it is decoded.
const PAGE_LIMIT: u32 = 500;
/// Waits after failures, doubled from the first to the second, with up to as much again at random.
const BACKOFF_MS: (u64, u64) = (200, 15_000);

/// What an informer feeds.
pub trait Feed: Send + Sync + 'static {
    /// What it wants of an object.
    type Item: DeserializeOwned + Send;
    /// The object's resource version.
    fn revision(item: &Self::Item) -> u64;
    /// A whole list, read at `revision`.
    fn replace(&self, items: Vec<Self::Item>, revision: u64);
    /// A new or changed object.
    fn put(&self, item: Self::Item);
    /// The last state of an object that is gone.
    fn delete(&self, item: Self::Item);
    /// All news up to `revision` has been told.
    fn bookmark(&self, revision: u64);
}

impl<V: View> Feed for Cache<V> {
    type Item = V;

    fn revision(item: &V) -> u64 {
        item.meta().resource_version
    }

    fn replace(&self, items: Vec<V>, revision: u64) {
        Cache::replace(self, items, revision);
    }

    fn put(&self, item: V) {
        self.watched(item);
    }

    fn delete(&self, item: V) {
        self.watched_deletion(&item);
    }

    fn bookmark(&self, revision: u64) {
        Cache::bookmark(self, revision);
    }
}

/// Follows a kind until `cancel`.
pub async fn run<F: Feed>(api: Api, kind: Kind, feed: Arc<F>, scope: Scope, random: Random, cancel: CancellationToken) {
    let mut backoff_ms = BACKOFF_MS.0;
    let mut position = None;
    loop {
        let round = async {
            let revision = match position {
                Some(revision) => revision,
                None => list(&api, &kind, &*feed, &scope).await?,
            };
            position = Some(revision);
            watch(&api, &kind, &*feed, &scope, &random, &mut position).await
        };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            outcome = round => outcome,
        };
        match outcome {
            Ok(()) => backoff_ms = BACKOFF_MS.0,
            Err(error) => {
                if error.is_expired() {
                    position = None;
                } else if error.is_not_served() {
                    // A custom kind without its definition has no objects. It may have one later.
                    position = None;
                    feed.replace(Vec::new(), 0);
                } else {
                    tracing::debug!(kind = %kind.kind, %error, "list or watch failed");
                }
                let wait = Duration::from_millis(backoff_ms + random.below(backoff_ms));
                backoff_ms = (backoff_ms * 2).min(BACKOFF_MS.1);
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    #[serde(borrow, default, deserialize_with = "null_default")]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    resume: String,
}

/// Reads a whole list, page by page; what cannot be decoded is left out and logged. The items, and the list's revision.
pub async fn read_list<T: DeserializeOwned>(api: &Api, kind: &Kind, scope: &Scope) -> Result<(Vec<T>, u64), ApiError> {
    let mut views = Vec::new();
    let mut resume: Option<String> = None;
    loop {
        let body = api.list_page(kind, scope, PAGE_LIMIT, resume.as_deref()).await?;
        let page: List<'_> = serde_json::from_slice(&body).map_err(|e| ApiError::Decode(e.to_string()))?;
        for item in page.items {
            match serde_json::from_str::<T>(item.get()) {
                Ok(view) => views.push(view),
                Err(error) => tracing::warn!(kind = %kind.kind, %error, "an object cannot be read"),
            }
        }
        if page.metadata.resume.is_empty() {
            let revision = page.metadata.resource_version.parse().map_err(|_| {
                ApiError::Decode(format!(
                    "the list's resourceVersion {:?} is no number",
                    page.metadata.resource_version
                ))
            })?;
            return Ok((views, revision));
        }
        resume = Some(page.metadata.resume);
    }
}

async fn list<F: Feed>(api: &Api, kind: &Kind, feed: &F, scope: &Scope) -> Result<u64, ApiError> {
    let (items, revision) = read_list(api, kind, scope).await?;
    feed.replace(items, revision);
    Ok(revision)
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Follows a watch to its end, moving `position` along.
async fn watch<F: Feed>(
    api: &Api,
    kind: &Kind,
    feed: &F,
    scope: &Scope,
    random: &Random,
    position: &mut Option<u64>,
) -> Result<(), ApiError> {
    let timeout = Duration::from_secs(300 + random.below(300));
    let mut lines = api.watch(kind, scope, position.unwrap_or_default(), timeout).await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        let event: Event<'_> = serde_json::from_slice(&line).map_err(|e| ApiError::Decode(e.to_string()))?;
        if let Some(revision) = take_in(kind, feed, &event)? {
            *position = Some(revision.max(position.unwrap_or_default()));
        }
    }
    Ok(())
}

fn take_in<F: Feed>(kind: &Kind, feed: &F, event: &Event<'_>) -> Result<Option<u64>, ApiError> {
    #[derive(Deserialize)]
    struct Bookmark {
        metadata: ListMeta,
    }
    #[derive(Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Failure {
        code: u16,
        reason: String,
        message: String,
    }
    match event.kind {
        "BOOKMARK" => {
            let bookmark: Bookmark =
                serde_json::from_str(event.object.get()).map_err(|e| ApiError::Decode(e.to_string()))?;
            let revision = bookmark.metadata.resource_version.parse().ok();
            if let Some(revision) = revision {
                feed.bookmark(revision);
            }
            Ok(revision)
        }
        "ERROR" => {
            let failure: Failure = serde_json::from_str(event.object.get()).unwrap_or_default();
            Err(ApiError::Refused {
                code: failure.code,
                reason: failure.reason,
                message: failure.message,
                causes: Vec::new(),
            })
        }
        change => match serde_json::from_str::<F::Item>(event.object.get()) {
            Ok(item) => {
                let revision = F::revision(&item);
                if change == "DELETED" {
                    feed.delete(item)
                } else {
                    feed.put(item)
                }
                Ok(Some(revision))
            }
            Err(error) => {
                tracing::warn!(kind = %kind.kind, %error, "an object cannot be read");
                Ok(None)
            }
        },
    }
}
