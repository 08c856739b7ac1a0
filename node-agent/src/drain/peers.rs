//! The other nodes' agents: how far are the maps of each?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::{Applied, PATH, WAIT_MAX};

/// Ready nodes but this one, with where their agents listen.
pub type Nodes = BTreeMap<String, SocketAddr>;

/// Nodes asked at the same time.
const AT_ONCE: usize = 64;
/// How long to wait before asking again an agent that did not answer.
const RETRY: Duration = Duration::from_millis(50);
/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(15);
/// An answer is one number.
const ANSWER_BYTES_MAX: usize = 1_024;

/// Asks one agent.
#[async_trait]
pub trait Ask: Send + Sync + 'static {
    /// The revision that the maps of the agent at `address` hold: answered when that is at least `revision`, or after
    /// a while.
    async fn applied(&self, address: SocketAddr, revision: u64, wait: Duration) -> Result<u64, String>;
}

/// The other nodes, and how far each was when last heard of.
pub struct Peers {
    nodes: watch::Receiver<Nodes>,
    known: Mutex<BTreeMap<String, u64>>,
    ask: Box<dyn Ask>,
}

impl Peers {
    /// These nodes, asked by `ask`.
    pub fn new(nodes: watch::Receiver<Nodes>, ask: impl Ask) -> Self {
        Self { nodes, known: Mutex::default(), ask: Box::new(ask) }
    }

    /// Waits until every node's maps hold `revision`; gives those that do not at the deadline.
    pub async fn reach(&self, revision: u64, deadline: Instant) -> Vec<String> {
        let nodes = self.nodes.borrow().clone();
        self.known.lock().retain(|name, _| nodes.contains_key(name));
        let one = |(name, address): (String, SocketAddr)| async move {
            let reached = tokio::select! {
                biased;
                result = tokio::time::timeout_at(deadline, self.node(&name, address, revision)) => result.is_ok(),
                () = self.leaves(&name) => true,
            };
            (!reached).then_some(name)
        };
        futures::stream::iter(nodes).map(one).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    async fn node(&self, name: &str, address: SocketAddr, revision: u64) {
        while self.known.lock().get(name).is_none_or(|known| *known < revision) {
            match self.ask.applied(address, revision, WAIT_MAX).await {
                Ok(now) => {
                    let mut all = self.known.lock();
                    let known = all.entry(name.to_owned()).or_insert(now);
                    *known = now.max(*known);
                }
                // Its programs go on with the maps as they are: it is asked for as long as there is time.
                Err(error) => {
                    tracing::debug!(node = name, %error, "cannot ask an agent how far its maps are");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Returns when the node is not among the ready ones.
    async fn leaves(&self, name: &str) {
        let mut nodes = self.nodes.clone();
        if nodes.wait_for(|nodes| !nodes.contains_key(name)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peers({:?})", self.nodes.borrow().keys())
    }
}

type Https = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Asks by HTTPS, as the node. One connection an agent, for all questions at a time.
pub struct HttpsAsk {
    tls: watch::Receiver<Arc<ClientConfig>>,
    client: Mutex<(Arc<ClientConfig>, Https)>,
}

impl HttpsAsk {
    /// With the newest of these.
    pub fn new(tls: watch::Receiver<Arc<ClientConfig>>) -> Self {
        let config = Arc::clone(&tls.borrow());
        let client = Mutex::new((Arc::clone(&config), client(&config)));
        Self { tls, client }
    }

    fn client(&self) -> Https {
        let newest = Arc::clone(&self.tls.borrow());
        let mut current = self.client.lock();
        if !Arc::ptr_eq(&current.0, &newest) {
            *current = (Arc::clone(&newest), client(&newest));
        }
        current.1.clone()
    }
}

fn client(config: &ClientConfig) -> Https {
    let mut config = config.clone();
    // The connector says itself what it speaks.
    config.alpn_protocols.clear();
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http2().build();
    Client::builder(TokioExecutor::new())
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http2_only(true)
        .build(connector)
}

#[async_trait]
impl Ask for HttpsAsk {
    async fn applied(&self, address: SocketAddr, revision: u64, wait: Duration) -> Result<u64, String> {
        let url = format!("https://{address}{PATH}{revision}/{}", wait.as_millis());
        let url = url.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
        let response = self.client().get(url).await.map_err(|e| causes(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        if !status.is_success() {
            return Err(format!("the agent answered {status}"));
        }
        let answer: Applied = serde_json::from_slice(&body.to_bytes()).map_err(|e| e.to_string())?;
        answer.revision.ok_or_else(|| "the agent's maps are not set up yet".to_owned())
    }
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
