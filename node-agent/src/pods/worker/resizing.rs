//! Changing what a worker's containers may use.

use std::sync::Arc;

use jiff::Timestamp;

use super::operations::Done;
use super::{RETRY_AFTER, Worker};
use crate::api::Pod;
use crate::api::pod::Resources;
use crate::events::About;
use crate::pods::context::Context;
use crate::pods::resize::{Pending, message};
use crate::pods::resources::{cgroup, container_limits, pod_limits};
use crate::pods::state::Step;
use crate::pods::{plan, resources};
use crate::runtime::{Limits, RuntimeError};

impl Worker {
    /// Grants what the object asks for, if the node has it; and sees when all of it is in force.
    pub(super) fn consider_resize(&mut self, now: Timestamp) {
        if self.state.finished.is_some() || plan::end(&self.pod, &self.state, now).is_some() {
            return;
        }
        if self.state.resize.is_wanted(&self.pod) {
            match self.context.ledger.try_grant(&self.pod, &self.context.allocatable) {
                Ok(()) => {
                    self.state.resize.grant(&self.pod);
                    let told = message("Pod resize started", &self.pod, self.pod.metadata.generation, "");
                    self.context.events.normal(About::pod(&self.pod), "ResizeStarted", told);
                }
                Err(pending) => self.wait_for_room(pending),
            }
        } else {
            self.state.resize.pending = None;
        }
        self.see_whether_resized();
    }

    fn wait_for_room(&mut self, pending: Pending) {
        if self.state.resize.pending.as_ref() == Some(&pending) {
            return;
        }
        let before = self.state.resize.pending.as_ref();
        let new = before.is_none_or(|b| (b.reason, b.generation) != (pending.reason, pending.generation));
        if new {
            let prefix = format!("Pod resize {}", pending.reason);
            let told = message(&prefix, &self.pod, pending.generation, &pending.message);
            self.context.events.warning(About::pod(&self.pod), &format!("Resize{}", pending.reason), told);
        }
        self.state.resize.pending = Some(pending);
    }

    /// A change is done when every container that runs is held to what it was granted.
    fn see_whether_resized(&mut self) {
        let Some(progress) = &self.state.resize.in_progress else { return };
        let done = self.state.resize.step != Step::Doing
            && self.pod.spec.all_containers().all(|c| {
                let state = self.state.container(&c.name);
                !state.is_running() || state.applied.as_ref() == Some(self.state.resize.of_container(c))
            });
        if done {
            let granted = self.state.resize.granted_to(&self.pod);
            let told = message("Pod resize completed", &granted, progress.generation, "");
            self.context.events.normal(About::pod(&self.pod), "ResizeCompleted", told);
            self.state.resize.in_progress = None;
        }
    }

    pub(super) fn begin_resize(&mut self) {
        let granted = self.state.resize.granted_to(&self.pod);
        let mut before = Pod::clone(&granted);
        for container in before.spec.init_containers.iter_mut().chain(&mut before.spec.containers) {
            if let Some(applied) = &self.state.container(&container.name).applied {
                container.resources.clone_from(applied);
            }
        }
        let mut changes = Vec::new();
        for container in granted.spec.all_containers() {
            let state = self.state.container(&container.name);
            let Some(applied) = state.applied.as_ref().filter(|applied| **applied != container.resources) else {
                continue;
            };
            if state.is_running()
                && state.operation.is_none()
                && !crate::pods::resize::restarts(container, applied, &container.resources)
                && let Some(instance) = &state.instance
            {
                let (name, id) = (container.name.clone(), instance.id.clone());
                changes.push(Change {
                    name,
                    id,
                    limits: container_limits(container),
                    before: container_limits(&crate::api::pod::Container {
                        resources: applied.clone(),
                        ..container.clone()
                    }),
                    resources: container.resources.clone(),
                });
            }
        }
        let pids = self.context.pod_pids_max;
        let (old, new) = (pod_limits(&before.spec, pids), pod_limits(&granted.spec, pids));
        let cgroup = cgroup(&granted.spec, &self.identity.uid);
        self.state.resize.step = Step::Doing;
        self.spawn(resize(Arc::clone(&self.context), cgroup, old, new, changes));
    }

    pub(super) fn resize_finished(&mut self, applied: Vec<(String, Resources)>, error: Option<String>, now: Timestamp) {
        for (name, resources) in applied {
            if let Some(container) = self.state.containers.get_mut(&name) {
                container.applied = Some(resources);
            }
        }
        let Some(error) = error else {
            self.state.resize.step = Step::Todo;
            return;
        };
        let retry_at = now.checked_add(RETRY_AFTER).unwrap_or(now);
        self.state.resize.step = Step::Failed { message: error.clone(), retry_at, failures: 1 };
        if let Some(progress) = &mut self.state.resize.in_progress
            && progress.error.as_ref() != Some(&error)
        {
            let told = message("Pod resize error", &self.pod, progress.generation, &error);
            progress.error = Some(error);
            self.context.events.warning(About::pod(&self.pod), "ResizeError", told);
        }
    }
}

/// A container that is to be held to something else.
struct Change {
    name: String,
    id: String,
    limits: Limits,
    before: Limits,
    resources: Resources,
}

/// The pod is widened first, and narrowed last: its containers' limits must fit into it at every moment.
async fn resize(context: Arc<Context>, cgroup: String, old: Limits, new: Limits, changes: Vec<Change>) -> Done {
    let runtime = &context.parts.runtime;
    let mut applied = Vec::new();
    let result: Result<(), RuntimeError> = async {
        runtime.limit_sandbox(&cgroup, &resources::widest(&old, &new)).await?;
        for change in changes {
            let shrinks =
                change.limits.memory_bytes.filter(|new| change.before.memory_bytes.is_none_or(|old| *new < old));
            if let Some(limit) = shrinks {
                let usage = runtime.usage(&change.id).await?.memory_working_set_bytes;
                if usage > u64::try_from(limit).unwrap_or(0) {
                    return Err(RuntimeError::Failed(format!(
                        "cannot decrease memory limits: attempting to set container {:?} memory limit ({limit}) below \
                         current usage ({usage})",
                        change.name
                    )));
                }
            }
            runtime.limit(&change.id, &change.limits).await?;
            applied.push((change.name, change.resources));
        }
        runtime.limit_sandbox(&cgroup, &new).await
    }
    .await;
    Done::Resized { applied, error: result.err().map(|e| e.to_string()) }
}
