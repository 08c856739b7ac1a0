//! The probes of a worker's containers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Worker, until};
use crate::events::About;
use crate::pods::state::{Operation, Unhealthy};
use crate::probes::{Counter, Kind, Outcome};
use crate::runtime::Phase;

/// What a probe has found.
pub struct ProbeDone {
    container: String,
    kind: Kind,
    id: String,
    outcome: Outcome,
}

/// The counters of the probes under way: by container and kind, with the container's id.
pub type Probing = BTreeMap<(String, Kind), (String, Counter)>;

impl Worker {
    /// Begins those probes of a running container that are due to begin and do not run yet.
    pub(super) fn begin_probes(&mut self, name: &str) {
        let pod = Arc::clone(&self.pod);
        let Some(spec) = pod.spec.container(name) else { return };
        let Some(instance) = self.state.container(name).instance.clone() else { return };
        let Phase::Running(since) = instance.phase else { return };
        let kinds: &[Kind] = match (&spec.startup_probe, self.state.container(name).started) {
            (Some(_), false) => &[Kind::Startup],
            // Its postStart hook runs.
            (None, false) => return,
            _ => &[Kind::Liveness, Kind::Readiness],
        };
        for kind in kinds {
            let Some(probe) = kind.of(spec) else { continue };
            let key = (name.to_owned(), *kind);
            if self.probing.get(&key).is_some_and(|(id, _)| *id == instance.id) {
                continue;
            }
            self.probing.insert(key, (instance.id.clone(), Counter::new(*kind)));
            let delay = jiff::SignedDuration::from_secs(probe.initial_delay_seconds.max(0));
            let now = self.context.clock.now();
            // A start in the future was noted before the clock was set back.
            let first = until(now, since.min(now).checked_add(delay).unwrap_or(now));
            self.arm(name, *kind, &instance.id, first);
        }
    }

    fn arm(&mut self, name: &str, kind: Kind, id: &str, after: Duration) {
        let (context, pod, address) = (Arc::clone(&self.context), Arc::clone(&self.pod), self.address());
        let (container, id) = (name.to_owned(), id.to_owned());
        self.probes.push(Box::pin(async move {
            tokio::time::sleep(after).await;
            let outcome = match pod.spec.container(&container).and_then(|c| Some((c, kind.of(c)?))) {
                Some((spec, probe)) => {
                    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.max(1)).unwrap_or(1));
                    context.parts.prober.probe(&probe.handler, spec, &id, address, timeout).await
                }
                None => Outcome::Unknown("the container is gone from the pod".to_owned()),
            };
            ProbeDone { container, kind, id, outcome }
        }));
    }

    /// Takes in what a probe has found.
    pub(super) fn probed(&mut self, done: ProbeDone) {
        let ProbeDone { container: name, kind, id, outcome } = done;
        let pod = Arc::clone(&self.pod);
        let Some(probe) = pod.spec.container(&name).and_then(|c| kind.of(c)) else { return };
        let key = (name.clone(), kind);
        let Some((counted, counter)) = self.probing.get_mut(&key).filter(|(counted, _)| *counted == id) else { return };
        let Some(container) = self.state.containers.get_mut(&name) else { return };
        let stopping = matches!(container.operation, Some(Operation::Stopping(_)));
        let same = container.instance.as_ref().is_some_and(|i| i.id == *counted && i.is_running());
        if !same || (stopping && kind != Kind::Readiness) {
            self.probing.remove(&key);
            return;
        }
        let verdict = counter.observe(probe, &outcome);
        let about = || About::container(&pod, &name);
        match &outcome {
            Outcome::Failure(message) => {
                let told = format!("{} probe failed: {message}", kind.title());
                self.context.events.warning(about(), "Unhealthy", told);
            }
            Outcome::Unknown(message) => {
                let told = format!("{} probe errored and resulted in unknown state: {message}", kind.title());
                self.context.events.warning(about(), "Unhealthy", told);
            }
            Outcome::Warned(message) => {
                let told = format!("{} probe warning: {message}", kind.title());
                self.context.events.warning(about(), "ProbeWarning", told);
            }
            Outcome::Success => {}
        }
        match (kind, verdict) {
            (Kind::Readiness, Some(ready)) => container.ready = ready,
            (Kind::Startup, Some(true)) => {
                container.started = true;
                self.probing.remove(&key);
                self.begin_probes(&name);
                return;
            }
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                let what = if kind == Kind::Startup { "startup" } else { "liveness" };
                container.unhealthy = Some(Unhealthy {
                    message: format!("Container {name} failed {what} probe, will be restarted"),
                    grace_seconds: probe.termination_grace_period_seconds,
                });
                self.probing.remove(&key);
                return;
            }
            _ => {}
        }
        let period = Duration::from_secs(u64::try_from(probe.period_seconds.max(1)).unwrap_or(1));
        self.arm(&name, kind, &id, period);
    }
}
