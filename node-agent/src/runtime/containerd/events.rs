//! Follows containerd's events, and takes care of containers that ended.

use std::sync::Arc;
use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::{Container, SubscribeRequest, UpdateContainerRequest};
use prost::Message;
use prost_types::{Any, FieldMask};
use tokio::sync::mpsc;

use super::client::{NAMESPACE, request, timestamp};
use super::{Inner, labels};
use crate::runtime::{Exit, Phase, RuntimeError, RuntimeEvent};

/// How long to wait before connecting again.
const RECONNECT: Duration = Duration::from_millis(500);
/// After how long a silent stream is taken to be established: containerd answers a subscription only with its first
/// event.
const SETTLED: Duration = Duration::from_millis(100);

/// Follows the events until nobody listens.
pub(super) async fn follow(inner: Arc<Inner>, out: mpsc::Sender<RuntimeEvent>) {
    let mut down = false;
    loop {
        tokio::select! {
            biased;
            () = out.closed() => return,
            result = subscribe(&inner, &out, &mut down) => {
                if let Err(error) = result
                    && !down
                {
                    tracing::warn!(%error, "lost the connection to containerd");
                    down = true;
                    if out.send(RuntimeEvent::Down).await.is_err() {
                        return;
                    }
                }
            }
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn subscribe(inner: &Arc<Inner>, out: &mpsc::Sender<RuntimeEvent>, down: &mut bool) -> Result<(), RuntimeError> {
    // Fails at once if nobody is there, which the subscription would not.
    inner.client.version().version(()).await?;
    let filters = ["/tasks/exit", "/tasks/oom"].map(|topic| format!("namespace==\"{NAMESPACE}\",topic==\"{topic}\""));
    let mut events_client = inner.client.events();
    let subscribe = events_client.subscribe(request(SubscribeRequest { filters: filters.to_vec() }));
    tokio::pin!(subscribe);
    let early = tokio::select! {
        biased;
        stream = &mut subscribe => Some(stream?),
        () = tokio::time::sleep(SETTLED) => None,
    };
    // What ended before is seen by asking; what ends from now on, by the stream.
    *down = false;
    if out.send(RuntimeEvent::Resync).await.is_err() {
        return Ok(());
    }
    let mut stream = match early {
        Some(stream) => stream.into_inner(),
        None => subscribe.await?.into_inner(),
    };
    while let Some(envelope) = stream.message().await? {
        let Some(event) = envelope.event else { continue };
        if let Some(event) = handle(inner, &envelope.topic, &event)
            && out.send(event).await.is_err()
        {
            return Ok(());
        }
    }
    Err(RuntimeError::Down("the event stream ended".to_owned()))
}

fn handle(inner: &Arc<Inner>, topic: &str, event: &Any) -> Option<RuntimeEvent> {
    match topic {
        "/tasks/oom" => {
            let oom = TaskOom::decode(event.value.as_slice()).ok()?;
            inner.out_of_memory.lock().insert(oom.container_id);
            None
        }
        "/tasks/exit" => {
            let exit = TaskExit::decode(event.value.as_slice()).ok()?;
            // Others are commands that ran in the container.
            if exit.id != exit.container_id {
                return None;
            }
            let at = timestamp(exit.exited_at.as_ref()).unwrap_or_else(|| inner.clock.now());
            let id = exit.container_id;
            let code = i32::try_from(exit.exit_status).unwrap_or(255);
            let known = inner.known.lock().get(&id).cloned();
            let exit = match &known {
                Some(known) => inner.exit(known, code, at),
                None => Exit { code, finished_at: at, oom_killed: false },
            };
            tokio::spawn(settle(Arc::clone(inner), id.clone(), exit.clone()));
            Some(RuntimeEvent::Exited { id, exit })
        }
        _ => None,
    }
}

/// Writes down how a container ended, and lets its task go: that frees the shim when it was the pod's last.
async fn settle(inner: Arc<Inner>, id: String, exit: Exit) {
    let label = {
        let mut known = inner.known.lock();
        let Some(known) = known.get_mut(&id) else { return };
        let since = match known.record.phase {
            Phase::Running(since) => Some(since),
            _ => None,
        };
        known.record.phase = Phase::Exited(since, exit.clone());
        labels::exit_label(since, &exit)
    };
    let update = UpdateContainerRequest {
        container: Some(Container { id: id.clone(), labels: [label.clone()].into(), ..Container::default() }),
        update_mask: Some(FieldMask { paths: vec![format!("labels.{}", label.0)] }),
    };
    if let Err(status) = inner.client.containers().update(request(update)).await {
        tracing::debug!(%id, status = %status.message(), "exit not written down");
    }
    inner.delete_task(&id).await;
}
