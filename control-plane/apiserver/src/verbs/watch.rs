//! Watches: what changes in a collection, from a resource version on.
//!
//! A watch holds a cursor into the events that the cache keeps, and no queue: however slowly a client reads, it costs
//! nothing, until what it needs next is dropped and it is told to start again (410).

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use xebec_schema::protobuf;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;
use xebec_schema::{field, table};

use super::list;
use super::select::Filter;
use crate::body::{Body, BoxError};
use crate::cache::entry;
use crate::cache::resource::ResourceCache;
use crate::cache::ring::{CachedEvent, Change, Gone};
use crate::chain::Call;
use crate::reader::Entry;
use crate::respond::{self, Form, Wanted};
use crate::server::Shared;
use crate::versions;
use crate::websocket::{self, Framing, Wish};

/// Between two bookmarks.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` lasts between this long and twice as long, in seconds (`--min-request-timeout`).
const MIN_LENGTH_SECONDS: u64 = 1800;
/// How many events are taken from the cache at once.
const BATCH: usize = 64;
/// Initial events are sent in pieces of about this size, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Where a watch begins.
enum Start {
    /// With an event for each object there is.
    State,
    /// With what happens from now on.
    Now,
    /// With what happened after this revision.
    After(u64),
}

struct Options {
    start: Start,
    /// At least this revision must have been reached.
    not_older_than: u64,
    /// The end of the initial events is marked.
    mark_initial: bool,
    bookmarks: bool,
    length: Duration,
}

impl Options {
    fn of(call: &Call) -> Result<Self, Status> {
        let query = &call.query;
        let invalid = |error: field::Error| Status::invalid("meta.k8s.io", "ListOptions", "", &[error]);
        let forbidden = |why: &str| invalid(field::Error::forbidden(field::Path::new("resourceVersionMatch"), why));
        let matching = query.get("resourceVersionMatch");
        let send_initial = query.maybe_flag("sendInitialEvents");
        if send_initial.is_some() && matching != "NotOlderThan" {
            return Err(forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
        }
        if send_initial.is_none() && !matching.is_empty() {
            return Err(forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"));
        }
        let version = query.get("resourceVersion");
        let revision = match version {
            "" => 0,
            text => text.parse::<u64>().map_err(|_| {
                Status::bad_request(format!("Invalid value: \"{text}\": resourceVersion must be a whole number"))
            })?,
        };
        let start = match (send_initial, revision) {
            (Some(true), _) | (None, 0) => Start::State,
            (Some(false), 0) => Start::Now,
            (_, revision) => Start::After(revision),
        };
        let bookmarks = query.flag("allowWatchBookmarks");
        let seconds = match query.number("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => seconds.unsigned_abs(),
            _ => MIN_LENGTH_SECONDS + call.server.random.below(MIN_LENGTH_SECONDS),
        };
        Ok(Self {
            start,
            not_older_than: revision,
            mark_initial: send_initial == Some(true) && bookmarks,
            bookmarks,
            length: Duration::from_secs(seconds),
        })
    }
}

/// Serves it.
///
/// # Errors
///
/// 400 and 422 for options that make no sense. A resource version that is too old is an event, not an error.
pub async fn serve(call: &mut Call) -> Result<Response<Body>, Status> {
    if websocket::is_wanted(&call.parts.headers) {
        let wish = Wish::take(&mut call.parts)?;
        // Messages are events, and these JSON.
        call.wanted = call.wanted.as_json();
        let answer = events(call).await?;
        return wish.grant(answer, Framing::Lines, None, call.server.stop.clone());
    }
    events(call).await
}

/// The events, as they are sent over HTTP.
async fn events(call: &mut Call) -> Result<Response<Body>, Status> {
    let filter = Filter::of(call)?;
    let options = Options::of(call)?;
    if matches!(options.start, Start::State) {
        list::wait_for(call, options.not_older_than).await?;
    }
    let watch = Watch {
        view: Encoder {
            resource: call.resource.clone(),
            wanted: Wanted { yaml: false, pretty: false, ..call.wanted },
            server: call.server.clone(),
            first: true,
        },
        cache: call.cache()?,
        filter,
    };
    let stream = if call.wanted.protobuf { PROTOBUF_STREAM } else { "application/json" };
    let mut response = Response::new(Body::stream(watch.run(options)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(stream));
    Ok(response)
}

/// Events in frames of their own.
const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";

struct Watch {
    view: Encoder,
    cache: Arc<ResourceCache>,
    filter: Filter,
}

/// Where a watch is when its answer begins.
struct Begun {
    /// Objects to show first.
    state: Vec<Arc<Entry>>,
    cursor: Result<u64, Gone>,
    /// Events up to this revision are known to the client, or none of its business.
    seen: u64,
}

impl Watch {
    fn begin(&self, options: &Options) -> Begun {
        let progress = self.view.server.cache.progress();
        match options.start {
            Start::After(revision) => Begun { state: Vec::new(), cursor: self.cache.after(revision), seen: revision },
            Start::Now => {
                let end = self.cache.list("", "", 0, |_| false).end;
                Begun { state: Vec::new(), cursor: Ok(end), seen: progress }
            }
            Start::State => {
                let listing = self.cache.list(&self.filter.prefix, "", usize::MAX, |e| self.filter.matches(e));
                let seen = progress.max(listing.revision);
                Begun { state: listing.items, cursor: Ok(listing.end), seen }
            }
        }
    }

    fn run(mut self, options: Options) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + Send {
        let Begun { state, cursor: started, mut seen } = self.begin(&options);
        let mut changed = self.cache.subscribe();
        let deadline = Instant::now() + options.length;
        async_stream::stream! {
            let server = self.view.server.clone();
            let mut bookmarks = interval();
            let mut piece = BytesMut::new();
            let resource = self.view.resource.clone();
            let state = match versions::shown(&server, &resource, state).await {
                Ok(state) => state,
                Err(status) => {
                    yield Ok(line("ERROR", status.to_value().to_string().as_bytes()));
                    return;
                }
            };
            for entry in state {
                piece.put_slice(&self.view.initial(&entry));
                if piece.len() >= PIECE_BYTES {
                    yield Ok(piece.split().freeze());
                }
            }
            if options.mark_initial {
                piece.put_slice(&self.view.bookmark(seen, true));
            }
            if !piece.is_empty() {
                yield Ok(piece.freeze());
            }
            let mut cursor = match started {
                Ok(cursor) => cursor,
                Err(gone) => {
                    yield Ok(self.view.too_old(seen, gone));
                    return;
                }
            };
            // A client that begins after a revision that is yet to come does not want what happens before.
            let ahead = matches!(options.start, Start::After(_));
            loop {
                changed.mark_unchanged();
                // Before the events are read: all up to here are then among them.
                let progress = server.cache.progress();
                let events = match self.cache.read(cursor, BATCH) {
                    Ok(events) => events,
                    Err(gone) => {
                        yield Ok(self.view.too_old(seen, gone));
                        return;
                    }
                };
                let more = !events.is_empty();
                for event in events {
                    cursor += 1;
                    if event.revision <= seen && ahead {
                        continue;
                    }
                    seen = seen.max(event.revision.saturating_sub(1));
                    let event = match versions::event(&server, &resource, event).await {
                        Ok(event) => event,
                        Err(status) => {
                            yield Ok(line("ERROR", status.to_value().to_string().as_bytes()));
                            return;
                        }
                    };
                    if let Some(bytes) = self.view.event(&event, &self.filter) {
                        yield Ok(bytes);
                    }
                }
                if more {
                    continue;
                }
                if self.cache.is_closed() {
                    return;
                }
                seen = seen.max(progress);
                let wake = tokio::select! {
                    biased;
                    () = server.stop.cancelled() => Wake::End,
                    () = changed.changed() => Wake::Events,
                    () = tokio::time::sleep_until(deadline) => Wake::End,
                    _ = bookmarks.tick(), if options.bookmarks => Wake::Bookmark,
                };
                match wake {
                    Wake::Events => {}
                    Wake::Bookmark => yield Ok(self.view.bookmark(seen, false)),
                    Wake::End => {
                        if options.bookmarks {
                            yield Ok(self.view.bookmark(seen, false));
                        }
                        return;
                    }
                }
            }
        }
    }
}

enum Wake {
    Events,
    Bookmark,
    End,
}

fn interval() -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// An event as the client reads it: a line of JSON, or a frame of protobuf.
fn written(kind: &str, object: &[u8], wanted: Wanted) -> Bytes {
    if !wanted.protobuf {
        return line(kind, object);
    }
    let encoded = serde_json::from_slice(object).ok().and_then(|value: Value| protobuf::encode(&value));
    match encoded {
        Some(bytes) => protobuf::frame(kind, &bytes).into(),
        // What the kind's schema has refused before; a client takes an empty frame for nonsense, and begins anew.
        None => Bytes::new(),
    }
}

/// An event as a line of JSON.
pub fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}

/// Shows events as one client wants them.
struct Encoder {
    resource: Arc<Resource>,
    wanted: Wanted,
    server: Arc<Shared>,
    /// The first event of a table brings the columns.
    first: bool,
}

impl Encoder {
    fn error(&self, status: &Status) -> Bytes {
        written("ERROR", status.to_value().to_string().as_bytes(), self.wanted)
    }

    fn too_old(&self, asked: u64, Gone(oldest): Gone) -> Bytes {
        self.error(&Status::expired(format!("too old resource version: {asked} ({oldest})")))
    }

    /// An event, if it concerns the client. Encoded once for all that want it in the same form.
    fn event(&mut self, event: &CachedEvent, filter: &Filter) -> Option<Bytes> {
        let change = event.seen_by(|entry| filter.matches(entry))?;
        let first = std::mem::replace(&mut self.first, false);
        let columns = u8::from(first && matches!(self.wanted.form, Form::Table(_)));
        let form = self.wanted.form.number()
            + 8 * columns
            + 16 * u8::from(self.wanted.beta)
            + 32 * u8::from(self.wanted.protobuf);
        let view = (Arc::as_ptr(&self.resource).addr(), form, change);
        let this = &*self;
        Some(event.encoded(view, || {
            let object = match (change, &event.current, &event.previous) {
                (Change::Deleted, _, Some(previous)) => entry::resplice(&previous.bytes, event.revision),
                (_, Some(current), _) => current.bytes.clone(),
                // An event has one of the two.
                (_, None, _) => Bytes::new(),
            };
            this.show(change.name(), object, event.revision, first)
        }))
    }

    /// An object that was there when the watch began.
    fn initial(&mut self, entry: &Entry) -> Bytes {
        let first = std::mem::replace(&mut self.first, false);
        self.show("ADDED", entry.bytes.clone(), entry.revision, first)
    }

    fn show(&self, kind: &str, object: Bytes, revision: u64, first: bool) -> Bytes {
        let now = self.server.clock.now();
        let shown = versions::convert_bytes(&self.resource, object, revision)
            .and_then(|bytes| respond::shown(&self.resource, &bytes, self.wanted, now));
        match shown {
            Ok(bytes) if first || !matches!(self.wanted.form, Form::Table(_)) => written(kind, &bytes, self.wanted),
            Ok(bytes) => {
                let value = serde_json::from_slice::<Value>(&bytes).map(table::without_columns).unwrap_or_default();
                written(kind, value.to_string().as_bytes(), self.wanted)
            }
            Err(error) => self.error(&Status::internal(error)),
        }
    }

    /// Says that the client has seen everything up to a revision.
    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let mut object = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": revision.to_string()},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let bytes = entry::splice(&entry::encode(&object), revision);
        let shown = respond::shown(&self.resource, &bytes, self.wanted, self.server.clock.now());
        let first = std::mem::replace(&mut self.first, false);
        match shown.and_then(|bytes| serde_json::from_slice::<Value>(&bytes)) {
            Ok(value) if matches!(self.wanted.form, Form::Table(_)) => {
                let value = if first { value } else { table::without_columns(value) };
                written("BOOKMARK", value.to_string().as_bytes(), self.wanted)
            }
            Ok(value) => written("BOOKMARK", value.to_string().as_bytes(), self.wanted),
            Err(error) => self.error(&Status::internal(error)),
        }
    }
}
