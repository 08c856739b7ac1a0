//! `datapath.xebec.io`: what the nodes' datapath does and holds, as API objects. Nothing is stored: the nodes' agents are
//! asked when somebody asks.
//!
//! The group is not that of the pools (`net.xebec.io`), because those are custom resources: a version of a group is
//! served by one or the other.

mod agents;
mod flows;
mod services;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use xebec_apiserver::computed::{ComputedApi, ComputedKind, Page, Selection};
use xebec_apiserver::reader::Reader;
use xebec_schema::resource::Column;
use xebec_schema::status::Status;

use agents::Agents;

/// The group.
const GROUP: &str = "datapath.xebec.io";

/// Watches at a time.
const WATCHES_MAX: usize = 32;

const KINDS: &[ComputedKind] = &[flows::KIND, services::KIND];

/// The nodes' datapath, seen by the API.
pub struct Datapath {
    reader: Arc<dyn Reader>,
    agents: Arc<Agents>,
    /// Each has a connection to every node.
    watches: Arc<Semaphore>,
}

impl Datapath {
    /// With the objects that give things their names.
    pub fn new(reader: Arc<dyn Reader>) -> Arc<Self> {
        let agents = Arc::new(Agents::new(reader.clone()));
        Arc::new(Self { reader, agents, watches: Arc::new(Semaphore::new(WATCHES_MAX)) })
    }

    /// From now on the nodes can be asked, by `client`, which may use their proxies.
    pub fn connect(&self, client: kube::Client) {
        self.agents.connect(client);
    }
}

/// The role by which those who may see a namespace may see what the datapath does for it.
pub fn roles() -> Vec<Value> {
    let to = |role: &str| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), Value::from("true"));
    let labels: serde_json::Map<String, Value> = ["view", "edit", "admin"].map(to).into_iter().collect();
    let resources: Vec<&str> = KINDS.iter().map(|kind| kind.plural).collect();
    vec![json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "xebec:datapath-reader", "labels": labels},
        "rules": [{"apiGroups": [GROUP], "resources": resources, "verbs": ["get", "list", "watch"]}],
    })]
}

#[async_trait]
impl ComputedApi for Datapath {
    fn group(&self) -> &'static str {
        GROUP
    }

    fn version(&self) -> &'static str {
        "v1alpha1"
    }

    fn kinds(&self) -> &'static [ComputedKind] {
        KINDS
    }

    async fn list(&self, selection: &Selection) -> Result<Page, Status> {
        if selection.plural == flows::KIND.plural {
            flows::list(&*self.reader, &self.agents, selection).await
        } else {
            services::list(&*self.reader, &self.agents, selection).await
        }
    }

    fn watch(&self, selection: &Selection) -> Result<BoxStream<'static, Value>, Status> {
        let Ok(permit) = self.watches.clone().try_acquire_owned() else {
            return Err(Status::too_many_requests(format!("{WATCHES_MAX} watches of flows go on already"), 10));
        };
        Ok(flows::watch(self.reader.clone(), self.agents.clone(), selection.clone(), permit).boxed())
    }
}

/// A column.
const fn column(
    name: &'static str,
    kind: &'static str,
    priority: i32,
    cell: fn(&Value, jiff::Timestamp) -> Value,
) -> Column {
    Column { name, kind, format: "", description: "", priority, cell }
}

/// An object of the watch cache.
fn decode(entry: &xebec_apiserver::reader::Entry) -> Value {
    // What is cached is JSON.
    serde_json::from_slice(&entry.bytes).unwrap_or_default()
}
