//! Versions of groups that this process serves without storing anything: what is computed is listed, read and, where it
//! goes on, watched; in discovery it stands as if another API server served it. An APIService that names such a server
//! takes its place.

pub mod openapi;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use xebec_clock::Clock;
use xebec_schema::resource::{Column, PLAIN, Resource};
use xebec_schema::selector::{FieldSelector, LabelSelector};
use xebec_schema::status::Status;
use xebec_schema::table;

use crate::body::{Body, BoxError};
use crate::json::text;
use crate::query::Query;
use crate::request::ResourcePath;
use crate::respond::{self, Form, Wanted};
use crate::verbs::watch;

/// A watch that does not say how long it is to last ends after this long, in seconds; its client begins another.
const WATCH_SECONDS: u64 = 1800;

/// A kind that is computed.
#[derive(Clone, Copy, Debug)]
pub struct ComputedKind {
    /// `pods`.
    pub plural: &'static str,
    /// `PodMetrics`.
    pub kind: &'static str,
    /// What else `kubectl get` calls it.
    pub short_names: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether it can be watched.
    pub watched: bool,
    /// The columns of its table.
    pub columns: &'static [Column],
    /// Field-selector labels beyond `metadata.name` and `metadata.namespace`, with their values.
    pub fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// What its objects are made of (an OpenAPI 3 schema), without the fields that all objects have.
    pub schema: fn() -> Value,
}

/// Which objects are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// `pods`.
    pub plural: String,
    /// Empty: of all namespaces.
    pub namespace: String,
    /// Only this one; empty: all.
    pub name: String,
    /// At most so many; the kind may have a smaller limit of its own.
    pub limit: Option<usize>,
    /// Where the page before ended ([`Page::next`]), or the resource version from which on is watched.
    pub after: String,
}

/// Some of the objects.
#[derive(Debug, Default)]
pub struct Page {
    /// The objects, without `kind` and `apiVersion`.
    pub items: Vec<Value>,
    /// From where on a watch shows what is not among them.
    pub resource_version: String,
    /// Where the next page begins; empty: this is the last.
    pub next: String,
}

/// A version of a group whose objects are computed when they are asked for.
#[async_trait]
pub trait ComputedApi: Send + Sync + 'static {
    /// `metrics.k8s.io`.
    fn group(&self) -> &'static str;

    /// `v1beta1`.
    fn version(&self) -> &'static str;

    /// Its kinds.
    fn kinds(&self) -> &'static [ComputedKind];

    /// The objects that are asked for; for one by its name, others may be among them.
    ///
    /// # Errors
    ///
    /// If they cannot be told now.
    async fn list(&self, selection: &Selection) -> Result<Page, Status>;

    /// Objects as they come into being, of kinds that are watched.
    ///
    /// # Errors
    ///
    /// If they cannot be watched now, or at all.
    fn watch(&self, _selection: &Selection) -> Result<BoxStream<'static, Value>, Status> {
        Err(Status::method_not_allowed())
    }
}

/// `APIResourceList`.
pub(crate) fn resources(api: &dyn ComputedApi) -> Value {
    let resource = |kind: &ComputedKind| {
        let mut entry = json!({"name": kind.plural, "singularName": "", "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs()});
        if !kind.short_names.is_empty() {
            entry["shortNames"] = kind.short_names.into();
        }
        entry
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
pub(crate) async fn serve(
    api: &Arc<dyn ComputedApi>,
    path: &ResourcePath,
    query: &Query,
    wanted: Wanted,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<Response<Body>, Status> {
    let kind = api.kinds().iter().find(|kind| kind.plural == path.plural).ok_or_else(Status::no_such_path)?;
    let single = path.verb == "get";
    if !path.subresource.is_empty() || (single && kind.namespaced && path.namespace.is_empty()) {
        return Err(Status::no_such_path());
    }
    let view = View { row: kind.row(api.group(), api.version()), wanted: wanted.as_json() };
    let limit = query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let after = if path.verb == "watch" { "resourceVersion" } else { "continue" };
    let selection = Selection {
        plural: path.plural.clone(),
        namespace: path.namespace.clone(),
        name: path.name.clone(),
        limit,
        after: query.get(after).to_owned(),
    };
    match path.verb {
        "get" => {
            let mut items = api.list(&selection).await?.items.into_iter();
            let found = items.find(|object| text(object, "/metadata/name") == path.name);
            let found = found.ok_or_else(|| Status::not_found(api.group(), &path.plural, &path.name))?;
            Ok(respond::encoded(200, &view.one(found, clock.now()), view.wanted))
        }
        "list" => {
            let filter = Filter::of(kind, query)?;
            let mut page = api.list(&selection).await?;
            page.items.retain(|object| filter.selects(object));
            Ok(respond::encoded(200, &view.all(page, clock.now()), view.wanted))
        }
        "watch" if kind.watched => {
            let filter = Filter::of(kind, query)?;
            let seconds = query.number("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
            let length = Duration::from_secs(seconds.unwrap_or(WATCH_SECONDS));
            let objects = api.watch(&selection)?.filter(move |object| std::future::ready(filter.selects(object)));
            let events = view.events(objects.boxed(), clock.clone());
            Ok(respond::raw(200, "application/json", Body::stream(events.take_until(end(length, stop.clone())))))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// Ends a watch.
fn end(after: Duration, stop: CancellationToken) -> impl Future<Output = ()> + Send {
    let at = tokio::time::Instant::now() + after;
    Box::pin(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep_until(at) => {}
        }
    })
}

impl ComputedKind {
    /// What can be done with it.
    fn verbs(&self) -> &'static [&'static str] {
        if self.watched { &["get", "list", "watch"] } else { &["get", "list"] }
    }

    /// Its row, as far as tables are made from it.
    fn row(&self, group: &'static str, version: &'static str) -> Resource {
        Resource {
            group: group.into(),
            version: version.into(),
            kind: self.kind.into(),
            list_kind: format!("{}List", self.kind).into(),
            plural: self.plural.into(),
            singular: Cow::Borrowed(""),
            short_names: Cow::Borrowed(&[]),
            categories: Cow::Borrowed(&[]),
            namespaced: self.namespaced,
            verbs: Cow::Borrowed(&[]),
            subresources: Cow::Borrowed(&[]),
            schema: Cow::Borrowed(""),
            strategy: PLAIN,
            columns: self.columns,
            virtual_kind: false,
            custom: None,
        }
    }
}

/// What the query's selectors select.
struct Filter {
    labels: LabelSelector,
    fields: FieldSelector,
    of_kind: fn(&Value) -> Vec<(&'static str, String)>,
}

impl Filter {
    fn of(kind: &ComputedKind, query: &Query) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.get("labelSelector")).map_err(Status::bad_request)?;
        let fields = FieldSelector::parse(query.get("fieldSelector")).map_err(Status::bad_request)?;
        let own = (kind.fields)(&Value::Null);
        let is_known = |field: &str| {
            matches!(field, "metadata.name" | "metadata.namespace") || own.iter().any(|(known, _)| *known == field)
        };
        if let Some(other) = fields.requirements().iter().find(|r| !is_known(&r.field)) {
            let why = format!("field label not supported: {}", other.field);
            return Err(Status::bad_request(why));
        }
        Ok(Self { labels, fields, of_kind: kind.fields })
    }

    fn selects(&self, object: &Value) -> bool {
        if !self.labels.matches(&object["metadata"]["labels"]) {
            return false;
        }
        let own = if self.fields.requirements().is_empty() { Vec::new() } else { (self.of_kind)(object) };
        self.fields.matches(|name| match own.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => Some(value.clone()),
            None => Some(text(object, &format!("/{}", name.replace('.', "/"))).to_owned()),
        })
    }
}

/// Shows objects as one client wants them.
struct View {
    row: Resource,
    wanted: Wanted,
}

impl View {
    fn named(&self, mut object: Value) -> Value {
        object["kind"] = self.row.kind.as_ref().into();
        object["apiVersion"] = self.row.api_version().into();
        object
    }

    fn partial(&self, object: &Value, suffix: &str) -> Value {
        let version = if self.wanted.beta { "v1beta1" } else { "v1" };
        json!({"kind": format!("PartialObjectMetadata{suffix}"), "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": object["metadata"]})
    }

    fn table(&self, objects: &[Value], now: Timestamp, metadata: Value) -> Value {
        let Form::Table(include) = self.wanted.form else { return Value::Null };
        let mut table = table::render(&self.row, objects, now, include, metadata);
        if self.wanted.beta {
            table["apiVersion"] = "meta.k8s.io/v1beta1".into();
        }
        table
    }

    fn one(&self, object: Value, now: Timestamp) -> Value {
        let object = self.named(object);
        match self.wanted.form {
            Form::Object => object,
            Form::Partial => self.partial(&object, ""),
            Form::Table(_) => self.table(&[object], now, Value::Null),
        }
    }

    fn all(&self, page: Page, now: Timestamp) -> Value {
        let items: Vec<Value> = page.items.into_iter().map(|object| self.named(object)).collect();
        let mut metadata = json!({});
        for (key, value) in [("resourceVersion", page.resource_version), ("continue", page.next)] {
            if !value.is_empty() {
                metadata[key] = value.into();
            }
        }
        match self.wanted.form {
            Form::Table(_) => self.table(&items, now, metadata),
            Form::Object => json!({"kind": self.row.list_kind, "apiVersion": self.row.api_version(),
                "metadata": metadata, "items": items}),
            Form::Partial => {
                let mut list = self.partial(&json!({"metadata": metadata}), "List");
                list["items"] = items.iter().map(|object| self.partial(object, "")).collect();
                list
            }
        }
    }

    /// Events of a watch. The first of a table brings the columns.
    fn events(
        self,
        objects: BoxStream<'static, Value>,
        clock: Clock,
    ) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + Send {
        objects.enumerate().map(move |(index, object)| {
            let mut shown = self.one(object, clock.now());
            if index > 0 && matches!(self.wanted.form, Form::Table(_)) {
                shown = table::without_columns(shown);
            }
            Ok(watch::line("ADDED", shown.to_string().as_bytes()))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
