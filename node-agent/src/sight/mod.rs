//! What the datapath does, made visible: flows as they happen, what the maps hold for services, metrics.
//!
//! The kernel's maps are read through handles of their own; nothing here writes to them but the wish to be told of new
//! flows, which ends by itself.

mod flows;
mod metrics;
mod network;
mod recent;
mod services;
pub mod trace;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use xebec_clock::Clock;
use xebec_ebpf_loader::{Events, Maps, kernel_clock_s};

pub use flows::{Flow, protocol};
pub use network::NodeNetwork;
pub use services::{Frontend, PortOf, Times};

use self::recent::Recent;
use self::services::{Names, Which};
use crate::network::XdpState;
use crate::policy::Ear;
use crate::proxy::NameQuestion;
use crate::streams::query;

/// Flows that a slow reader may be behind; then it loses some, and is told how many.
const BEHIND_MAX: usize = 4_096;
/// For how long the kernel goes on to report new flows when nobody asks any more.
const WATCH_S: u32 = 10;
/// How long somebody waits who asks for the last flows when none were reported, so that there are some.
const LOOK: Duration = Duration::from_secs(1);

/// How long to wait for the names of services.
const NAMES_WAIT: Duration = Duration::from_secs(1);

/// A node's datapath, seen.
pub struct Sight {
    maps: Mutex<Maps>,
    flows: broadcast::Sender<Bytes>,
    /// What is sent to the listeners is among these already.
    recent: Mutex<Recent>,
    /// Until when the kernel reports new flows.
    watched_until: AtomicU32,
    node: String,
    xdp: XdpState,
    datapath: trace::Datapath,
    /// Who knows how services are called.
    names: mpsc::Sender<NameQuestion>,
    /// Who knows the names that led to addresses outside.
    ear: Ear,
    /// One trace at a time: each loads programs.
    tracing: Semaphore,
}

/// The events' ring, with the descriptor by which it is waited for.
struct Ring(Events);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Sight {
    /// Over handles that nobody else has.
    pub fn new(
        node: &str,
        maps: Maps,
        xdp: XdpState,
        datapath: trace::Datapath,
        (names, ear): (mpsc::Sender<NameQuestion>, Ear),
    ) -> Arc<Self> {
        let (flows, _) = broadcast::channel(BEHIND_MAX);
        let (maps, tracing) = (Mutex::new(maps), Semaphore::new(1));
        let (recent, watched_until) = (Mutex::default(), AtomicU32::new(0));
        let node = node.to_owned();
        Arc::new(Self { maps, flows, recent, watched_until, node, xdp, datapath, names, ear, tracing })
    }

    /// How the service ports are called; nothing while nobody knows.
    async fn names(&self) -> Names {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.names.send(answer).await.ok()?;
            answered.await.ok()
        };
        let names = tokio::time::timeout(NAMES_WAIT, asked).await.ok().flatten();
        names.unwrap_or_default().into_iter().collect()
    }

    /// Passes events on to whoever listens, until `cancel`.
    ///
    /// # Errors
    /// If the ring cannot be waited for.
    pub async fn run(self: Arc<Self>, events: Events, clock: Clock, cancel: CancellationToken) -> io::Result<()> {
        // SAFETY: the ring holds its descriptor, gives always the same, and is given back to nobody before it is
        // deregistered.
        let mut ring = unsafe { AsyncFd::register_with_interest(Ring(events), Interest::READABLE) }?;
        loop {
            let mut ready = tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                ready = ring.readable_mut() => ready?,
            };
            while let Some(event) = ready.get_inner_mut().0.next() {
                let now = clock.now();
                let mut recent = self.recent.lock();
                let id = recent.push(&event, now);
                if self.flows.receiver_count() > 0 {
                    let line = Flow::new(&event, &self.node, id, now).line();
                    // Whoever listened has just gone.
                    let _ = self.flows.send(line);
                }
            }
            ready.clear_ready();
        }
    }

    /// Has the kernel report new flows for a while; says whether it does already.
    fn watch(&self) -> bool {
        let now = kernel_clock_s();
        let until = now.wrapping_add(WATCH_S);
        if let Err(error) = self.maps.lock().watched.set(until) {
            tracing::warn!(%error, "cannot ask the kernel for new flows; drops are reported all the same");
        }
        self.watched_until.swap(until, Ordering::Relaxed) > now
    }
}

/// The paths of the kubelet API that show it.
pub fn router(sight: Arc<Sight>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/xebec/flows", get(show_flows))
        .route("/xebec/services", get(show_services))
        .route("/xebec/network", get(show_network))
        .route("/xebec/trace", post(show_trace))
        .with_state(sight)
}

async fn show_metrics(State(sight): State<Arc<Sight>>) -> Response {
    let names = sight.names().await;
    let known = sight.ear.known(None).await;
    let text = metrics::text(&sight.maps.lock(), &names, &known);
    answer(text.map(|text| ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)))
}

/// All frontends; with `namespace`, `name`, `after` or `until`, those of the services that these choose.
async fn show_services(State(sight): State<Arc<Sight>>, RawQuery(text): RawQuery) -> Response {
    let names = sight.names().await;
    let services = services::read(&sight.maps.lock(), &names, &Which::parse(&query(text.as_deref())));
    answer(services.map(|services| json(&services)))
}

async fn show_network(State(sight): State<Arc<Sight>>) -> Response {
    let network = network::read(&sight.node, sight.xdp.clone(), &sight.maps.lock());
    answer(network.map(|network| json(&network)))
}

async fn show_trace(State(sight): State<Arc<Sight>>, body: Bytes) -> Response {
    let request: trace::Request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("the request cannot be read: {error}")).into_response(),
    };
    let Ok(_permit) = sight.tracing.acquire().await else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let worker = Arc::clone(&sight);
    let traced = tokio::task::spawn_blocking(move || {
        let maps = worker.maps.lock();
        trace::trace(&worker.node, &worker.datapath, &maps, &worker.xdp, &request)
    });
    match traced.await {
        Ok(Ok(mut trace)) => {
            if let Some(peer) = trace.peer_out() {
                trace.names = sight.ear.known(Some(peer)).await.names;
            }
            json(&trace).into_response()
        }
        Ok(Err(error @ trace::TraceError::Datapath(_))) => {
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
        Ok(Err(error)) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the trace died: {error}")).into_response(),
    }
}

fn json<T: serde::Serialize>(value: &T) -> impl IntoResponse + use<T> {
    // Addresses, names and numbers are always JSON.
    let text = serde_json::to_string(value).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text)
}

fn answer(result: Result<impl IntoResponse, xebec_ebpf_loader::Error>) -> Response {
    match result {
        Ok(answer) => answer.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Lines of JSON, as flows happen; `{"lost":N}` where the reader was too slow. With `after`, those that are kept of what
/// came after that number come first; with `follow=false`, they are all.
async fn show_flows(State(sight): State<Arc<Sight>>, RawQuery(text): RawQuery) -> Response {
    let options = query(text.as_deref());
    let option = |name: &str| options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let after = match option("after").map(str::parse::<u64>).transpose() {
        Ok(after) => after.unwrap_or(u64::MAX),
        Err(_) => return (StatusCode::BAD_REQUEST, "after: not the number of a flow").into_response(),
    };
    let watched = sight.watch();
    let body = if option("follow") == Some("false") {
        if !watched {
            tokio::time::sleep(LOOK).await;
        }
        let lines: Vec<u8> = sight.recent.lock().after(after, &sight.node).flat_map(|flow| flow.line()).collect();
        Body::from(lines)
    } else {
        Body::from_stream(sight.follow(after))
    };
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

impl Sight {
    /// What is kept of what came after a number, and then what comes.
    fn follow(self: Arc<Self>, after: u64) -> impl Stream<Item = io::Result<Bytes>> {
        let (kept, mut flows) = {
            let recent = self.recent.lock();
            let kept: Vec<Bytes> = recent.after(after, &self.node).map(|flow| flow.line()).collect();
            (kept, self.flows.subscribe())
        };
        async_stream::stream! {
            for line in kept {
                yield Ok(line);
            }
            let mut watching = tokio::time::interval(Duration::from_secs(u64::from(WATCH_S) / 2));
            loop {
                tokio::select! {
                    biased;
                    flow = flows.recv() => match flow {
                        Ok(line) => yield Ok(line),
                        Err(broadcast::error::RecvError::Lagged(lost)) => {
                            yield Ok(Bytes::from(format!("{{\"lost\":{lost}}}\n")));
                        }
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                    // An empty chunk shows whether the reader is still there.
                    _ = watching.tick() => {
                        self.watch();
                        yield Ok(Bytes::from_static(b"\n"));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
