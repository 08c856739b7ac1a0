//! What the node and its pods use, as the kubelet tells it: `/metrics/resource` for metrics-server and its like,
//! `/stats/summary` for people and older tools. Nothing is measured unless somebody asks.

mod resource;
mod summary;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::pods::Context;
use crate::pods::manager::Pods;
use crate::runtime::Usage;

/// A container that runs, and what it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ContainerUsage {
    name: String,
    /// Its runtime id: another one counts anew.
    id: String,
    started: Option<Timestamp>,
    usage: Usage,
}

/// A pod, and what its running containers use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PodUsage {
    namespace: String,
    name: String,
    uid: String,
    started: Option<Timestamp>,
    containers: Vec<ContainerUsage>,
}

/// The node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    at: Timestamp,
    node: Option<Usage>,
    pods: Vec<PodUsage>,
    /// Some containers could not be read.
    incomplete: bool,
}

/// Reads what is used.
pub struct Stats {
    context: Arc<Context>,
    pods: Pods,
    /// The processor time of each thing when rates were last told: rates are since then.
    told: Mutex<Told>,
}

/// Processor time by runtime id (empty: the node), with when it was read.
type Told = BTreeMap<String, (Timestamp, u64)>;

impl Stats {
    /// Of a manager's pods.
    pub fn new(context: Arc<Context>, pods: Pods) -> Arc<Self> {
        Arc::new(Self { context, pods, told: Mutex::default() })
    }

    async fn read(&self) -> Reading {
        let mut reading = Reading { at: self.context.clock.now(), node: None, pods: Vec::new(), incomplete: false };
        match self.context.parts.runtime.node_usage().await {
            Ok(usage) => reading.node = Some(usage),
            Err(error) => {
                tracing::debug!(%error, "what the node uses cannot be read");
                reading.incomplete = true;
            }
        }
        for pod in self.pods.all() {
            let mut usage = PodUsage {
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                started: pod.status.start_time,
                containers: Vec::new(),
            };
            let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
            let started: BTreeMap<&str, Option<Timestamp>> = statuses
                .map(|s| (s.name.as_str(), s.state.running.as_ref().and_then(|running| running.started_at)))
                .collect();
            for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
                let latest = self.context.latest(&pod.metadata.uid, &container.name);
                let Some(latest) = latest.map(|latest| latest.borrow().clone()).filter(|latest| latest.running) else {
                    continue;
                };
                match self.context.parts.runtime.usage(&latest.id).await {
                    Ok(used) => usage.containers.push(ContainerUsage {
                        name: container.name.clone(),
                        id: latest.id,
                        started: started.get(container.name.as_str()).copied().flatten(),
                        usage: used,
                    }),
                    // It may have ended just now.
                    Err(error) => {
                        tracing::debug!(container = latest.id, %error, "what a container uses cannot be read");
                        reading.incomplete = true;
                    }
                }
            }
            if !usage.containers.is_empty() {
                reading.pods.push(usage);
            }
        }
        reading.pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        reading
    }
}

/// The paths of the kubelet API that tell it.
pub fn router(stats: Arc<Stats>) -> Router {
    Router::new()
        .route("/metrics/resource", get(show_resource))
        .route("/stats/summary", get(show_summary))
        .with_state(stats)
}

async fn show_resource(State(stats): State<Arc<Stats>>) -> Response {
    let text = resource::text(&stats.read().await);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn show_summary(State(stats): State<Arc<Stats>>) -> Response {
    let reading = stats.read().await;
    let summary = summary::summary(&stats.context.node_name, &reading, &mut stats.told.lock());
    ([(header::CONTENT_TYPE, "application/json")], summary.to_string()).into_response()
}
