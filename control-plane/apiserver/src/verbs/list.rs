//! GET of a collection, as a consistent snapshot; page by page if the client wants.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use xebec_schema::protobuf::ListEncoder;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;
use xebec_schema::table;
use xebec_store::{ListOptions, StoreError};

use super::create::store_error;
use super::select::Filter;
use crate::body::Body;
use crate::cache::{self, entry};
use crate::chain::Call;
use crate::reader::Entry;
use crate::respond::{self, Form, Wanted};
use crate::versions;

/// Answers below this size, in bytes, are put together before they are sent.
const WHOLE_BYTES: usize = 64 << 10;
/// Tables are rendered this many objects at a time: each is parsed for it.
const TABLE_BATCH: usize = 256;
/// How long a list waits for a resource version that is yet to come, in seconds (apiserver's `blockTimeout`).
const FUTURE_WAIT_SECONDS: u64 = 3;

/// Some objects of a collection.
pub struct Page {
    /// The objects.
    pub items: Vec<Arc<Entry>>,
    /// The revision that they are of.
    pub revision: u64,
    /// How to go on; `None` at the end.
    pub token: Option<String>,
    /// How many come after.
    pub remaining: Option<usize>,
}

/// Where to go on: at which revision, after which key (of the resource). Its form is upstream's
/// (`storage/continue.go`), and nobody's business.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

impl Token {
    fn encode(revision: i64, after: &str) -> String {
        let token = Self { v: "meta.k8s.io/v1".into(), rv: revision, start: format!("{after}\0") };
        URL_SAFE_NO_PAD.encode(json!(token).to_string())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&e.to_string()))?;
        let mut token: Self = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad("server does not recognize this encoded version"));
        }
        // The key's end, as upstream marks it.
        token.start.truncate(token.start.trim_end_matches('\0').len());
        Ok(token)
    }
}

/// What the query says about the version and the size of the list.
struct Options {
    limit: usize,
    token: Option<Token>,
    /// At least this revision; 0 for any.
    not_older_than: u64,
    /// Exactly this revision.
    exact: Option<u64>,
}

impl Options {
    fn of(call: &Call) -> Result<Self, Status> {
        let query = &call.query;
        let limit = match query.number("limit")? {
            Some(limit) if limit > 0 => usize::try_from(limit).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let version = query.get("resourceVersion");
        let matching = query.get("resourceVersionMatch");
        let invalid = |field: &str, value: &str, why: &str| {
            let error = xebec_schema::field::Error::invalid(xebec_schema::field::Path::new(field), value, why);
            Status::invalid("meta.k8s.io", "ListOptions", "", &[error])
        };
        let forbidden = |why: &str| {
            let path = xebec_schema::field::Path::new("resourceVersionMatch");
            Status::invalid("meta.k8s.io", "ListOptions", "", &[xebec_schema::field::Error::forbidden(path, why)])
        };
        let revision: u64 = match version {
            "" => 0,
            text => text.parse().map_err(|_| invalid("resourceVersion", text, "must be a valid resource version"))?,
        };
        let token = match query.get("continue") {
            "" => None,
            text => Some(Token::decode(text)?),
        };
        if token.is_some() && revision != 0 {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        if !matching.is_empty() && version.is_empty() {
            return Err(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if !matching.is_empty() && token.is_some() {
            return Err(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
        let exact = match matching {
            "" => limit < usize::MAX && revision > 0,
            "NotOlderThan" => false,
            "Exact" if revision == 0 => {
                return Err(forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
            }
            "Exact" => true,
            other => return Err(invalid("resourceVersionMatch", other, "supported values: Exact, NotOlderThan")),
        };
        Ok(Self { limit, token, not_older_than: revision, exact: exact.then_some(revision) })
    }
}

/// Serves it.
///
/// # Errors
///
/// As upstream.
pub async fn serve(call: &mut Call) -> Result<Response<Body>, Status> {
    let filter = Filter::of(call)?;
    let options = Options::of(call)?;
    match page(call, &filter, &options).await {
        Ok(mut page) => {
            page.items = versions::shown(&call.server, &call.resource, page.items).await?;
            render(call, page)
        }
        Err(Failed::Status(status)) => Err(status),
        Err(Failed::TooOld { fresh }) => Ok(too_old(fresh, call.wanted)),
    }
}

async fn page(call: &Call, filter: &Filter, options: &Options) -> Result<Page, Failed> {
    let (revision, after) = match &options.token {
        Some(token) => (u64::try_from(token.rv).ok(), token.start.as_str()),
        None => (options.exact, ""),
    };
    wait_for(call, revision.unwrap_or(options.not_older_than)).await?;
    if let Some(token) = options.token.as_ref().filter(|_| revision.is_some_and(|r| call.server.forgotten.covers(r))) {
        return Err(Failed::too_old(token, call));
    }
    let cache = call.cache()?;
    // Everything acknowledged up to here is in the cache. Taken before the listing: the listing is at least as new.
    let progress = call.server.cache.progress();
    let listing = cache.list(&filter.prefix, after, options.limit, |entry| filter.matches(entry));
    let as_of = progress.max(listing.revision);
    match revision {
        // Nothing has changed since: the cache holds what the client is reading.
        Some(wanted) if listing.revision > wanted => from_store(call, filter, options, wanted, after).await,
        wanted => {
            let revision = wanted.unwrap_or(as_of);
            let token = listing.last.map(|last| Token::encode(signed(revision), &last));
            let remaining = (token.is_some() && !filter.selects()).then_some(listing.remaining);
            Ok(Page { items: listing.items, revision, token, remaining })
        }
    }
}

/// Waits for a revision that a client has heard of and this server not.
///
/// # Errors
///
/// 504 if it does not come.
pub async fn wait_for(call: &Call, revision: u64) -> Result<(), Status> {
    let cache = &call.server.cache;
    if cache.progress() >= revision {
        return Ok(());
    }
    let wait = std::time::Duration::from_secs(FUTURE_WAIT_SECONDS);
    // Writes wait for the cache, so a version from this server has been reached.
    if tokio::time::timeout(wait, cache.caught_up(revision)).await.is_ok() {
        return Ok(());
    }
    let message = format!("Too large resource version: {revision}, current: {}", cache.progress());
    let mut status = Status::new(504, "Timeout", message);
    let cause = xebec_schema::status::Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    };
    status.details = Some(Box::new(xebec_schema::status::Details {
        causes: vec![cause],
        retry_after_seconds: 1,
        ..Default::default()
    }));
    Err(status)
}

/// A page of history.
async fn from_store(
    call: &Call,
    filter: &Filter,
    options: &Options,
    revision: u64,
    after: &str,
) -> Result<Page, Failed> {
    let prefix = cache::prefix(&call.stored);
    let row = call.cache()?.resource.clone();
    let range = format!("{prefix}{}", filter.prefix);
    let mut after = (!after.is_empty()).then(|| format!("{prefix}{after}"));
    let mut items = Vec::new();
    loop {
        // With selectors, it may take more than one read to fill the page.
        let limit = options.limit.saturating_sub(items.len()).min(1000);
        let list = ListOptions { revision: Some(revision), after: after.clone(), limit: Some(limit) };
        let found = call.server.store.list(&range, list).await.map_err(|e| history_error(&e, options, call))?;
        for item in &found.items {
            let read = entry::read(&row, &item.value, item.mod_revision).map_err(Status::internal)?;
            if filter.matches(&read) {
                items.push(Arc::new(read));
            }
        }
        if let Some(last) = found.items.last() {
            after = Some(last.key.clone());
        }
        if found.remaining == 0 || items.len() >= options.limit {
            let last = after.as_deref().and_then(|key| key.strip_prefix(&prefix)).filter(|_| found.remaining > 0);
            let token = last.map(|last| Token::encode(signed(revision), last));
            let remaining = (token.is_some() && !filter.selects()).then_some(found.remaining);
            return Ok(Page { items, revision, token, remaining });
        }
    }
}

/// Why there is no page.
enum Failed {
    Status(Status),
    /// The token's history is gone. With the fresh one, the client may go on from the present, if it does not mind the
    /// seam.
    TooOld {
        fresh: String,
    },
}

impl Failed {
    fn too_old(token: &Token, call: &Call) -> Self {
        Self::TooOld { fresh: Token::encode(signed(call.server.cache.progress()), &token.start) }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn history_error(error: &StoreError, options: &Options, call: &Call) -> Failed {
    match (error, &options.token) {
        (StoreError::Compacted { .. }, Some(token)) => Failed::too_old(token, call),
        (StoreError::Compacted { requested, compacted }, None) => Failed::Status(Status::expired(format!(
            "The resourceVersion for the provided list is too old: {requested} ({compacted})"
        ))),
        _ => Failed::Status(store_error(error)),
    }
}

/// 410, with a token in the list metadata.
fn too_old(fresh: String, wanted: Wanted) -> Response<Body> {
    let status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut value = status.to_value();
    value["metadata"]["continue"] = fresh.into();
    respond::encoded(status.code, &value, wanted)
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// The answer for a page, in the form that is wanted.
///
/// # Errors
///
/// 500 for an object that is not JSON, which the cache rules out.
pub fn render(call: &Call, page: Page) -> Result<Response<Body>, Status> {
    let metadata = list_metadata(&page);
    let wanted = call.wanted;
    if wanted.yaml || wanted.pretty {
        let text = whole(call, &page, metadata)?;
        let value: Value = serde_json::from_slice(&text).map_err(Status::internal)?;
        return Ok(respond::encoded(200, &value, wanted));
    }
    if wanted.protobuf {
        return as_protobuf(call, &page, &metadata);
    }
    let body = match wanted.form {
        Form::Table(_) => Body::from(table(call, &page, metadata)?),
        Form::Object | Form::Partial => objects(call, page, metadata)?,
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The list in protobuf. Objects are parsed for it one at a time.
fn as_protobuf(call: &Call, page: &Page, metadata: &Value) -> Result<Response<Body>, Status> {
    let resource = (call.wanted.form == Form::Object).then_some(&*call.resource);
    let mut list =
        ListEncoder::new(resource, metadata).ok_or_else(|| Status::internal("the kind has no protobuf form"))?;
    for entry in &page.items {
        let bytes = versions::serve(&call.resource, entry).map_err(Status::internal)?;
        list.push(&serde_json::from_slice(&bytes).map_err(Status::internal)?);
    }
    Ok(respond::raw(200, respond::PROTOBUF, list.finish()))
}

fn list_metadata(page: &Page) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), page.revision.to_string().into());
    if let Some(token) = &page.token {
        metadata.insert("continue".into(), token.as_str().into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    metadata.into()
}

fn whole(call: &Call, page: &Page, metadata: Value) -> Result<Bytes, Status> {
    if let Form::Table(_) = call.wanted.form {
        return table(call, page, metadata);
    }
    let mut out = BytesMut::from(&*head(call, &metadata));
    for (index, entry) in page.items.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(&item(&call.resource, call.wanted, entry).map_err(Status::internal)?);
    }
    out.put_slice(b"]}\n");
    Ok(out.freeze())
}

fn head(call: &Call, metadata: &Value) -> Bytes {
    let (kind, version) = match call.wanted {
        Wanted { form: Form::Object, .. } => (call.resource.list_kind.to_string(), call.resource.api_version()),
        Wanted { beta: true, .. } => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1beta1".to_owned()),
        _ => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
    };
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":[").into()
}

fn item(resource: &Resource, wanted: Wanted, entry: &Entry) -> Result<Bytes, serde_json::Error> {
    let bytes = versions::serve(resource, entry)?;
    match wanted.form {
        Form::Partial => respond::partial(&bytes, wanted.beta),
        _ => Ok(bytes),
    }
}

/// Objects as they are: short lists at once; long ones piece by piece, never a second time in memory as a whole.
fn objects(call: &Call, page: Page, metadata: Value) -> Result<Body, Status> {
    let size: usize = page.items.iter().map(|entry| entry.bytes.len() + 1).sum();
    if size <= WHOLE_BYTES {
        return Ok(whole(call, &page, metadata)?.into());
    }
    let head = head(call, &metadata);
    // The size of what goes out as it is held is known beforehand.
    let exact = call.wanted.form == Form::Object && !versions::differs(&call.resource);
    let size = exact.then(|| (head.len() + size - 1 + b"]}\n".len()) as u64);
    let (resource, wanted) = (call.resource.clone(), call.wanted);
    let stream = async_stream::try_stream! {
        let mut piece = BytesMut::with_capacity(WHOLE_BYTES + (8 << 10));
        piece.put_slice(&head);
        for (index, entry) in page.items.into_iter().enumerate() {
            if index > 0 {
                piece.put_u8(b',');
            }
            piece.put_slice(&item(&resource, wanted, &entry)?);
            if piece.len() >= WHOLE_BYTES {
                yield piece.split().freeze();
                piece.reserve(WHOLE_BYTES + (8 << 10));
            }
        }
        piece.put_slice(b"]}\n");
        yield piece.freeze();
    };
    Ok(Body::Stream(Box::pin(stream), size))
}

/// The table of a page. Objects are parsed for it, some at a time.
fn table(call: &Call, page: &Page, metadata: Value) -> Result<Bytes, Status> {
    let Form::Table(include) = call.wanted.form else { return Err(Status::internal("no table was asked for")) };
    let now = call.server.clock.now();
    let mut rows = BytesMut::new();
    let mut frame = table::render(&call.resource, [], now, include, metadata);
    for batch in page.items.chunks(TABLE_BATCH) {
        let mut objects = Vec::with_capacity(batch.len());
        for entry in batch {
            let bytes = versions::serve(&call.resource, entry).map_err(Status::internal)?;
            objects.push(serde_json::from_slice::<Value>(&bytes).map_err(Status::internal)?);
        }
        let part = table::render(&call.resource, &objects, now, include, Value::Null);
        for row in part["rows"].as_array().into_iter().flatten() {
            if !rows.is_empty() {
                rows.put_u8(b',');
            }
            rows.put_slice(row.to_string().as_bytes());
        }
    }
    if call.wanted.beta {
        frame["apiVersion"] = "meta.k8s.io/v1beta1".into();
    }
    frame.as_object_mut().map(|frame| frame.remove("rows"));
    let mut out = BytesMut::from(frame.to_string().as_bytes());
    out.truncate(out.len() - 1);
    out.put_slice(b",\"rows\":[");
    out.put_slice(&rows);
    out.put_slice(b"]}\n");
    Ok(out.freeze())
}
