//! Who acts where several could: the holder of a Lease (client-go `tools/leaderelection`).
//!
//! A holder renews its lease every two seconds, and stops acting if it could not for ten; the others wait until it has not
//! been renewed for fifteen. They go by how long they have seen the lease unchanged, never by the times in it, so that no
//! two machines' clocks need to agree.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};

use super::api::{Api, ApiError};
use super::kind::LEASE;
use super::meta::Meta;
use super::plan::Note;
use super::recorder::{Recorder, recorder};

/// How long a lease holds that is not renewed (upstream's `--leader-elect-lease-duration`).
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a holder tries to renew it before it stops acting.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries to take or renew it.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// Tries to take it are up to this much further apart, so that not all come at once.
const JITTER_PERCENT: u64 = 120;
/// Where the leases are.
const NAMESPACE: &str = "kube-system";

/// What it takes to stand for election.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The lease's name: `kube-scheduler`.
    pub lease: &'static str,
    /// Who stands: no other process may say the same, and this one after a restart should, for then it need not wait for
    /// its own lease to end.
    pub identity: String,
    /// Requests, by somebody who may have leases.
    pub api: Api,
    /// The time, for the lease.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Lease {
    metadata: Meta,
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    holder_identity: Option<String>,
    lease_duration_seconds: Option<u64>,
    acquire_time: Option<Timestamp>,
    lease_transitions: Option<u64>,
}

impl Spec {
    fn holder(&self) -> &str {
        self.holder_identity.as_deref().unwrap_or_default()
    }
}

/// What is known of the lease.
struct Seen {
    lease: Lease,
    /// When it was first seen like this.
    since: Instant,
}

/// Runs `lead` whenever this candidate is the leader, until `cancel`. What `lead` makes has to end soon after the token it
/// is given; it may be run more than once, one after the other.
pub async fn stand<Led>(candidate: Candidate, cancel: CancellationToken, lead: impl Fn(CancellationToken) -> Led)
where
    Led: Future<Output = ()>,
{
    let (recorder, write_events) =
        recorder(candidate.lease, candidate.api.clone(), candidate.clock.clone(), cancel.clone());
    let mut term = Term { candidate, recorder, seen: None };
    let standing = async {
        while term.acquire(&cancel).await {
            let leading = cancel.child_token();
            let led = lead(leading.clone());
            tokio::pin!(led);
            let lost = tokio::select! {
                biased;
                () = &mut led => false,
                () = term.hold() => true,
            };
            leading.cancel();
            if lost {
                tracing::error!(
                    lease = term.candidate.lease,
                    "the lease could not be renewed; stopping what it is for"
                );
                led.await;
            }
            // Whoever waits for it need not wait until it ends.
            term.release().await;
        }
    };
    tokio::pin!(write_events);
    tokio::select! {
        biased;
        () = standing => {}
        // Ends with `cancel`, which ends the other, too: that has a lease to give back.
        () = async { write_events.await; std::future::pending().await } => {}
    }
}

struct Term {
    candidate: Candidate,
    recorder: Recorder,
    seen: Option<Seen>,
}

impl Term {
    /// Waits until the lease is this candidate's; false if that is not wanted any more.
    async fn acquire(&mut self, cancel: &CancellationToken) -> bool {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return false,
                held = self.try_hold() => if held { break },
            }
            let more = self.candidate.random.below(JITTER_PERCENT);
            let wait = RETRY_PERIOD + RETRY_PERIOD * u32::try_from(more).unwrap_or_default() / 100;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return false,
                () = tokio::time::sleep(wait) => {}
            }
        }
        let Candidate { lease, identity, .. } = &self.candidate;
        tracing::info!(lease, identity, "this is the leader now");
        self.tell("became leader");
        true
    }

    /// Records what has become of the candidate as an event of the lease.
    fn tell(&self, what: &str) {
        if let Some(seen) = &self.seen {
            let message = format!("{} {what}", self.candidate.identity);
            self.recorder.record(Note::normal(seen.lease.metadata.reference(&LEASE), "LeaderElection", message));
        }
    }

    /// Renews the lease for as long as that works.
    async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY_PERIOD).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.try_hold()).await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) if renewed.elapsed() < RENEW_DEADLINE && !self.is_anothers() => {}
                Ok(false) | Err(_) => break,
            }
        }
        self.tell("stopped leading");
    }

    /// Whether the lease, as it was last seen, is somebody else's.
    fn is_anothers(&self) -> bool {
        let holder = self.seen.as_ref().map_or("", |seen| seen.lease.spec.holder());
        !holder.is_empty() && holder != self.candidate.identity
    }

    /// Takes or renews the lease; whether it is this candidate's now.
    async fn try_hold(&mut self) -> bool {
        match self.ask_for_it().await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(lease = self.candidate.lease, %error, "the lease could not be had");
                false
            }
        }
    }

    async fn ask_for_it(&mut self) -> Result<bool, ApiError> {
        let current: Lease = match self.candidate.api.get(&LEASE, NAMESPACE, self.candidate.lease).await {
            Ok(lease) => lease,
            Err(error) if error.is_not_found() => {
                let body = self.body(&Lease::default(), LEASE_DURATION, false);
                let made = self.candidate.api.create(&LEASE, NAMESPACE, &body).await?;
                self.see(read(&made)?);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        self.see(current);
        let Some(Seen { lease, since }) = &self.seen else { return Ok(false) };
        let mine = lease.spec.holder() == self.candidate.identity;
        let holds = Duration::from_secs(lease.spec.lease_duration_seconds.unwrap_or_default());
        if !mine && !lease.spec.holder().is_empty() && since.elapsed() < holds {
            return Ok(false);
        }
        let body = self.body(lease, LEASE_DURATION, mine);
        let written = self.candidate.api.replace(&LEASE, NAMESPACE, self.candidate.lease, "", &body).await?;
        self.see(read(&written)?);
        Ok(true)
    }

    /// Gives the lease back, if it is this candidate's.
    async fn release(&mut self) {
        let Some(Seen { lease, .. }) = &self.seen else { return };
        if lease.spec.holder() != self.candidate.identity {
            return;
        }
        let mut body = self.body(lease, Duration::from_secs(1), true);
        body["spec"]["holderIdentity"] = "".into();
        let released = self.candidate.api.replace(&LEASE, NAMESPACE, self.candidate.lease, "", &body);
        match tokio::time::timeout(RETRY_PERIOD, released).await {
            Ok(Ok(_)) => {}
            // It ends by itself.
            Ok(Err(error)) => tracing::debug!(%error, "the lease could not be given back"),
            Err(_) => tracing::debug!("the lease could not be given back in time"),
        }
        self.seen = None;
    }

    fn see(&mut self, lease: Lease) {
        let revision = |lease: &Lease| lease.metadata.resource_version;
        if self.seen.as_ref().is_none_or(|seen| revision(&seen.lease) != revision(&lease)) {
            self.seen = Some(Seen { lease, since: Instant::now() });
        }
    }

    /// The lease as this candidate holds it.
    fn body(&self, before: &Lease, duration: Duration, mine: bool) -> Value {
        let now = format!("{:.6}", self.candidate.clock.now());
        let acquired = before.spec.acquire_time.filter(|_| mine).map_or_else(|| now.clone(), |at| format!("{at:.6}"));
        let known = !before.metadata.name.is_empty();
        let transitions = before.spec.lease_transitions.unwrap_or_default() + u64::from(known && !mine);
        let mut metadata = json!({"name": self.candidate.lease, "namespace": NAMESPACE});
        if known {
            metadata["resourceVersion"] = before.metadata.resource_version.to_string().into();
        }
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.candidate.identity,
                "leaseDurationSeconds": duration.as_secs(),
                "acquireTime": acquired,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        })
    }
}

fn read(body: &[u8]) -> Result<Lease, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::Decode(error.to_string()))
}
