//! What the datapath does, made visible: flows as they happen, what the maps hold for services, metrics.
//!
//! The kernel's maps are read through handles of their own; nothing here writes to them but the wish to be told of new
//! flows, which ends by itself.

mod flows;
mod metrics;
mod services;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use xebec_clock::Clock;
use xebec_ebpf_loader::{Events, Maps, kernel_clock_s};

pub use flows::{Flow, protocol};
pub use services::Frontend;

/// Flows that a slow reader may be behind; then it loses some, and is told how many.
const BEHIND_MAX: usize = 4_096;
/// For how long the kernel goes on to report new flows when nobody asks any more.
const WATCH_S: u32 = 10;

/// A node's datapath, seen.
pub struct Sight {
    maps: Mutex<Maps>,
    flows: broadcast::Sender<Bytes>,
    node: String,
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
    pub fn new(node: &str, maps: Maps) -> Arc<Self> {
        let (flows, _) = broadcast::channel(BEHIND_MAX);
        Arc::new(Self { maps: Mutex::new(maps), flows, node: node.to_owned() })
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
                if self.flows.receiver_count() > 0 {
                    let line = Flow::new(&event, &self.node, clock.now()).line();
                    // Whoever listened has just gone.
                    let _ = self.flows.send(line);
                }
            }
            ready.clear_ready();
        }
    }

    /// Has the kernel report new flows for a while.
    fn watch(&self) {
        let until = kernel_clock_s().wrapping_add(WATCH_S);
        if let Err(error) = self.maps.lock().watched.set(until) {
            tracing::warn!(%error, "cannot ask the kernel for new flows; drops are reported all the same");
        }
    }
}

/// The paths of the kubelet API that show it.
pub fn router(sight: Arc<Sight>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/xebec/flows", get(show_flows))
        .route("/xebec/services", get(show_services))
        .with_state(sight)
}

async fn show_metrics(State(sight): State<Arc<Sight>>) -> Response {
    let text = metrics::text(&sight.maps.lock());
    answer(text.map(|text| ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)))
}

async fn show_services(State(sight): State<Arc<Sight>>) -> Response {
    let services = services::read(&sight.maps.lock());
    answer(services.map(|services| {
        // Addresses, names and numbers are always JSON.
        let text = serde_json::to_string(&services).unwrap_or_default();
        ([(header::CONTENT_TYPE, "application/json")], text)
    }))
}

fn answer(result: Result<impl IntoResponse, xebec_ebpf_loader::Error>) -> Response {
    match result {
        Ok(answer) => answer.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Lines of JSON, as flows happen; `{"lost":N}` where the reader was too slow.
async fn show_flows(State(sight): State<Arc<Sight>>) -> Response {
    let mut flows = sight.flows.subscribe();
    let lines = async_stream::stream! {
        sight.watch();
        let mut watching = tokio::time::interval(Duration::from_secs(u64::from(WATCH_S) / 2));
        loop {
            tokio::select! {
                biased;
                flow = flows.recv() => match flow {
                    Ok(line) => yield Ok::<_, io::Error>(line),
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        yield Ok(Bytes::from(format!("{{\"lost\":{lost}}}\n")));
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                // An empty chunk shows whether the reader is still there.
                _ = watching.tick() => {
                    sight.watch();
                    yield Ok(Bytes::from_static(b"\n"));
                }
            }
        }
    };
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

#[cfg(test)]
mod tests;
