//! One task per pod: asks the planner, carries out what it says, reports the status.
//!
//! The loop never waits for one thing only. Everything slow is a future in `operations` or `probes`; its result changes
//! the state, and the planner is asked again.

mod operations;
mod probing;
mod resizing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::operations::Done;
use self::probing::{ProbeDone, Probing};
use super::context::{Context, Latest};
use super::plan::{self, Action};
use super::resize::Resize;
use super::spec::identity;
use super::state::{
    ContainerState, Evicted, Instance, Leaving, Operation, PodState, Problem, Step, TerminatedEq, Unhealthy,
};
use super::{backoff, start, status};
use crate::api::Pod;
use crate::api::status::PodStatus;
use crate::drain;
use crate::events::About;
use crate::network::PodIdentity;
use crate::runtime::{Exit, Phase, Record};
use crate::volumes::{Ended, PodVolumes};

/// Something that the worker must know.
#[derive(Clone, Debug)]
pub enum Input {
    /// The object is now so.
    Pod(Arc<Pod>),
    /// The object is gone.
    Removed,
    /// One of its containers ended.
    Exited {
        /// Which.
        id: String,
        /// How.
        exit: Exit,
    },
    /// Ends of containers may have been missed.
    Resync,
    /// The node sends it away.
    Evicted(Evicted),
}

/// How many inputs may wait for a worker. At the limit the manager waits.
pub const INBOX: usize = 64;

/// How long until what failed for reasons of the node is tried again.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(2);
/// How long an image's failure is shown before the wait for its next pull is.
const ERR_IMAGE_PULL_SHOWN: SignedDuration = SignedDuration::from_secs(2);

/// One pod.
pub struct Worker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    identity: PodIdentity,
    state: PodState,
    inbox: mpsc::Receiver<Input>,
    operations: FuturesUnordered<BoxFuture<'static, Done>>,
    probes: FuturesUnordered<BoxFuture<'static, ProbeDone>>,
    probing: Probing,
    /// Ends the operation on a container.
    cancels: BTreeMap<String, CancellationToken>,
    /// Containers that ended before their start was known.
    early_exits: BTreeMap<String, Exit>,
    volumes: PodVolumes,
    /// Changes when another pod of the node gives something back.
    freed: watch::Receiver<u64>,
    /// What the API server has been told.
    reported: PodStatus,
    report: Report,
}

/// Where the report of the status stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Report {
    Idle,
    Sending,
    RetryAt(Timestamp),
    /// Nobody wants to know any more.
    Over,
}

impl Worker {
    /// A worker for `pod`, of which the runtime already has `records`.
    pub fn new(
        context: Arc<Context>,
        pod: Arc<Pod>,
        records: Vec<Record>,
        rejected: Option<super::state::Rejection>,
        inbox: mpsc::Receiver<Input>,
    ) -> Self {
        let state = adopt(&context, &pod, records, rejected);
        Self {
            identity: identity(&pod),
            reported: pod.status.clone(),
            freed: context.ledger.freed(),
            context,
            pod,
            state,
            inbox,
            operations: FuturesUnordered::new(),
            probes: FuturesUnordered::new(),
            probing: Probing::default(),
            cancels: BTreeMap::new(),
            early_exits: BTreeMap::new(),
            volumes: PodVolumes::default(),
            report: Report::Idle,
        }
    }

    /// Works until the pod is gone from the node.
    pub async fn run(mut self) {
        self.watch_adopted();
        loop {
            let now = self.context.clock.now();
            let wake_at = self.step(now);
            self.tell_latest();
            if self.state.deleted.done().is_some() {
                self.context.forget_latest(&self.identity.uid);
                return;
            }
            let wake = async {
                match wake_at {
                    Some(at) => tokio::time::sleep(until(now, at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                input = self.inbox.recv() => match input {
                    Some(input) => self.take_in(input).await,
                    // The manager is gone: the agent stops, the containers do not.
                    None => return,
                },
                Some(done) = self.operations.next() => self.finish(done).await,
                Some(done) = self.probes.next() => self.probed(done),
                Ok(()) = self.freed.changed(), if self.state.resize.pending.is_some() => {}
                () = wake => {}
            }
        }
    }

    fn tell_latest(&self) {
        for (name, container) in &self.state.containers {
            if let Some(instance) = &container.instance {
                let latest =
                    Latest { id: instance.id.clone(), attempt: instance.attempt, running: instance.is_running() };
                self.context.tell_latest(&self.identity.uid, name, latest);
            }
        }
    }

    /// Plans, begins what is planned, reports. Gives the time to do so again at the latest.
    fn step(&mut self, now: Timestamp) -> Option<Timestamp> {
        let mut wake_at = self.turn_pull_errors(now);
        let mut earlier = |at: Option<Timestamp>| {
            if let Some(at) = at {
                wake_at = Some(wake_at.map_or(at, |w| w.min(at)));
            }
        };
        if self.state.finished.is_none()
            && let phase @ ("Succeeded" | "Failed") = status::phase(&self.pod, &self.state, now)
        {
            self.state.finished = Some(phase);
        }
        self.consider_resize(now);
        let plan = plan::plan(&self.pod, &self.state, now);
        earlier(plan.wake_at);
        for action in plan.actions {
            self.begin(action, now);
        }
        earlier(self.report_status(now));
        wake_at
    }

    fn begin(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::MountVolumes => {
                self.state.volumes = Step::Doing;
                self.spawn(operations::mount(Arc::clone(&self.context), Arc::clone(&self.pod)));
            }
            Action::Connect => {
                self.state.network = Step::Doing;
                self.spawn(operations::connect(Arc::clone(&self.context), Arc::clone(&self.pod)));
            }
            Action::Start { container } => self.begin_start(container, now),
            Action::Cancel { container } => {
                if let Some(cancel) = self.cancels.get(&container) {
                    cancel.cancel();
                }
            }
            Action::LeaveServices { within } => {
                self.state.leaving = Leaving::Since(now);
                let within = Duration::try_from(within).unwrap_or(Duration::ZERO);
                self.spawn(operations::leave_services(Arc::clone(&self.context), Arc::clone(&self.pod), within));
            }
            Action::Resize => self.begin_resize(),
            Action::Stop { container, message, deadline } => self.begin_stop(&container, message, deadline),
            Action::TearDown => {
                self.state.torn_down = Step::Doing;
                self.spawn(operations::tear_down(Arc::clone(&self.context), Arc::clone(&self.pod)));
            }
            Action::Delete => {
                // The last status must have arrived: nobody could read it afterwards.
                let flushed = match &self.report {
                    Report::Idle => self.current_status(now) == self.reported,
                    Report::Over => true,
                    Report::Sending | Report::RetryAt(_) => self.state.removed,
                };
                if flushed || self.state.removed {
                    self.state.deleted = Step::Doing;
                    let ids = self.state.containers.values().filter_map(|c| Some(c.instance.as_ref()?.id.clone()));
                    let ids = ids.collect();
                    let removed = self.state.removed;
                    self.spawn(operations::delete(Arc::clone(&self.context), Arc::clone(&self.pod), ids, removed));
                }
            }
        }
    }

    fn begin_start(&mut self, name: String, now: Timestamp) {
        let Some(connected) = self.state.network.done().cloned() else { return };
        let cancel = CancellationToken::new();
        let container = self.state.containers.entry(name.clone()).or_default();
        if let Some(finished_at) = container.exit().map(|e| e.finished_at) {
            container.backoff.advance(finished_at, now);
        }
        container.operation = Some(Operation::Starting);
        container.unhealthy = None;
        container.applied = self.state.resize.granted.get(&name).cloned();
        let target = self.pod.spec.container(&name).map(|c| c.target_container_name.as_str()).unwrap_or_default();
        let target = self.state.containers.get(target).filter(|c| c.is_running());
        let target = target.and_then(|c| Some(c.instance.as_ref()?.id.clone()));
        let container = self.state.containers.entry(name.clone()).or_default();
        let attempt = if container.instance.is_some() { container.restarts + 1 } else { container.restarts };
        self.cancels.insert(name.clone(), cancel.clone());
        let start = start::Start {
            pod: self.state.resize.granted_to(&self.pod),
            container: name,
            id: self.container_id(),
            attempt,
            connected,
            volumes: self.volumes.clone(),
            target,
            cancel,
        };
        self.spawn(operations::start(Arc::clone(&self.context), start));
    }

    fn container_id(&self) -> String {
        let mut bytes = [0_u8; 32];
        self.context.random.fill(&mut bytes);
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn begin_stop(&mut self, name: &str, message: String, deadline: Timestamp) {
        let Some(container) = self.state.containers.get_mut(name) else { return };
        let Some(instance) = &container.instance else { return };
        let hurried = matches!(container.operation, Some(Operation::Stopping(_)));
        container.operation = Some(Operation::Stopping(deadline));
        if !hurried {
            self.context.events.normal(About::container(&self.pod, name), "Killing", message);
        }
        let cancel = CancellationToken::new();
        if let Some(earlier) = self.cancels.insert(name.to_owned(), cancel.clone()) {
            earlier.cancel();
        }
        let stop = operations::Stop {
            pod: Arc::clone(&self.pod),
            container: name.to_owned(),
            id: instance.id.clone(),
            deadline,
            hook: !hurried,
            address: self.state.network.done().and_then(|c| c.addresses.first().copied()),
            cancel,
        };
        self.spawn(operations::stop(Arc::clone(&self.context), stop));
    }

    fn spawn(&mut self, operation: impl Future<Output = Done> + Send + 'static) {
        self.operations.push(Box::pin(operation));
    }

    async fn take_in(&mut self, input: Input) {
        match input {
            Input::Pod(pod) => {
                let changed = pod.metadata.labels != self.pod.metadata.labels
                    || pod.metadata.annotations != self.pod.metadata.annotations;
                self.pod = pod;
                if changed {
                    self.context.parts.volumes.update(Arc::clone(&self.pod)).await;
                }
            }
            Input::Removed => self.state.removed = true,
            Input::Exited { id, exit } => self.exited(&id, exit).await,
            Input::Resync => self.resync(),
            Input::Evicted(why) => self.state.evicted = self.state.evicted.take().or(Some(why)),
        }
    }

    /// A container of this pod has ended.
    async fn exited(&mut self, id: &str, exit: Exit) {
        let found = self
            .state
            .containers
            .iter()
            .find(|(_, c)| c.instance.as_ref().is_some_and(|i| i.id == id))
            .map(|(name, c)| (name.clone(), c.is_running()));
        let name = match found {
            Some((name, true)) => name,
            Some((_, false)) => return,
            None => {
                self.early_exits.insert(id.to_owned(), exit);
                return;
            }
        };
        let attempt = self.state.container(&name).instance.as_ref().map_or(0, |i| i.attempt);
        let message = match self.pod.spec.container(&name) {
            Some(container) => {
                let log_path = self.context.log_path(&self.identity, &name, attempt);
                let ended = Ended { container, id, log_path, failed: exit.code != 0 };
                self.context.parts.volumes.termination_message(&self.identity, ended).await
            }
            None => None,
        };
        let Some(container) = self.state.containers.get_mut(&name) else { return };
        if let Some(cancel) = self.cancels.remove(&name) {
            cancel.cancel();
        }
        container.operation = None;
        container.unhealthy = None;
        (container.started, container.ready) = (false, false);
        let code = exit.code;
        if let Some(instance) = &mut container.instance
            && let Phase::Running(since) = instance.phase
        {
            instance.phase = Phase::Exited(Some(since), exit);
            instance.message = message;
        }
        self.tell_back_off(&name, code);
    }

    /// The event of a container that must wait for its restart.
    fn tell_back_off(&self, name: &str, code: i32) {
        let now = self.context.clock.now();
        let waits =
            plan::crash_backoff_until(self.state.container(name)).is_some_and(|until| backoff::waits(until, now));
        let Some(container) = self.pod.spec.container(name) else { return };
        if waits && plan::end(&self.pod, &self.state, now).is_none() && PodState::restarts(&self.pod, container, code) {
            let meta = &self.pod.metadata;
            let message = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                meta.name, meta.namespace, meta.uid
            );
            self.context.events.warning(About::container(&self.pod, name), "BackOff", message);
        }
    }

    /// Asks the runtime about every container that should run.
    fn resync(&mut self) {
        let running: Vec<String> = self
            .state
            .containers
            .values()
            .filter(|c| c.is_running())
            .filter_map(|c| Some(c.instance.as_ref()?.id.clone()))
            .collect();
        for id in running {
            self.spawn(operations::inspect(Arc::clone(&self.context), id));
        }
    }

    async fn finish(&mut self, done: Done) {
        let now = self.context.clock.now();
        match done {
            Done::Mounted(Ok(volumes)) => {
                self.volumes = volumes;
                self.state.volumes = Step::Done(());
            }
            Done::Mounted(Err(message)) => {
                let about = About::pod(&self.pod);
                self.context.events.warning(about, "FailedMount", message.clone());
                self.state.volumes = failed(&self.state.volumes, message, now);
            }
            Done::NotPrepared(message) => {
                let about = About::pod(&self.pod);
                let told = format!("Failed to prepare dynamic resources: {message}");
                self.context.events.warning(about, "FailedPrepareDynamicResources", told);
                self.state.network = failed(&self.state.network, message, now);
            }
            Done::Connected(Ok(connected)) => self.state.network = Step::Done(connected),
            Done::Connected(Err(message)) => {
                let about = About::pod(&self.pod);
                let told = format!("Failed to create pod sandbox: {message}");
                self.context.events.warning(about, "FailedCreatePodSandBox", told);
                self.state.network = failed(&self.state.network, message, now);
            }
            Done::Started { container, id, result } => self.start_finished(&container, &id, result, now).await,
            Done::PostStart { container, id, error } => self.post_start_finished(&container, &id, error),
            Done::Stopped { id, exit } => self.exited(&id, exit).await,
            Done::Inspected { id, exit } => {
                if let Some(exit) = exit {
                    self.exited(&id, exit).await;
                }
            }
            Done::Left(outcome) => self.left_services(&outcome, now),
            Done::TornDown(Ok(())) => self.state.torn_down = Step::Done(()),
            Done::TornDown(Err(message)) => {
                tracing::warn!(pod = %self.identity.name, %message, "cannot tear the pod down yet");
                let about = About::pod(&self.pod);
                self.context.events.warning(about, "FailedKillPod", format!("error killing pod: {message}"));
                self.state.torn_down = failed(&self.state.torn_down, message, now);
            }
            Done::Deleted(Ok(())) => self.state.deleted = Step::Done(()),
            Done::Deleted(Err(message)) => {
                tracing::warn!(pod = %self.identity.name, %message, "cannot delete the pod yet");
                self.state.deleted = failed(&self.state.deleted, message, now);
            }
            Done::Resized { applied, error } => self.resize_finished(applied, error, now),
            Done::Reported { status, result } => self.report_finished(status, result, now),
            Done::Nothing => {}
        }
    }

    fn left_services(&mut self, outcome: &drain::Outcome, now: Timestamp) {
        let Leaving::Since(since) = self.state.leaving else { return };
        let waited = now.duration_since(since);
        self.state.leaving = Leaving::Left(waited);
        let waited_ms = waited.as_millis();
        match outcome {
            drain::Outcome::Unused => {}
            drain::Outcome::LetGo => {
                let PodIdentity { namespace, name, .. } = &self.identity;
                tracing::info!(%namespace, pod = %name, waited_ms, "no node sends the pod new connections; stopping it");
            }
            drain::Outcome::TimedOut(nodes) => {
                let who = if nodes.is_empty() { "its EndpointSlices".to_owned() } else { nodes.join(", ") };
                let message =
                    format!("Stopping although after {waited_ms} ms the pod may still get connections by {who}");
                self.context.events.warning(About::pod(&self.pod), "DrainTimeout", message);
            }
        }
    }

    async fn start_finished(
        &mut self,
        name: &str,
        id: &str,
        result: Result<Instance, start::StartError>,
        now: Timestamp,
    ) {
        self.cancels.remove(name);
        let container = self.state.containers.entry(name.to_owned()).or_default();
        container.operation = None;
        let again_at = |backoff: &super::backoff::Backoff| {
            backoff.until(now).unwrap_or(now).max(now.checked_add(RETRY_AFTER).unwrap_or(now))
        };
        let problem = |reason: &str, message: String, retry_at: Timestamp| {
            Some(Problem { reason: reason.to_owned(), message, retry_at, since: now, image: None })
        };
        match result {
            Err(start::StartError::Cancelled) => {}
            Err(start::StartError::Image(why)) => {
                container.image_backoff.advance(now, now);
                let again = problem(why.reason, why.message, again_at(&container.image_backoff));
                container.problem = again.map(|problem| Problem { image: Some(why.image), ..problem });
            }
            Err(start::StartError::Config(reason, message)) => {
                container.problem = problem(reason, message, now.checked_add(RETRY_AFTER).unwrap_or(now));
            }
            Err(start::StartError::Process(instance, message)) => {
                self.replace(name, *instance);
                let container = self.state.containers.entry(name.to_owned()).or_default();
                let retry_at = plan::crash_backoff_until(container).unwrap_or(now);
                container.problem = problem("RunContainerError", message, retry_at);
            }
            Ok(instance) => {
                self.replace(name, instance);
                self.started(name);
                if let Some(exit) = self.early_exits.remove(id) {
                    self.exited(id, exit).await;
                }
            }
        }
    }

    /// `instance` takes the place of the container of that name; what was there is removed.
    fn replace(&mut self, name: &str, instance: Instance) {
        let container = self.state.containers.entry(name.to_owned()).or_default();
        container.problem = None;
        container.image_backoff = super::backoff::Backoff::default();
        container.restarts = instance.attempt;
        let before = container.instance.replace(instance);
        if let Some(before) = before {
            container.last = before.terminated().map(|t| Box::new(TerminatedEq(t))).or(container.last.take());
            self.context.owners.lock().remove(&before.id);
            self.spawn(operations::remove(Arc::clone(&self.context), before.id));
        }
    }

    /// A container runs: hook, then probes.
    fn started(&mut self, name: &str) {
        let Some(spec) = self.pod.spec.container(name).cloned() else { return };
        let address = self.address();
        let container = self.state.containers.entry(name.to_owned()).or_default();
        container.ready = spec.readiness_probe.is_none();
        let Some(id) = container.instance.as_ref().map(|i| i.id.clone()) else { return };
        if spec.lifecycle.post_start.is_some() {
            container.started = false;
            container.operation = Some(Operation::PostStart);
            let context = Arc::clone(&self.context);
            self.spawn(operations::post_start(context, Arc::clone(&self.pod), name.to_owned(), id, address));
        } else {
            container.started = spec.startup_probe.is_none();
        }
        self.begin_probes(name);
    }

    fn post_start_finished(&mut self, name: &str, id: &str, error: Option<String>) {
        let Some(container) = self.state.containers.get_mut(name) else { return };
        if container.instance.as_ref().is_none_or(|i| i.id != id) || !container.is_running() {
            return;
        }
        if container.operation == Some(Operation::PostStart) {
            container.operation = None;
        }
        match error {
            None => {
                let has_startup = self.pod.spec.container(name).is_some_and(|c| c.startup_probe.is_some());
                container.started |= !has_startup;
                self.begin_probes(name);
            }
            Some(error) => {
                let about = About::container(&self.pod, name);
                self.context.events.warning(about, "FailedPostStartHook", format!("PostStartHook failed: {error}"));
                container.unhealthy =
                    Some(Unhealthy { message: "FailedPostStartHook".to_owned(), grace_seconds: None });
            }
        }
    }

    fn address(&self) -> Option<std::net::IpAddr> {
        if self.pod.spec.host_network {
            Some(self.context.host_ip)
        } else {
            self.state.network.done()?.addresses.first().copied()
        }
    }

    /// Containers that were running when the agent started: their probes go on.
    fn watch_adopted(&mut self) {
        let running: Vec<String> =
            self.state.containers.iter().filter(|(_, c)| c.is_running()).map(|(n, _)| n.clone()).collect();
        for name in running {
            self.begin_probes(&name);
        }
        self.resync();
    }

    /// What could not be pulled is shown as waiting for its next pull after a moment. Gives when that is due.
    fn turn_pull_errors(&mut self, now: Timestamp) -> Option<Timestamp> {
        let mut due: Option<Timestamp> = None;
        for (name, container) in &mut self.state.containers {
            let Some(problem) = &mut container.problem else { continue };
            if problem.reason != "ErrImagePull" || container.operation.is_some() {
                continue;
            }
            let at = problem.since.checked_add(ERR_IMAGE_PULL_SHOWN).unwrap_or(now);
            if at > now {
                due = Some(due.map_or(at, |d| d.min(at)));
                continue;
            }
            let image = problem.image.clone().unwrap_or_default();
            let back_off = format!("Back-off pulling image \"{}\"", image.name);
            problem.reason = "ImagePullBackOff".to_owned();
            problem.message = format!("{back_off}: ErrImagePull: {}", problem.message);
            let about = About::container(&self.pod, name);
            let of_image = if image.of_volume { About::pod(&self.pod) } else { about.clone() };
            self.context.events.normal(of_image, "BackOff", back_off);
            self.context.events.warning(about, "Failed", "Error: ImagePullBackOff");
        }
        due
    }

    fn current_status(&self, now: Timestamp) -> PodStatus {
        status::status(&self.pod, &self.state, &self.reported, self.context.host_ip, now)
    }

    /// Sends the status if it has changed; gives when to try again.
    fn report_status(&mut self, now: Timestamp) -> Option<Timestamp> {
        match &self.report {
            Report::Sending | Report::Over => return None,
            Report::RetryAt(at) if *at > now => return Some(*at),
            Report::RetryAt(_) | Report::Idle => {}
        }
        if self.state.removed {
            self.report = Report::Over;
            return None;
        }
        let status = self.current_status(now);
        if status == self.reported {
            self.report = Report::Idle;
            return None;
        }
        self.report = Report::Sending;
        let gone = status::gone_conditions(&self.reported, &status);
        self.spawn(operations::report(Arc::clone(&self.context), self.identity.clone(), status, gone));
        None
    }

    fn report_finished(&mut self, status: PodStatus, result: Result<(), crate::api::ApiError>, now: Timestamp) {
        self.report = match result {
            Ok(()) => {
                self.reported = status;
                Report::Idle
            }
            // Gone, or another pod of that name is there.
            Err(error) if error.is_not_found() || error.is_conflict() => Report::Over,
            Err(error) => {
                tracing::debug!(pod = %self.identity.name, %error, "status not reported yet");
                let jitter = SignedDuration::from_millis(i64::try_from(self.context.random.below(500)).unwrap_or(0));
                Report::RetryAt(now.checked_add(SignedDuration::from_secs(1) + jitter).unwrap_or(now))
            }
        };
    }
}

/// The state of a pod that the agent has not seen before, or not since it started.
fn adopt(context: &Context, pod: &Pod, records: Vec<Record>, rejected: Option<super::state::Rejection>) -> PodState {
    let mut state = PodState {
        rejected,
        started_at: Some(pod.status.start_time.unwrap_or_else(|| status::seconds(context.clock.now()))),
        finished: match pod.status.phase.as_deref() {
            Some("Succeeded") => Some("Succeeded"),
            Some("Failed") => Some("Failed"),
            _ => None,
        },
        resize: Resize::of(pod),
        ..PodState::default()
    };
    for told in pod.status.every_container() {
        let container = state.containers.entry(told.name.clone()).or_default();
        container.restarts = told.restart_count;
        container.last = told.last_state.terminated.clone().map(|t| Box::new(TerminatedEq(t)));
    }
    for record in records {
        let told = pod.status.every_container().find(|s| s.name == record.name);
        adopt_record(pod, &mut state, record, told);
    }
    // One that the API server knows and the runtime has lost: it ended somehow.
    if state.finished.is_none() {
        for told in pod.status.every_container() {
            adopt_lost(context, &mut state, told);
        }
    }
    state
}

fn adopt_record(pod: &Pod, state: &mut PodState, record: Record, told: Option<&crate::api::status::ContainerStatus>) {
    let Some(spec) = pod.spec.container(&record.name) else { return };
    let granted = state.resize.granted.get(&record.name).cloned();
    let container: &mut ContainerState = state.containers.entry(record.name.clone()).or_default();
    if container.instance.as_ref().is_some_and(|i| i.attempt >= record.attempt) {
        return;
    }
    let running = matches!(record.phase, Phase::Running(_));
    let same = told.is_some_and(|t| t.container_id.as_deref() == Some(&format!("containerd://{}", record.id)));
    container.restarts = container.restarts.max(record.attempt);
    container.applied = granted;
    container.started =
        running && (spec.startup_probe.is_none() || same && told.is_some_and(|t| t.started == Some(true)));
    container.ready = running && (spec.readiness_probe.is_none() || same && told.is_some_and(|t| t.ready));
    let terminated = told.and_then(|t| t.state.terminated.as_ref()).filter(|_| same);
    // The runtime knows the time of its creation only; what was reported is the time of its start.
    let reported_start = told.filter(|_| same).and_then(|t| t.state.running.as_ref()?.started_at);
    let phase = match (record.phase, reported_start) {
        (Phase::Running(_), Some(since)) => Phase::Running(since),
        (Phase::Exited(_, exit), Some(since)) => Phase::Exited(Some(since), exit),
        (phase, _) => phase,
    };
    container.instance = Some(Instance {
        id: record.id,
        attempt: record.attempt,
        image: record.image,
        phase,
        message: terminated.and_then(|t| t.message.clone()),
        reason: None,
    });
}

fn adopt_lost(context: &Context, state: &mut PodState, told: &crate::api::status::ContainerStatus) {
    let container = state.containers.entry(told.name.clone()).or_default();
    if container.instance.is_some() {
        return;
    }
    let ended = told.state.terminated.clone().or_else(|| {
        let running = told.state.running.as_ref()?;
        Some(crate::api::status::Terminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was synced".to_owned()),
            started_at: running.started_at,
            finished_at: Some(context.clock.now()),
            container_id: told.container_id.clone(),
            ..crate::api::status::Terminated::default()
        })
    });
    let Some(ended) = ended else { return };
    let id = told.container_id.as_deref().unwrap_or_default().trim_start_matches("containerd://").to_owned();
    container.instance = Some(Instance {
        id,
        attempt: told.restart_count,
        image: crate::runtime::LocalImage {
            name: told.image.clone(),
            id: told.image_id.clone(),
            ..crate::runtime::LocalImage::default()
        },
        phase: Phase::Exited(
            ended.started_at,
            Exit {
                code: ended.exit_code,
                finished_at: ended.finished_at.unwrap_or_else(|| context.clock.now()),
                oom_killed: ended.reason.as_deref() == Some("OOMKilled"),
            },
        ),
        message: ended.message,
        reason: ended.reason,
    });
}

fn failed<T>(step: &Step<T>, message: String, now: Timestamp) -> Step<T> {
    // `Doing` does not remember how often: the wait is the same each time.
    let failures = step.failures() + 1;
    Step::Failed { message, retry_at: now.checked_add(RETRY_AFTER).unwrap_or(now), failures }
}

/// The time from `now` until `at`, as timers want it.
fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}
