//! Asking the nodes' agents, through the API server's own proxy to them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{AsyncBufReadExt as _, Stream, StreamExt as _, TryStreamExt as _};
use xebec_apiserver::reader::Reader;

/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes that are asked at a time.
const CONCURRENCY: usize = 32;

/// The way to them.
pub(super) struct Agents {
    reader: Arc<dyn Reader>,
    client: OnceLock<kube::Client>,
}

impl Agents {
    /// Nobody can be asked yet.
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, client: OnceLock::new() }
    }

    /// By `client` they can.
    pub(super) fn connect(&self, client: kube::Client) {
        // A second one would be as good as the first.
        let _ = self.client.set(client);
    }

    /// The nodes there are.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.reader.list("", "nodes", "").iter().map(|node| node.name.to_string()).collect()
    }

    /// What each of the nodes answers at a path below `/xebec/`, or why it does not.
    pub(super) async fn ask(&self, nodes: Vec<String>, path: &str) -> BTreeMap<String, Result<String, String>> {
        let asking = futures::stream::iter(nodes).map(|node| async {
            let answer = tokio::time::timeout(TIMEOUT, self.text(&node, path)).await;
            (node, answer.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs()))))
        });
        asking.buffer_unordered(CONCURRENCY).collect().await
    }

    async fn text(&self, node: &str, path: &str) -> Result<String, String> {
        self.client()?.request_text(request(node, path)?).await.map_err(|e| e.to_string())
    }

    /// The lines of a node's answer that goes on.
    pub(super) async fn lines(
        &self,
        node: &str,
        path: &str,
    ) -> Result<impl Stream<Item = Result<String, String>> + Send + use<>, String> {
        let body = self.client()?.request_stream(request(node, path)?).await.map_err(|e| e.to_string())?;
        Ok(body.lines().map_err(|e| e.to_string()))
    }

    fn client(&self) -> Result<&kube::Client, String> {
        self.client.get().ok_or_else(|| "the server is starting".to_owned())
    }
}

fn request(node: &str, path: &str) -> Result<http::Request<Vec<u8>>, String> {
    let path = format!("/api/v1/nodes/{node}/proxy/xebec/{path}");
    http::Request::get(path).body(Vec::new()).map_err(|e| e.to_string())
}
